"""Malformed responses on demand, as clients receive them."""

import gzip
import json
import re
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx2
import orjson
import pytest

from penstock.simulator.control import Control
from penstock.simulator.faults.malformed_events import MALFORMED_EVENTS
from penstock.simulator.faults.malformed_lines import MALFORMED_LINES
from penstock.simulator.faults.malformed_responses import MALFORMED_RESPONSES

HEADERS = {"x-api-key": "k", "anthropic-version": "2026-10-21", "accept-encoding": "identity"}
BATCHES = "/v1/messages/batches"


@pytest.fixture(scope="module")
def http(started: Control) -> Iterator[httpx2.Client]:
    """A plain HTTP client."""
    with httpx2.Client(base_url=started.base_url, headers=HEADERS) as client:
        yield client


def body(text: str, **fields: Any) -> dict[str, Any]:
    """The body of a request."""
    messages = [{"role": "user", "content": text}]
    return {"model": "claude-haiku-4-5", "max_tokens": 1000, "messages": messages, **fields}


def ask(http: httpx2.Client, directives: str) -> tuple[httpx2.Response, bytes]:
    """The response to a streamed request, and its bytes before any decoding."""
    asked = body(f"hello [[sim {directives}]]", stream=True)
    with http.stream("POST", "/v1/messages", json=asked) as response:
        return response, b"".join(response.iter_raw())


def batch(control: Control, sdk: anthropic.Anthropic, *texts: str) -> str:
    """The id of a batch that has ended."""
    requests: Any = [
        {"custom_id": f"id-{place}", "params": body(text)} for place, text in enumerate(texts)
    ]
    id = sdk.messages.batches.create(requests=requests).id
    control.end_batch(id)
    return id


@pytest.mark.parametrize("name", sorted(MALFORMED_EVENTS))
def test_each_malformed_stream_is_sent_once_on_demand(
    control: Control, http: httpx2.Client, name: str
) -> None:
    first, second, third = (events(ask(http, f"malformed={name}")[1]) for _ in range(3))
    assert first != second
    assert second == third


def events(raw: bytes) -> list[bytes]:
    """The events of a stream, without the message's id."""
    return re.sub(rb'"id":"msg_\w+"', b"", raw).split(b"\n\n")


def test_a_delta_is_malformed_at_the_position_asked_for(
    control: Control, http: httpx2.Client
) -> None:
    _, raw = ask(http, "malformed=text_null at=3 deltas=6")
    deltas = [event for event in raw.split(b"\n\n") if b"content_block_delta" in event]
    assert [b"null" in event for event in deltas] == [False, False, False, True, False, False]


@pytest.mark.parametrize("name", sorted(MALFORMED_RESPONSES))
def test_each_response_that_is_no_stream_is_sent_once_on_demand(
    control: Control, http: httpx2.Client, name: str
) -> None:
    response, raw = ask(http, f"response={name}")
    assert response.status_code == 200
    plain, events = ask(http, f"response={name}")
    assert (raw, response.headers["content-type"]) != (events, plain.headers["content-type"])
    assert events.endswith(b'data: {"type":"message_stop"}\n\n')


def test_a_whole_message_can_answer_a_request_for_a_stream(
    control: Control, http: httpx2.Client
) -> None:
    """It was paid for."""
    response, raw = ask(http, "response=message text=Hello")
    assert orjson.loads(raw)["content"] == [{"type": "text", "text": "Hello"}]
    assert response.headers["content-type"] == "application/json"
    assert control.stats()["messages_answered"] == 1


def test_a_stream_can_be_compressed_with_or_without_a_label(
    control: Control, http: httpx2.Client
) -> None:
    for name, label in (("gzip", "gzip"), ("gzip_unlabelled", None)):
        response, raw = ask(http, f"response={name}")
        assert response.headers.get("content-encoding") == label
        assert gzip.decompress(raw).endswith(b'message_stop"}\n\n')
    response, _ = ask(http, "response=br")
    assert response.headers["content-encoding"] == "br"


def test_the_sdk_reads_a_compressed_stream(control: Control, sdk: anthropic.Anthropic) -> None:
    with sdk.messages.stream(**body('hello [[sim response=gzip text="Hi!"]]')) as opened:
        assert opened.get_final_text() == "Hi!"


@pytest.mark.parametrize("where", ["before", "inside"])
def test_the_connection_can_be_cut_before_or_inside_the_headers(
    control: Control, http: httpx2.Client, where: str
) -> None:
    for _ in range(2):
        with pytest.raises(httpx2.RemoteProtocolError):
            ask(http, f"drop_headers={where} times=2")
    assert ask(http, f"drop_headers={where} times=2")[0].status_code == 200
    control.fault(drop_headers=where, path=f"{BATCHES}*")
    with pytest.raises(httpx2.RemoteProtocolError):
        http.get(BATCHES)
    control.fault(drop_headers=where, path=BATCHES)
    with pytest.raises(httpx2.RemoteProtocolError):
        http.post(BATCHES, json={"requests": [{"custom_id": "a", "params": body("hello")}]})
    assert control.stats()["batches_created"] == 1


def test_headers_are_added_to_the_response(control: Control, http: httpx2.Client) -> None:
    assert len(ask(http, "headers=long")[0].headers["x-long"]) == 9000
    assert len(ask(http, "headers=many")[0].headers) > 200
    refused, _ = ask(http, "headers=monthly_quota status=429")
    assert refused.status_code == 429
    assert refused.headers["anthropic-ratelimit-requests-remaining"] == "0"
    control.fault(headers="many", path=BATCHES)
    assert len(http.get(BATCHES).headers) > 200


@pytest.mark.parametrize("value", ["259200", "inf", "-1", "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_retry_after_can_have_any_value(control: Control, http: httpx2.Client, value: str) -> None:
    assert ask(http, f'status=429 retry_after="{value}"')[0].headers["retry-after"] == value


@pytest.mark.parametrize("kind", ["overloaded_error", "rate_limit_error"])
def test_an_error_can_be_the_first_event(control: Control, http: httpx2.Client, kind: str) -> None:
    response, raw = ask(http, f"error_after=start error_type={kind}")
    assert response.status_code == 200
    assert raw.startswith(b"event: error\n")
    assert raw.count(b"\n\n") == 1
    assert kind.encode() in raw


def test_a_stream_can_end_before_its_first_event(control: Control, http: httpx2.Client) -> None:
    assert ask(http, "eof_after=start")[1] == b""
    with pytest.raises(httpx2.RemoteProtocolError):
        ask(http, "disconnect_after=start")


def test_an_answer_can_be_cut_again_and_again_while_it_advances(
    control: Control, sdk: anthropic.Anthropic
) -> None:
    text = 'hello [[sim eof_after=4 times=0 text="All of it arrives in the end." chars=2]]'
    said, calls = "", 0
    while not said.endswith("end.") and calls < 20:
        asked = body(text)
        if said:
            asked["messages"].append({"role": "assistant", "content": said.rstrip()})
        with sdk.messages.stream(**asked) as opened:
            said = said.rstrip() + "".join(opened.text_stream)
        calls += 1
    assert said == "All of it arrives in the end."
    assert calls > 3


@pytest.mark.parametrize("name", sorted(MALFORMED_LINES))
def test_each_malformed_line_is_one_line_of_the_results(
    control: Control, sdk: anthropic.Anthropic, http: httpx2.Client, name: str
) -> None:
    id = batch(control, sdk, f"hello [[sim line={name}]]", "good")
    lines = http.get(f"{BATCHES}/{id}/results").content.split(b"\n")
    assert len(lines) == 3
    good = [orjson.loads(line) for line in lines if line.startswith(b'{"custom_id":"id-1"')]
    assert [line["result"]["type"] for line in good] == ["succeeded"]


def test_a_malformed_line_is_rendered_in_advance_as_well(
    control: Control, sdk: anthropic.Anthropic, http: httpx2.Client
) -> None:
    control.configure(prerender=1)
    id = batch(control, sdk, "hello [[sim line=message_null]]")
    assert b'"message":null' in http.get(f"{BATCHES}/{id}/results").content


def test_a_batch_can_be_shown_in_an_odd_way_for_some_time(
    control: Control, sdk: anthropic.Anthropic, http: httpx2.Client
) -> None:
    id = batch(control, sdk, "hello")
    control.fault(odd_batch="counts_null")
    assert http.get(f"{BATCHES}/{id}/results").status_code == 200
    assert http.get(f"{BATCHES}/{id}").json()["request_counts"] is None
    assert http.get(f"{BATCHES}/{id}").json()["request_counts"]["succeeded"] == 1
    control.fault(odd_batch="status_unknown", path=BATCHES)
    assert http.get(BATCHES).json()["data"][0]["processing_status"] == "validating"
    control.fault(odd_batch="id_null", path=BATCHES, method="POST")
    made = http.post(BATCHES, json={"requests": [{"custom_id": "a", "params": body("hi")}]})
    assert made.json()["id"] is None


def test_a_gateway_can_answer_instead_of_the_batch_endpoints(
    control: Control, http: httpx2.Client
) -> None:
    requests = {"requests": [{"custom_id": "a", "params": body("hello")}]}
    control.fault(status=413, response="html", path=BATCHES, method="POST")
    rejected = http.post(BATCHES, json=requests)
    assert (rejected.status_code, rejected.headers["content-type"]) == (413, "text/html")
    assert control.stats()["batches_created"] == 0
    control.fault(commit_then_status=502, response="html")
    assert b"<html>" in http.post(BATCHES, json=requests).content
    assert control.stats()["batches_created"] == 1


def test_a_batch_its_list_and_its_results_can_be_missing_for_a_moment(
    control: Control, sdk: anthropic.Anthropic, http: httpx2.Client
) -> None:
    id = batch(control, sdk, "hello")
    for path in (BATCHES, f"{BATCHES}/{id}", f"{BATCHES}/{id}/results"):
        control.fault(status=404, path=path)
        assert [http.get(path).status_code for _ in range(2)] == [404, 200]


@pytest.mark.parametrize(
    "directives", ["malformed=nothing", "response=nothing", "headers=1", "line=a", "server_tool=a"]
)
def test_an_unknown_name_is_rejected_with_the_names_there_are(
    control: Control, http: httpx2.Client, directives: str
) -> None:
    response, raw = ask(http, directives)
    assert response.status_code == 400
    assert directives.partition("=")[0].encode() in raw


def test_an_integer_beyond_64_bits_reaches_the_simulator_exactly(
    control: Control, http: httpx2.Client
) -> None:
    long = 18446744073709551616
    schema = {"type": "object", "properties": {"n": {"type": "integer", "maximum": long}}}
    asked = body("hello", tools=[{"name": "t", "input_schema": schema}])
    assert http.post("/v1/messages", content=json.dumps(asked)).status_code == 200
    requests = {"requests": [{"custom_id": "a", "params": asked}]}
    id = http.post(BATCHES, content=json.dumps(requests)).json()["id"]
    control.end_batch(id)
    assert b'"succeeded"' in http.get(f"{BATCHES}/{id}/results").content
    live, created, _ = control.requests()
    assert (live["body"], created["body"]) == (asked, requests)
    assert [*control.paid().values()] == [{"batch": 1, "live": 1}]
