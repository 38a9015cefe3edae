"""The options of a submission, checked when they are made."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from penstock.api_limits import MAX_BATCH_REQUESTS
from penstock.errors import InvalidRequest
from penstock.validation import check_betas, check_headers, is_number

#: Maximum requests of a canary: it shows whether the requests are valid, at the live price.
MAX_CANARY: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmissionOptions:
    """The options of a submission. Raises `InvalidRequest`, which names the option."""

    betas: Sequence[str] = ()  #: beta headers of every request
    headers: Mapping[str, str] = field(
        default_factory=dict
    )  #: ``anthropic-*`` headers of every call
    max_cost_usd: float | None = None  #: the job is paused before it can cost more
    canary: int = 0  #: number of requests that are sent as live calls before all others
    retry_of: str = ""  #: the job whose failed requests this one sends again
    shard_requests: int | None = None  #: maximum requests of a batch, in place of the setting

    def __post_init__(self) -> None:
        check_betas(self.betas)
        check_headers(self.headers)
        cost, canary, shard = self.max_cost_usd, self.canary, self.shard_requests
        if cost is not None and not (is_number(cost) and 0 < cost < math.inf):
            raise InvalidRequest("must be a number of dollars above 0", field="max_cost_usd")
        if not _is_whole(canary) or not 0 <= canary <= MAX_CANARY:
            raise InvalidRequest(f"must be 0 (none) to {MAX_CANARY}", field="canary")
        if shard is not None and not (_is_whole(shard) and 1 <= shard <= MAX_BATCH_REQUESTS):
            raise InvalidRequest(f"must be 1 to {MAX_BATCH_REQUESTS}", field="shard_requests")

    @property
    def all_betas(self) -> tuple[str, ...]:
        """The betas with those of an ``anthropic-beta`` header, sorted, each once."""
        named = [value for name, value in self.headers.items() if _is_beta(name)]
        listed = [beta.strip() for value in named for beta in value.split(",")]
        return check_betas([*self.betas, *filter(None, listed)])

    @property
    def other_headers(self) -> dict[str, str]:
        """The headers without ``anthropic-beta``."""
        return {name: value for name, value in self.headers.items() if not _is_beta(name)}


def _is_beta(name: str) -> bool:
    return name.lower() == "anthropic-beta"


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
