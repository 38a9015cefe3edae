"""Why a batch job is paused and what it raises alerts for; each with what the operator should do.

The records hold the values as plain strings. A newer worker may write values that are not listed
here, and the API may return error types that are not: `PauseReason.of` and `Alert.of` return
None for them, and the message that comes with them is all there is to show.
"""

from enum import StrEnum
from typing import Self


class _Notice(StrEnum):
    """A kind of notice, with its meaning and its remedy in a line each."""

    _value_: str
    meaning: str  #: what has happened
    remedy: str  #: what the operator should do, in the imperative

    def __new__(cls, value: str, meaning: str, remedy: str) -> Self:
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        member.remedy = remedy
        return member

    @classmethod
    def of(cls, value: str) -> Self | None:
        """The member with this value; None if there is none."""
        return next((member for member in cls if member == value), None)


class PauseReason(_Notice):
    """Why nothing more of a job is sent to the API until the operator resumes it.

    Some are error types of the API, under its own names. The remedy comes before resuming the job.
    """

    BILLING_ERROR = (
        "billing_error",
        "the account has no credit left or has reached its spend limit",
        "add credit or raise the spend limit",
    )
    AUTHENTICATION_ERROR = (
        "authentication_error",
        "the workers' API key is missing or not valid",
        "give the workers a valid API key and restart them",
    )
    PERMISSION_ERROR = (
        "permission_error",
        "the workers' API key may not use a model or a feature",
        "grant the permission to the key, or give the workers another key and restart them",
    )
    RATE_LIMIT_ERROR = (
        "rate_limit_error",
        "the organization has reached its spend limit",
        "raise the spend limit, or wait until it is reset",
    )
    INVALID_REQUEST_ERROR = (
        "invalid_request_error",
        "the API rejected a call as invalid",
        "read the message; if the job's own requests or headers are invalid, cancel the job",
    )
    NOT_FOUND_ERROR = (
        "not_found_error",
        "the API cannot find something that a call refers to",
        "read the message; check ANTHROPIC_BASE_URL and the job's beta headers",
    )
    REQUEST_TOO_LARGE = (
        "request_too_large",
        "the API, or a gateway in front of it, rejected a batch as too large",
        (
            "raise the gateway's limit, or lower PENSTOCK_SHARD_BYTES on the workers; if the job "
            "is resumed, its open batches are split"
        ),
    )
    SAME_ERROR = (
        "same_error",
        "most requests of a batch ended in the same error",
        "read the error; resume the job only if its other requests can succeed",
    )
    CANARY_FAILED = (
        "canary_failed",
        "the API rejected a request of the canary",
        "read the error; a resumed job is not paused for its canary a second time",
    )
    CANARY_UNANSWERED = (
        "canary_unanswered",
        "calls of the canary got no usable answer",
        "read the fault; a resumed job makes at most two more calls for each open request",
    )
    COST_LIMIT = (
        "cost_limit",
        "the next batch could cost more than the job's cap leaves",
        "decide whether the job may cost more (--max-cost)",
    )
    PRICE_UNKNOWN = (
        "price_unknown",
        "the job has a cost cap and uses a model whose price is not known",
        "update genai-prices on the workers, or cancel the job and submit it without a cap",
    )
    CANCELED_ELSEWHERE = (
        "canceled_elsewhere",
        "a batch was canceled outside Penstock, for example in the Console",
        "find out who canceled it; its open requests are sent again",
    )
    BATCH_NOT_FOUND = (
        "batch_not_found",
        "the API does not know, or no longer knows, a batch of the job",
        (
            "check whether the batch was deleted or the workers' key belongs to another workspace; "
            "if the job is resumed and the batch is still missing, the job ends as failed"
        ),
    )
    RESULTS_INCOMPLETE = (
        "results_incomplete",
        "results do not match the requests, even after repeated downloads",
        "check whether the API has an incident; the results are downloaded again",
    )
    CREATE_UNANSWERED = (
        "create_unanswered",
        "create calls got no usable answer and created no batch",
        (
            "read the message; check the gateway and the address of the API, and, if connections "
            "are closed, whether a body of this size may pass"
        ),
    )
    OTHER_WORKSPACE = (
        "other_workspace",
        "a create call was made for another workspace than that of the workers' key",
        "give the workers a key of the workspace that the call was made for",
    )
    HTTP_SETTINGS = (
        "http_settings",
        "the workers' proxy, certificates or API address do not work",
        "correct the setting that the message names, and restart the workers",
    )
    STEP_FAILED = (
        "step_failed",
        "a step of a batch failed several times in a row with an error that is not foreseen",
        "read the message and the workers' log; report the error, or fix what causes it",
    )
    RECORD_UNREADABLE = (
        "record_unreadable",
        "the record of a shard in Redis cannot be read, so its step cannot run",
        "read the message; restore the record, or update the workers if a newer one wrote it",
    )
    REQUESTS_MISSING = (
        "requests_missing",
        "stored requests have expired or were removed, or the workers cannot read the spool",
        "check that the workers can read the spool (PENSTOCK_SPOOL_URL)",
    )


class Alert(_Notice):
    """What the operator should check; the job continues."""

    RESULTS_EXPIRE = (
        "results_expire",
        "results of an old batch are not collected (PENSTOCK_RESULTS_ALERT_DAYS)",
        "resume the job or fix what delays it: the API removes results after 29 days",
    )
    RESULTS_EXPIRED = (
        "results_expired",
        (
            "the API has removed the results of a batch; "
            "its requests end with the error results_expired"
        ),
        "submit these requests again if you still need them",
    )
    RESULTS_INCOMPLETE = (
        "results_incomplete",
        (
            "the results of a batch have no line of some requests, even after repeated downloads; "
            "these end with the error result_missing"
        ),
        "look the batch up in the Console; to send these requests again, see retry-failed",
    )
    RESULTS_UNREADABLE = (
        "results_unreadable",
        (
            "result lines of a batch cannot be read; their requests end with the error "
            "unreadable_result, which keeps the line"
        ),
        "read the line with: penstock batch results ID --only errored; see also retry-failed",
    )
    RESULTS_SUPERFLUOUS = (
        "results_superfluous",
        "the API returned more results than there are requests; the extra ones are ignored",
        "report the batch to Anthropic's support if it happens again",
    )
    BATCH_NOT_FOUND = (
        "batch_not_found",
        "the API no longer knows a batch; its requests end with the error batch_not_found",
        "submit these requests again if you still need them",
    )
    DUPLICATE_BATCH = (
        "duplicate_batch",
        "a batch may come from an abandoned create call, after which its requests were sent again",
        "look up the batch in the Console and cancel it if it is a duplicate",
    )
    UNKNOWN_BATCH = (
        "unknown_batch",
        "the dedicated workspace has a batch that no job of this deployment created",
        "find out which program created it, or unset PENSTOCK_DEDICATED_WORKSPACE",
    )
    API_UNREACHABLE = (
        "api_unreachable",
        "calls of the API have not reached it for minutes; they are repeated",
        "read the message; check the network, the proxy and ANTHROPIC_BASE_URL of the workers",
    )
    API_FAILING = (
        "api_failing",
        "calls of the API have failed for minutes; they are repeated",
        "read the message; check the API's status page, and the gateway if there is one",
    )
    SPOOL_UNAVAILABLE = (
        "spool_unavailable",
        "a worker cannot use the spool; it tries again every minute",
        "read the message; check PENSTOCK_SPOOL_URL and its credentials on the workers",
    )
    STEP_FAILED = (
        "step_failed",
        (
            "a step of a canceled job failed several times in a row with an error that is not "
            "foreseen; the requests of its batch end with the error step_failed"
        ),
        "read the message and the workers' log; report the error",
    )
    REQUESTS_MISSING = (
        "requests_missing",
        "failed requests are no longer stored, so their errors are final",
        "submit these requests again if you still need them",
    )
