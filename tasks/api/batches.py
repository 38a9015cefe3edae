"""The Message Batches API, called with the headers of one job.

A response may come from a gateway that knows nothing of batches, so every response is checked
before anything is taken from it.
"""

import contextlib
import hashlib
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final, cast

import anthropic
import httpx2
from anthropic.types.messages import MessageBatch

from penstock import json_text
from penstock.clock import now_ms
from penstock.simulator.mark import is_simulated
from penstock.spool.chunks import CHUNK_BYTES
from tasks.api.client import UnexpectedResponse
from tasks.api.excerpt import excerpt, excerpt_of_value
from tasks.api.gzip_body import plain
from tasks.api.live_message import read_message, until

BATCHES: Final = "/v1/messages/batches"
MESSAGES: Final = "/v1/messages"

#: Batches on a page of the list: the API's maximum, and enough to know the newest.
_PAGE: Final = 1000
_NEWEST: Final = 20
#: Maximum number of times the list is read from its start because a batch on it was deleted.
_TRIES: Final = 3


#: Number of requests of a batch whose counts cannot be read.
UNKNOWN_REQUESTS: Final = -1

#: Milliseconds by which a time may be in the future: the worker's clock can be wrong too.
_FUTURE_MS: Final = 3_600_000

#: The id of a batch, which is a part of the addresses of its calls.
_ID: Final = re.compile(r"[\w-]{1,200}", re.ASCII)


class _PageGone(Exception):
    """The batch that a page of the list begins after is not there any more."""


@dataclass(frozen=True, slots=True)
class ListedBatch:
    """A batch as the API's list shows it."""

    id: str
    created_ms: int
    requests: int  #: `UNKNOWN_REQUESTS` if the list does not say
    status: str = "in_progress"
    simulated: bool = False  #: the simulator has created it
    dated: bool = True  #: the API said when; otherwise ``created_ms`` is the time of reading


@dataclass(frozen=True, slots=True)
class Listing:
    """The newest batches of the API's list."""

    workspace: str  #: organization and workspace that own the list
    batches: tuple[ListedBatch, ...]  #: newest first
    api_now_ms: int = 0  #: the API's clock at the end of the list; 0: the response did not say


class BatchesApi:
    """The API, called with a job's headers. One of them may name the workspace, and a batch can
    only be seen in the workspace it was created in.

    Every method raises `anthropic.APIError`, and `UnexpectedResponse` for a response that the API
    would not give.
    """

    def __init__(
        self, api: anthropic.Anthropic, headers: Mapping[str, str], betas: tuple[str, ...] = ()
    ) -> None:
        self._api = api
        self._headers = merged(headers, betas)
        self.simulated = False  #: the simulator has answered a live call

    def newest(self) -> Listing:
        """List the newest few batches.

        An entry that is not a batch is left out of every list: it may be another program's, and
        must not stop the shards of all jobs.
        """
        response = self._get({"limit": _NEWEST})
        return self._listing(response, _listed_in(_entries(_json(response)), response))

    def since(self, time_ms: int) -> Listing:
        """List all batches created since ``time_ms``, and possibly some older ones.

        Raises `UnexpectedResponse` for a list without a single readable batch: those of Penstock
        look like all others, so it does not prove that a batch does not exist.
        """
        for _ in range(_TRIES):
            try:
                return self._since(time_ms)
            except _PageGone:
                continue  # the last batch of a page was deleted before the next page was read
        raise UnexpectedResponse("the list of batches changes too fast to be read")

    def create(self, body: Iterable[bytes], size: int) -> ListedBatch:
        """Create a batch from a body of ``size`` bytes. Also raises what ``body`` raises."""
        headers = {"content-type": "application/json", "content-length": str(size)}
        response = self._api.post(
            BATCHES,
            cast_to=httpx2.Response,
            content=body,
            options={"headers": self._headers | headers, "max_retries": 0},
        )
        return _listed(_json(response), response.headers)

    def retrieve(self, id: str, *, timeout: httpx2.Timeout) -> MessageBatch:
        """Read the status of a batch."""
        batches = self._api.messages.batches
        return _batch(lambda: batches.retrieve(id, extra_headers=self._headers, timeout=timeout))

    def cancel(self, id: str, *, timeout: httpx2.Timeout | None = None) -> MessageBatch:
        """Start to cancel a batch. Without ``timeout``, that of the client applies."""
        batches = self._api.messages.batches
        limit = anthropic.NOT_GIVEN if timeout is None else timeout
        return _batch(lambda: batches.cancel(id, extra_headers=self._headers, timeout=limit))

    @contextlib.contextmanager
    def results(self, id: str, *, timeout: httpx2.Timeout) -> Iterator[Iterator[bytes]]:
        """Download the results of a batch: raw bytes, in pieces. Use it in a ``with`` statement.

        The SDK's own reader takes 64 bytes at a time and calls the address in ``results_url``,
        which may differ from the base URL that the worker is configured with.
        """
        response = cast(
            httpx2.Response,
            self._api.get(
                f"{BATCHES}/{id}/results",
                cast_to=httpx2.Response,
                stream=True,
                stream_cls=anthropic.Stream[Any],
                options={
                    "timeout": timeout,
                    "headers": {
                        **self._headers,
                        "accept": "application/x-jsonl, application/binary",
                        # Decompressing takes longer than a local network does.
                        "accept-encoding": "identity",
                    },
                },
            ),
        )
        with contextlib.closing(response):
            encoded = response.headers.get("content-encoding", "identity") != "identity"
            yield response.iter_bytes(CHUNK_BYTES) if encoded else plain(response.iter_raw())

    def message(self, params: bytes, *, timeout: httpx2.Timeout, total_s: float) -> bytes:
        """Make one live call, as a stream; returns the complete message as JSON on one line.

        ``total_s``: maximum seconds of the answer.

        Also raises `httpx2.HTTPError` if the connection breaks during the answer.
        """
        response = cast(
            httpx2.Response,
            self._api.post(
                MESSAGES,
                cast_to=httpx2.Response,
                content=b'{"stream":true,' + params.lstrip()[1:],
                stream=True,
                stream_cls=anthropic.Stream[Any],
                options={
                    "headers": self._headers
                    | {"content-type": "application/json", "accept-encoding": "identity"},
                    "max_retries": 0,
                    "timeout": timeout,
                },
            ),
        )
        self.simulated = self.simulated or is_simulated(response.headers)
        with contextlib.closing(response):
            pieces = until(time.monotonic() + total_s, plain(response.iter_bytes()), time.monotonic)
            return json_text.dumps(read_message(pieces))

    def _since(self, time_ms: int) -> Listing:
        params: dict[str, Any] = {"limit": _PAGE}
        found: list[ListedBatch] = []
        read: set[str] = set()  # the last ids of the pages
        while True:
            try:
                response = self._get(params)
            except anthropic.NotFoundError as error:
                if "after_id" in params:
                    raise _PageGone from error
                raise
            fields = _json(response)
            entries = _entries(fields)
            page = _listed_in(entries, response)
            found += page
            if entries and not found:
                raise UnexpectedResponse("the response is a list without a readable batch")
            # Not only the last of them: its time may be an odd one.
            older = page and all(batch.created_ms < time_ms for batch in page)
            if older or not (entries and fields.get("has_more")):
                return self._listing(response, tuple(found))
            last = _id_of(entries[-1]) or found[-1].id
            if last in read:
                raise UnexpectedResponse("the list of batches has no end")
            read.add(last)
            params["after_id"] = last

    def _get(self, params: Mapping[str, Any]) -> httpx2.Response:
        return self._api.get(
            BATCHES,
            cast_to=httpx2.Response,
            options={"params": params, "headers": self._headers},
        )

    def _listing(self, response: httpx2.Response, batches: tuple[ListedBatch, ...]) -> Listing:
        return Listing(self._workspace(response), batches, _clock_ms(response.headers))

    def _workspace(self, response: httpx2.Response) -> str:
        names = ("anthropic-organization-id", "anthropic-workspace-id")
        found = [response.headers.get(name, "") for name in names]
        if found[0]:
            return "/".join(found)
        # A gateway has dropped the headers: the base URL and the key identify the workspace.
        secret = self._api.api_key or self._api.auth_token or ""
        workspace = self._headers.get(names[1], "")
        identity = f"{self._api.base_url}|{secret}|{workspace}"
        return hashlib.sha256(identity.encode()).hexdigest()[:12]


def merged(headers: Mapping[str, str], betas: tuple[str, ...]) -> dict[str, str]:
    """Add beta headers to those of a job, which may name some itself."""
    own = {name.lower(): value for name, value in headers.items()}
    named = [each.strip() for each in own.pop("anthropic-beta", "").split(",")]
    every = dict.fromkeys(each for each in (*named, *betas) if each)
    return own | ({"anthropic-beta": ",".join(every)} if every else {})


def _json(response: httpx2.Response) -> dict[str, Any]:
    try:
        value = json_text.loads(response.content)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        begins = excerpt(response.content) or "empty"
        raise UnexpectedResponse(f"the response is not a JSON object: {begins}")
    return value


def _entries(page: Mapping[str, Any]) -> list[Any]:
    entries = page.get("data")
    if not isinstance(entries, list):
        raise UnexpectedResponse("the response is not a list of batches")
    return entries


def _batch(call: Callable[[], Any]) -> MessageBatch:
    # The SDK returns whatever a gateway sends in place of the API's response, and lets the error
    # of the JSON parser through.
    try:
        response = call()
    except json.JSONDecodeError as error:
        raise UnexpectedResponse("the response is not JSON") from error
    if not isinstance(response, MessageBatch) or not isinstance(
        getattr(response, "processing_status", None), str
    ):
        raise UnexpectedResponse("the response is not a batch")
    for name in ("cancel_initiated_at", "archived_at"):
        # The SDK leaves what it cannot read as a time as it is.
        if not isinstance(getattr(response, name, None), datetime | None):
            setattr(response, name, None)
    return response


def _listed_in(entries: Iterable[Any], response: httpx2.Response) -> tuple[ListedBatch, ...]:
    """Return the batches of a page, without the entries that are none."""
    found: list[ListedBatch] = []
    for entry in entries:
        with contextlib.suppress(UnexpectedResponse):
            found.append(_listed(entry, response.headers))
    return tuple(found)


def _listed(batch: Any, headers: Mapping[str, str]) -> ListedBatch:
    """Read a batch by its id. Raises `UnexpectedResponse` if it has none.

    What else cannot be read is unknown, for the batch may be paid for: its time is now then, and
    so is a time that has not come yet.
    """
    id = _id_of(batch)
    if not id:
        raise UnexpectedResponse(f"the response is not a batch: {excerpt_of_value(batch)}")
    status = batch.get("processing_status")
    created_ms, latest = _time_ms(batch.get("created_at")), now_ms()
    return ListedBatch(
        id=id,
        created_ms=latest if created_ms is None else min(created_ms, latest),
        dated=created_ms is not None and created_ms <= latest + _FUTURE_MS,
        requests=_requests(batch.get("request_counts")),
        status=status if isinstance(status, str) else "in_progress",
        simulated=is_simulated(headers),
    )


def _time_ms(text: Any) -> int | None:
    try:
        return max(0, int(datetime.fromisoformat(text).timestamp() * 1000))
    except (TypeError, ValueError, OverflowError):
        return None


def _clock_ms(headers: httpx2.Headers) -> int:
    try:
        return int(parsedate_to_datetime(headers["date"]).timestamp() * 1000)
    except (KeyError, TypeError, ValueError, OverflowError):
        return 0


def _requests(counts: Any) -> int:
    try:
        return sum(int(count) for count in counts.values())
    except (AttributeError, TypeError, ValueError, OverflowError):
        return UNKNOWN_REQUESTS


def _id_of(batch: Any) -> str:
    """Return the id of a batch; empty: it has none."""
    id = batch.get("id") if isinstance(batch, dict) else None
    return id if isinstance(id, str) and _ID.fullmatch(id) else ""
