"""The Batches API over HTTP: what is sent, and which responses are refused."""

import gzip
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from typing import Any

import anthropic
import httpx2
import orjson
import pytest

from penstock import json_text
from penstock.clock import now_ms
from penstock.spool.chunks import CHUNK_BYTES
from tasks.api.batches import UNKNOWN_REQUESTS, BatchesApi, ListedBatch, merged
from tasks.api.client import UnexpectedResponse
from tasks.api.gzip_body import plain

TIMEOUT = httpx2.Timeout(5.0)
BATCH: dict[str, Any] = {
    "id": "msgbatch_1",
    "type": "message_batch",
    "created_at": "2026-01-01T00:00:00Z",
    "expires_at": "2026-01-02T00:00:00Z",
    "processing_status": "in_progress",
    "request_counts": {
        "processing": 3,
        "succeeded": 0,
        "errored": 0,
        "canceled": 0,
        "expired": 0,
    },
}
CREATED_MS = 1_767_225_600_000


@contextmanager
def calling(
    answer: Callable[[httpx2.Request], httpx2.Response], **headers: str
) -> Iterator[BatchesApi]:
    """The API of a job with these headers, whose responses ``answer`` makes."""
    http = httpx2.Client(transport=httpx2.MockTransport(answer))
    with anthropic.Anthropic(api_key="k", http_client=http, max_retries=0) as api:
        yield BatchesApi(api, headers)


def _reply(body: bytes, _: httpx2.Request) -> httpx2.Response:
    return httpx2.Response(200, content=body)


def page(*batches: Any, more: bool = False) -> httpx2.Response:
    return httpx2.Response(200, json={"data": list(batches), "has_more": more})


HTML = httpx2.Response(200, html="<html>Log in</html>")
BROKEN_JSON = httpx2.Response(200, content=b'{"id":', headers={"content-type": "application/json"})


def test_a_batch_is_created_from_any_iterable_of_bytes() -> None:
    sent: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        request.read()
        sent.append(request)
        return httpx2.Response(200, json=BATCH)

    with calling(answer, workspace="w") as api:
        batch = api.create(iter([b'{"requests"', b":[]}"]), 15)
    assert batch == ListedBatch("msgbatch_1", CREATED_MS, 3)
    assert sent[0].content == b'{"requests":[]}'
    assert sent[0].headers["content-length"] == "15"
    assert sent[0].headers["workspace"] == "w"


@pytest.mark.parametrize("response", [HTML, BROKEN_JSON], ids=["html", "broken JSON"])
@pytest.mark.parametrize(
    "call",
    [
        lambda api: api.newest(),
        lambda api: api.since(0),
        lambda api: api.create([b"{}"], 2),
        lambda api: api.retrieve("msgbatch_1", timeout=TIMEOUT),
        lambda api: api.cancel("msgbatch_1"),
        lambda api: api.message(b"{}", timeout=TIMEOUT, total_s=60),
    ],
)
def test_an_html_page_or_broken_json_in_place_of_a_response_is_refused(
    call: Callable[[BatchesApi], object], response: httpx2.Response
) -> None:
    with calling(lambda _: response) as api, pytest.raises(UnexpectedResponse):
        call(api)


@pytest.mark.parametrize("odd", [None, "soon", 7, ["x"], {"a": 1}, "9999-99-99T00:00:00Z"])
@pytest.mark.parametrize(
    "field", ["request_counts", "cancel_initiated_at", "ended_at", "archived_at", "results_url"]
)
def test_the_status_of_a_batch_is_read_whatever_its_other_fields_are(
    field: str, odd: object
) -> None:
    with calling(lambda _: httpx2.Response(200, json={**BATCH, field: odd})) as api:
        batch = api.retrieve("msgbatch_1", timeout=TIMEOUT)
    assert batch.processing_status == "in_progress"
    assert isinstance(batch.cancel_initiated_at, datetime | None)
    assert isinstance(batch.archived_at, datetime | None)


@pytest.mark.parametrize("odd", [None, 7, ["ended"], {"a": 1}])
def test_a_batch_whose_status_is_not_a_string_is_refused(odd: object) -> None:
    response = httpx2.Response(200, json={**BATCH, "processing_status": odd})
    with calling(lambda _: response) as api, pytest.raises(UnexpectedResponse):
        api.retrieve("msgbatch_1", timeout=TIMEOUT)


def test_the_list_is_read_until_a_batch_is_older() -> None:
    old = {**BATCH, "id": "msgbatch_old", "created_at": "2025-01-01T00:00:00Z"}
    pages = iter([page(BATCH, more=True), page(old, more=True)])
    asked: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(request.url.params.get("after_id", ""))
        return next(pages)

    with calling(answer) as api:
        listing = api.since(CREATED_MS)
    assert [batch.id for batch in listing.batches] == ["msgbatch_1", "msgbatch_old"]
    assert asked == ["", "msgbatch_1"]


def test_the_list_is_read_from_its_start_if_the_last_batch_of_a_page_was_deleted() -> None:
    gone = {"type": "error", "error": {"type": "not_found_error", "message": "no such batch"}}
    answers = iter([page(BATCH, more=True), httpx2.Response(404, json=gone), page(BATCH)])
    with calling(lambda _: next(answers)) as api:
        assert [batch.id for batch in api.since(0).batches] == ["msgbatch_1"]


ODD_ENTRIES: list[Any] = [
    "msgbatch_2",
    [],
    {**BATCH, "id": None},
    {},
    7,
    None,
    {"id": None},
    {"id": ""},
    {"id": "../files"},
    {"id": "a b"},
    {"id": ["x"]},
]
#: As the JSON of a response has them; 1e999 is read as infinity.
ODD_FIELDS = [
    '"created_at": null',
    '"created_at": 5',
    '"created_at": "never"',
    '"created_at": "0001-01-01T00:00:00"',
    '"created_at": "9999-12-31T23:59:59Z"',
    '"request_counts": [1]',
    '"request_counts": {"processing": "many"}',
    '"request_counts": {"processing": null}',
    '"request_counts": {"processing": 1e999}',
    '"processing_status": [1]',
]


@pytest.mark.parametrize("odd", ODD_ENTRIES, ids=str)
def test_an_entry_of_the_list_that_is_not_a_batch_hides_no_other_batch(odd: object) -> None:
    with calling(lambda _: httpx2.Response(200, json={"data": [odd, BATCH]})) as api:
        assert [batch.id for batch in api.newest().batches] == ["msgbatch_1"]
        assert [batch.id for batch in api.since(0).batches] == ["msgbatch_1"]


@pytest.mark.parametrize("odd", ODD_ENTRIES, ids=str)
def test_a_response_to_a_create_call_without_a_usable_id_is_refused(odd: object) -> None:
    response = httpx2.Response(200, json=odd)
    with calling(lambda _: response) as api, pytest.raises(UnexpectedResponse):
        api.create([b"{}"], 2)


@pytest.mark.parametrize("odd", ODD_FIELDS)
def test_a_batch_with_an_id_is_listed_whatever_its_other_fields_are(odd: str) -> None:
    entry = orjson.dumps(BATCH).decode()[:-1] + f", {odd}" + "}"
    before = now_ms()
    with calling(lambda _: httpx2.Response(200, content=f'{{"data": [{entry}]}}')) as api:
        [batch] = api.newest().batches
    assert batch.id == "msgbatch_1"
    if "created_at" in odd and "0001" not in odd:
        assert before <= batch.created_ms <= now_ms(), "a watermark must not be in the future"
    if "counts" in odd:
        assert batch.requests == UNKNOWN_REQUESTS


def test_pages_of_the_list_that_repeat_are_not_read_forever() -> None:
    other = {**BATCH, "id": "msgbatch_2"}
    pages = itertools.cycle([page(BATCH, more=True), page(other, more=True)])
    with calling(lambda _: next(pages)) as api, pytest.raises(UnexpectedResponse, match="no end"):
        api.since(0)


@pytest.mark.parametrize("size", [1, 2, 7, 10_000_000])
def test_results_that_are_gzip_without_a_header_are_decompressed(size: int) -> None:
    lines = b'{"custom_id":"a"}\n' * 100_000
    packed = gzip.compress(lines)
    assert b"".join(plain(packed[at : at + size] for at in range(0, len(packed), size))) == lines
    body = httpx2.Response(200, content=iter([packed]))
    with calling(lambda _: body) as api, api.results("msgbatch_1", timeout=TIMEOUT) as pieces:
        assert b"".join(pieces) == lines


@pytest.mark.parametrize("size", [1, 7, 10_000_000])
def test_results_in_several_members_of_gzip_are_read_in_bounded_pieces(size: int) -> None:
    lines = b'{"custom_id":"a"}\n' * 100_000
    packed = gzip.compress(lines[:700]) + gzip.compress(b"") + gzip.compress(lines[700:])
    packed += b"\0" * 8
    pieces = list(plain(packed[at : at + size] for at in range(0, len(packed), size)))
    assert b"".join(pieces) == lines
    assert max(map(len, pieces)) <= CHUNK_BYTES


@pytest.mark.parametrize("end", [3, 20, -1])
def test_gzip_that_is_cut_is_an_interrupted_download(end: int) -> None:
    packed = gzip.compress(b'{"custom_id":"a"}\n' * 1_000)
    with pytest.raises(httpx2.DecodingError):
        list(plain(iter([packed[:end]])))
    with pytest.raises(httpx2.DecodingError):
        list(plain(iter([packed[:10] + b"damaged, all of it"])))


@pytest.mark.parametrize("odd", ODD_ENTRIES)
def test_an_entry_of_the_list_that_is_not_a_batch_is_left_out(odd: Any) -> None:
    other = {**BATCH, "id": "msgbatch_2"}
    for entries in ([odd, BATCH, other], [BATCH, odd, other], [BATCH, other, odd]):
        body = json_text.dumps({"data": entries, "has_more": False})
        with calling(partial(_reply, body)) as api:
            for listing in (api.newest(), api.since(0)):
                assert [batch.id for batch in listing.batches] == ["msgbatch_1", "msgbatch_2"]


@pytest.mark.parametrize("odd", [None, {"id": 5}])
def test_the_list_continues_after_a_page_that_ends_with_something_else(odd: Any) -> None:
    other = {**BATCH, "id": "msgbatch_2"}
    pages = iter([page(BATCH, odd, more=True), page(other)])
    with calling(lambda _: next(pages)) as api:
        assert [batch.id for batch in api.since(0).batches] == ["msgbatch_1", "msgbatch_2"]


def test_a_batch_with_an_odd_time_does_not_end_the_list() -> None:
    odd = {**BATCH, "id": "msgbatch_odd", "created_at": "0001-01-01T00:00:00Z"}
    other = {**BATCH, "id": "msgbatch_2"}
    pages = iter([page(BATCH, odd, more=True), page(other)])
    with calling(lambda _: next(pages)) as api:
        assert "msgbatch_2" in [batch.id for batch in api.since(CREATED_MS).batches]


def test_half_a_surrogate_pair_in_another_batch_of_the_list_does_no_harm() -> None:
    body = b'{"data":[%s,{"id":"\\ud83d"}],"has_more":false}' % orjson.dumps(BATCH)
    with calling(lambda _: httpx2.Response(200, content=body)) as api:
        assert [batch.id for batch in api.since(0).batches] == ["msgbatch_1"]


def test_a_list_without_a_readable_batch_does_not_prove_that_a_batch_is_missing() -> None:
    with calling(lambda _: page({"id": None})) as api:
        assert api.newest().batches == ()
        with pytest.raises(UnexpectedResponse, match="without a readable batch"):
            api.since(0)


@pytest.mark.parametrize("encoded", [False, True])
def test_results_are_raw_bytes_whether_the_response_is_compressed_or_not(encoded: bool) -> None:
    lines = b'{"custom_id":"a"}\n' * 3

    def answer(request: httpx2.Request) -> httpx2.Response:
        assert request.url.path == "/v1/messages/batches/msgbatch_1/results"
        assert request.headers["accept-encoding"] == "identity"
        body = gzip.compress(lines) if encoded else lines
        headers = {"content-encoding": "gzip"} if encoded else {}
        return httpx2.Response(200, content=iter([body]), headers=headers)

    with calling(answer) as api, api.results("msgbatch_1", timeout=TIMEOUT) as pieces:
        assert b"".join(pieces) == lines


def test_a_live_message_is_returned_on_one_line() -> None:
    message = {"type": "message", "content": []}
    spread_out = orjson.dumps(message, option=orjson.OPT_INDENT_2)
    with calling(lambda _: httpx2.Response(200, content=spread_out)) as api:
        assert api.message(b"{}", timeout=TIMEOUT, total_s=60) == orjson.dumps(message)


def test_the_workspace_is_named_by_the_response_or_else_identified_by_the_key() -> None:
    headers = {"anthropic-organization-id": "o", "anthropic-workspace-id": "w"}
    named = httpx2.Response(200, json={"data": []}, headers=headers)
    with calling(lambda _: named) as api:
        assert api.newest().workspace == "o/w"
    found = []
    for workspace in ("one", "one", "two"):
        with calling(lambda _: page(), **{"anthropic-workspace-id": workspace}) as api:
            found.append(api.newest().workspace)
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(
    ("own", "betas", "sent"),
    [
        ({}, (), {}),
        ({}, ("a", "b"), {"anthropic-beta": "a,b"}),
        (
            {"Anthropic-Beta": "a, b", "X-Y": "1"},
            ("b", "c"),
            {"x-y": "1", "anthropic-beta": "a,b,c"},
        ),
    ],
)
def test_betas_of_a_shard_are_added_to_those_of_the_job_once(
    own: dict[str, str], betas: tuple[str, ...], sent: dict[str, str]
) -> None:
    assert merged(own, betas) == sent
