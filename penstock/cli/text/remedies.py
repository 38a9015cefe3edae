"""What the operator should do about a paused job or an alert, in one line; pure."""

from typing import Final

from penstock.batches.notices import Alert, PauseReason
from penstock.batches.view import Batch, Notice

#: For pause reasons and alerts of a newer worker, and for error types that the API has added.
_UNKNOWN: Final = "read the message"


def pause_remedy(job: Batch) -> str:
    """Return what to do about a paused job, with the command that resumes it."""
    assert job.paused is not None
    reason = PauseReason.of(job.paused.type)
    command = f"penstock batch resume {job.id}"
    if reason is PauseReason.COST_LIMIT:
        command += " --max-cost USD"
    if reason is PauseReason.REQUESTS_MISSING:
        command += f"; if they are gone for good: penstock batch cancel {job.id}"
    return f"{reason.remedy if reason else _UNKNOWN}, then: {command}"


def alert_remedy(alert: Notice) -> str:
    """Return what to do about an alert."""
    known = Alert.of(alert.type)
    return known.remedy if known else _UNKNOWN
