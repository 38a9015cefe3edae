"""What somebody can do about a batch job that is paused, in a line each; pure."""

from typing import Final

from penstock.batches.view import Batch

#: Type of a pause → what has to be put right before the job is resumed.
REMEDIES: Final = {
    "billing_error": "add credit to the account",
    "authentication_error": "give the workers a valid API key",
    "permission_error": "let the workers' API key use this model or feature",
    "canceled_elsewhere": "find out who canceled the batch; what it left open is sent again",
    "same_error": "look at the error; what is open may well end in the same",
    "canary_failed": "look at the error; what is open may well end in the same",
    "cost_limit": "decide whether it may cost more",
    "price_unknown": "update genai-prices on the workers, or submit without --max-cost",
    "batch_not_found": "see in the Console whether somebody deleted the batch, and whether the "
    "workers' key is of its workspace; without it the job goes on, and fails at its end",
    "results_incomplete": "see whether the API has trouble; the results are downloaded again",
    "other_account": "give the workers a key of the workspace that the call was made for",
    "requests_missing": "see whether the workers reach the place where requests are stored "
    "(PENSTOCK_SPOOL_URL)",
}


def remedy(job: Batch) -> str:
    """What to do about a paused job."""
    assert job.paused is not None
    command = f"penstock batch resume {job.id}"
    if job.paused.type == "cost_limit":
        command += " --max-cost USD"
    if job.paused.type == "requests_missing":
        command += f"; if they are gone for good: penstock batch cancel {job.id}"
    what = REMEDIES.get(job.paused.type, "put it right")
    return f"{what}, then: {command}"
