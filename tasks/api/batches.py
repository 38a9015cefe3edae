"""The Message Batches API as the create step uses it: raw JSON, and whose account it is.

An answer may come from a gateway that knows nothing of batches, so nothing is taken from it that
does not look as the API's own does.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import anthropic
import httpx2
import orjson

from tasks.api.client import UnexpectedResponse
from tasks.batches.create.body import Upload

BATCHES: Final = "/v1/messages/batches"
MESSAGES: Final = "/v1/messages"

#: Batches of one page of the list: the API's limit, and enough to know what is newest.
_PAGE: Final = 1000
_NEWEST: Final = 20
#: How often a list is begun anew because a batch was deleted while it was read.
_TRIES: Final = 3


@dataclass(frozen=True, slots=True)
class ListedBatch:
    """A batch as the API's list shows it."""

    id: str
    created_ms: int
    requests: int
    status: str = "in_progress"


@dataclass(frozen=True, slots=True)
class Listing:
    """The newest batches of the API's list."""

    workspace: str  #: organization and workspace that the list is of
    batches: tuple[ListedBatch, ...]  #: newest first


class BatchesApi:
    """The API, called with a job's headers."""

    def __init__(
        self, api: anthropic.Anthropic, headers: Mapping[str, str], betas: tuple[str, ...] = ()
    ) -> None:
        self._api = api
        self._headers = merged(headers, betas)

    def newest(self) -> Listing:
        """The newest few batches. Raises `anthropic.APIError`, `UnexpectedResponse`."""
        response = self._get({"limit": _NEWEST})
        return Listing(self._account(response), tuple(_listed(each) for each in _data(response)))

    def since(self, time_ms: int) -> Listing:
        """At least all batches made since. Raises `anthropic.APIError`, `UnexpectedResponse`."""
        for _ in range(_TRIES):
            try:
                return self._since(time_ms)
            except anthropic.NotFoundError:
                continue  # the last of a page was deleted before the next was asked for
        raise UnexpectedResponse("the list of batches changes too fast to be read")

    def create(self, upload: Upload, size: int) -> ListedBatch:
        """Make a batch. Raises `anthropic.APIError`, `UnexpectedResponse`, what `upload` raises."""
        headers = {"content-type": "application/json", "content-length": str(size)}
        response = self._api.post(
            BATCHES,
            cast_to=httpx2.Response,
            content=upload,
            options={"headers": self._headers | headers, "max_retries": 0},
        )
        return _listed(_json(response))

    def cancel(self, id: str) -> None:
        """Begin to cancel a batch."""
        self._api.post(
            f"{BATCHES}/{id}/cancel",
            cast_to=httpx2.Response,
            options={"headers": self._headers},
        )

    def message(self, params: bytes) -> bytes:
        """Make one live call; the message as the API gave it, on one line."""
        headers = {"content-type": "application/json"}
        response = self._api.post(
            MESSAGES,
            cast_to=httpx2.Response,
            content=params,
            options={"headers": self._headers | headers, "max_retries": 0},
        )
        message = _json(response)
        if message.get("type") != "message":
            raise UnexpectedResponse("the answer to a live call is no message")
        return response.content if b"\n" not in response.content else orjson.dumps(message)

    def _since(self, time_ms: int) -> Listing:
        params: dict[str, Any] = {"limit": _PAGE}
        found: list[ListedBatch] = []
        while True:
            response = self._get(params)
            page = [_listed(each) for each in _data(response)]
            found += page
            more = _json(response).get("has_more")
            if not more or not page or page[-1].created_ms < time_ms:
                return Listing(self._account(response), tuple(found))
            if params.get("after_id") == page[-1].id:
                raise UnexpectedResponse("the list of batches has no end")
            params["after_id"] = page[-1].id

    def _get(self, params: Mapping[str, Any]) -> httpx2.Response:
        return self._api.get(
            BATCHES,
            cast_to=httpx2.Response,
            options={"params": params, "headers": self._headers},
        )

    def _account(self, response: httpx2.Response) -> str:
        names = ("anthropic-organization-id", "anthropic-workspace-id")
        told = [response.headers.get(name, "") for name in names]
        if told[0]:
            return "/".join(told)
        # A gateway that drops the headers: the address and the key stand for the account.
        secret = self._api.api_key or self._api.auth_token or ""
        workspace = self._headers.get(names[1], "")
        facts = f"{self._api.base_url}|{secret}|{workspace}"
        return hashlib.sha256(facts.encode()).hexdigest()[:12]


def merged(headers: Mapping[str, str], betas: tuple[str, ...]) -> dict[str, str]:
    """A job's headers, with these betas besides those that it has itself."""
    own = {name.lower(): value for name, value in headers.items()}
    named = [each.strip() for each in own.pop("anthropic-beta", "").split(",")]
    every = dict.fromkeys(each for each in (*named, *betas) if each)
    return own | ({"anthropic-beta": ",".join(every)} if every else {})


def _data(response: httpx2.Response) -> Iterator[Any]:
    data = _json(response).get("data")
    if not isinstance(data, list):
        raise UnexpectedResponse("the list of batches is none")
    yield from data


def _json(response: httpx2.Response) -> dict[str, Any]:
    try:
        value = orjson.loads(response.content)
    except orjson.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        raise UnexpectedResponse("the answer is no JSON object")
    return value


def _listed(batch: Any) -> ListedBatch:
    try:
        return ListedBatch(
            id=str(batch["id"]),
            created_ms=int(datetime.fromisoformat(batch["created_at"]).timestamp() * 1000),
            requests=sum(int(count) for count in batch["request_counts"].values()),
            status=str(batch["processing_status"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UnexpectedResponse("the answer is no batch") from error
