"""The simulator as a process, used through the SDK: messages and their streams."""

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx2
import pytest
from anthropic.types import Message

from penstock.simulator.control import Control
from penstock.simulator.process import simulator

MODEL = "claude-haiku-4-5"
HELLO = {"role": "user", "content": "hello"}
NEW = "2026-10-21"
HEADERS = {"authorization": "Bearer k", "anthropic-version": NEW}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
TOOL: Any = {"name": "weather", "description": "The weather.", "input_schema": SCHEMA}


@pytest.fixture(scope="module")
def http(started: Control) -> Iterator[httpx2.Client]:
    """A plain HTTP client."""
    with httpx2.Client(base_url=started.base_url, headers=HEADERS) as client:
        yield client


def body(text: str = "hello", **fields: Any) -> dict[str, Any]:
    """The body of a request."""
    messages = [{"role": "user", "content": text}]
    return {"model": MODEL, "max_tokens": 1000, "messages": messages, **fields}


def create(sdk: anthropic.Anthropic, text: str = "hello", **fields: Any) -> Message:
    """A message that is not streamed."""
    message: Message = sdk.messages.create(**body(text, **fields))
    return message


def stream(sdk: anthropic.Anthropic, text: str = "hello", **fields: Any) -> Message:
    """The message of a stream, assembled by the SDK."""
    with sdk.messages.stream(**body(text, **fields)) as opened:
        return opened.get_final_message()


def text_of(message: Message) -> str:
    """The text of a message."""
    return "".join(block.text for block in message.content if block.type == "text")


def wait_for(control: Control, **expected: Any) -> dict[str, Any]:
    """The counters, once they are as expected; the test's timeout limits the wait."""
    while True:
        stats = control.stats()
        if expected.items() <= stats.items():
            return stats


def test_a_streamed_message_equals_the_whole_message(
    control: Control, sdk: anthropic.Anthropic
) -> None:
    """Text, blocks, stop reason and usage."""
    whole, streamed = create(sdk), stream(sdk)
    assert text_of(whole) == text_of(streamed) != ""
    assert whole.usage.output_tokens == streamed.usage.output_tokens > 1
    assert whole.usage.input_tokens == streamed.usage.input_tokens
    assert (whole.stop_reason, whole.id != streamed.id) == ("end_turn", True)


def test_every_response_names_the_simulator_and_a_marked_answer_its_text() -> None:
    """So that neither a record nor a reader can take it for the API's."""
    with simulator(mark=1, rate=0) as control:
        sdk = anthropic.Anthropic(base_url=control.base_url, api_key="any", max_retries=0)
        response = sdk.messages.with_raw_response.create(**body())
        assert response.headers["penstock-simulator"] == "1"
        assert text_of(response.parse()).startswith("[simulated] ")
        assert text_of(stream(sdk)) == text_of(response.parse())
        with pytest.raises(anthropic.BadRequestError) as refused:
            create(sdk, max_tokens=-1)
        assert refused.value.response.headers["penstock-simulator"] == "1"


def test_a_response_has_a_request_id(sdk: anthropic.Anthropic) -> None:
    """As every response does."""
    assert re.fullmatch(r"req_\w+", create(sdk)._request_id or "")


def test_a_tools_input_is_streamed_in_pieces(control: Control, sdk: anthropic.Anthropic) -> None:
    """The pieces make up the input of the whole message."""
    whole, streamed = create(sdk, tools=[TOOL]), stream(sdk, tools=[TOOL])
    assert [block.type for block in streamed.content] == ["text", "tool_use"]
    assert streamed.stop_reason == "tool_use"
    assert streamed.content[1].to_dict() == whole.content[1].to_dict()
    called = streamed.content[1]
    assert called.type == "tool_use"
    assert called.input.keys() == {"city", "days"}


def test_a_thinking_block_comes_first(control: Control, sdk: anthropic.Anthropic) -> None:
    """With its signature."""
    whole = create(sdk, thinking={"type": "enabled", "budget_tokens": 1024}, max_tokens=2000)
    streamed = stream(sdk, model="claude-opus-5", thinking={"type": "adaptive"})
    for message in (whole, streamed):
        assert [block.type for block in message.content] == ["thinking", "text"]
        thought = message.content[0]
        assert thought.type == "thinking"
        assert thought.thinking
        assert thought.signature


def test_a_prefill_is_continued_exactly(control: Control, sdk: anthropic.Anthropic) -> None:
    """On a model that supports prefill."""
    whole = text_of(create(sdk))
    begun = whole[:25].rstrip()
    rest = stream(sdk, messages=[HELLO, {"role": "assistant", "content": begun}])
    assert begun + text_of(rest) == whole


def test_a_quoted_beginning_is_continued_exactly(
    control: Control, sdk: anthropic.Anthropic
) -> None:
    """On a model that does not support prefill."""
    whole = text_of(create(sdk, model="claude-opus-5"))
    quote = {"role": "user", "content": f"Go on after [{whole[:25]}]"}
    rest = stream(sdk, model="claude-opus-5", messages=[HELLO, quote])
    assert whole[:25] + text_of(rest) == whole


def test_max_tokens_and_stop_sequences_end_an_answer(
    control: Control, sdk: anthropic.Anthropic
) -> None:
    """Each with its stop reason."""
    cut = stream(sdk, max_tokens=4)
    assert (cut.stop_reason, cut.usage.output_tokens) == ("max_tokens", 4)
    stopped = stream(sdk, 'x [[sim text="one two three"]]', stop_sequences=["two"])
    assert (text_of(stopped), stopped.stop_sequence) == ("one ", "two")


def test_u2028_does_not_end_a_line_of_a_stream(control: Control, sdk: anthropic.Anthropic) -> None:
    """It would end one for a reader that uses str.splitlines."""
    message = stream(sdk, "hello [[sim u2028]]")
    assert {"\u2028", "\u0085"} <= set(text_of(message))


def test_stamped_deltas_contain_ascending_times(control: Control, sdk: anthropic.Anthropic) -> None:
    """Each delta has one."""
    stamps = [int(each) for each in text_of(stream(sdk, "[[sim stamp deltas=50]]")).split()]
    assert len(stamps) == 50
    assert stamps == sorted(stamps)


def test_count_tokens_equals_the_input_tokens_of_a_message(
    control: Control, sdk: anthropic.Anthropic
) -> None:
    """No message is created."""
    counted = sdk.messages.count_tokens(
        model=MODEL, messages=[{"role": "user", "content": "hello"}]
    )
    assert counted.input_tokens == create(sdk).usage.input_tokens


def test_models_can_be_listed_and_retrieved(sdk: anthropic.Anthropic) -> None:
    """An unknown one is a 404."""
    listed = [model.id for model in sdk.models.list()]
    assert sdk.models.retrieve(listed[0]).id == listed[0]
    with pytest.raises(anthropic.NotFoundError):
        sdk.models.retrieve("claude-none")


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"model": "xyz"}, anthropic.NotFoundError, "model: xyz"),
        ({"messages": []}, anthropic.BadRequestError, "messages: at least one message is required"),
        (
            {"max_tokens": 70_000, "timeout": 60},
            anthropic.BadRequestError,
            "max_tokens: 70000 > 64000",
        ),
        (
            {
                "model": "claude-opus-5",
                "messages": [HELLO, {"role": "assistant", "content": "x"}],
            },
            anthropic.BadRequestError,
            "does not support assistant message prefill",
        ),
        (
            {"messages": [HELLO, {"role": "assistant", "content": "x "}]},
            anthropic.BadRequestError,
            "final assistant content cannot end with trailing whitespace",
        ),
        (
            {"extra_body": {"temperature": 1}},
            anthropic.BadRequestError,
            "temperature: Extra inputs are not permitted",
        ),
        (
            {"messages": [{"role": "user", "content": "[[sim delta=1]]"}]},
            anthropic.BadRequestError,
            "unknown key 'delta'",
        ),
    ],
)
def test_invalid_requests_raise_the_errors_of_the_sdk(
    sdk: anthropic.Anthropic,
    fields: dict[str, Any],
    error: type[anthropic.APIStatusError],
    message: str,
) -> None:
    """Streamed or not."""
    for ask in (create, stream):
        with pytest.raises(error, match=re.escape(message)) as refused:
            ask(sdk, **fields)
        assert refused.value.request_id


def test_sampling_parameters_are_valid_in_the_old_api_version(sdk: anthropic.Anthropic) -> None:
    """Pinned for one call."""
    old = {"anthropic-version": "2023-06-01"}
    assert create(sdk, extra_headers=old, extra_body={"temperature": 0.5}).stop_reason == "end_turn"


@pytest.mark.parametrize(
    ("headers", "status", "kind"),
    [
        ({"authorization": ""}, 401, "authentication_error"),
        ({"authorization": "Bearer invalid"}, 401, "authentication_error"),
        ({"anthropic-version": ""}, 400, "invalid_request_error"),
        ({"anthropic-version": "2020-01-01"}, 400, "invalid_request_error"),
    ],
)
def test_an_error_response_has_the_envelope_of_the_api(
    http: httpx2.Client, headers: dict[str, str], status: int, kind: str
) -> None:
    """With the id of the request, as in its header."""
    answer = http.post("/v1/messages", headers=headers, content=b"{}")
    assert answer.status_code == status
    assert answer.json()["type"] == "error"
    assert answer.json()["error"]["type"] == kind
    assert answer.json()["request_id"] == answer.headers["request-id"]


def test_the_x_api_key_header_is_accepted(started: Control) -> None:
    """As well as the authorization header."""
    headers = {"x-api-key": "k", "anthropic-version": NEW}
    url = f"{started.base_url}/v1/messages"
    answer = httpx2.post(url, headers=headers, json={"model": MODEL})
    assert answer.json()["error"]["message"] == "max_tokens: Field required"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nothing", 404),
        ("GET", "/v1/messages", 405),
        ("POST", "/v1/messages/batches/x/results", 405),
        ("GET", "/", 404),
        ("GET", "/_sim/nothing", 404),
    ],
)
def test_an_unknown_path_or_method_is_an_error(
    http: httpx2.Client, method: str, path: str, status: int
) -> None:
    """In JSON as well."""
    answer = http.request(method, path)
    assert (answer.status_code, answer.json()["type"]) == (status, "error")


def test_a_body_over_32_mb_is_too_large(http: httpx2.Client) -> None:
    """It is read to its end first, so that the client sees the response."""
    answer = http.post("/v1/messages", content=bytes(32 * 1024 * 1024 + 1))
    assert (answer.status_code, answer.json()["error"]["type"]) == (413, "request_too_large")


def test_a_rate_limit_refuses_with_retry_after(control: Control, sdk: anthropic.Anthropic) -> None:
    """Requests succeed again after that time."""
    control.configure(requests_per_minute=1, minute_seconds=2)
    raw = sdk.messages.with_raw_response.create(
        model=MODEL, max_tokens=5, messages=[{"role": "user", "content": "hello"}]
    )
    assert raw.headers["anthropic-ratelimit-requests-remaining"] == "0"
    with pytest.raises(anthropic.RateLimitError) as refused:
        create_until_refused(sdk)
    assert refused.value.response.headers["retry-after"] in ("1", "2")
    assert refused.value.response.headers["anthropic-ratelimit-requests-remaining"] == "0"
    assert control.stats()["refused_429"] == 1
    wait_for_success(sdk)


def create_until_refused(sdk: anthropic.Anthropic) -> None:
    """Send requests faster than the limit allows."""
    for _ in range(100):
        create(sdk)


def wait_for_success(sdk: anthropic.Anthropic) -> None:
    """Send requests until one succeeds."""
    while True:
        try:
            create(sdk)
        except anthropic.RateLimitError:
            continue
        return


def test_the_request_log_hides_the_api_key(control: Control, sdk: anthropic.Anthropic) -> None:
    """It is for tests that ask what was sent."""
    create(sdk, "what was sent")
    with pytest.raises(anthropic.NotFoundError):
        create(sdk, model="xyz")
    first, second = control.requests(limit=2)
    assert (first["method"], first["path"], first["status"]) == ("POST", "/v1/messages", 200)
    assert first["body"]["messages"][0]["content"] == "what was sent"
    assert first["headers"]["authorization"] == "***"
    assert first["headers"]["anthropic-version"] == NEW
    assert second["status"] == 404
    assert len(control.requests(limit=1)) == 1


def test_counters_are_kept_by_endpoint_and_status(
    control: Control, sdk: anthropic.Anthropic
) -> None:
    """Whole messages and streams apart."""
    create(sdk)
    stream(sdk, "hello [[sim deltas=12]]")
    stats = wait_for(control, open_streams=0, messages_finished=1)
    assert stats["requests"] == {"POST /v1/messages": {"200": 2}}
    assert (stats["messages_answered"], stats["messages_streamed"]) == (1, 1)
    assert (stats["deltas_sent"], stats["max_open_streams"]) == (12, 1)
    assert stats["client_disconnects"] == 0


@pytest.mark.parametrize("directive", ["rate=0.01", "stall_after=1", "slow_first=100"])
def test_a_client_disconnect_ends_the_stream(
    control: Control, http: httpx2.Client, directive: str
) -> None:
    """Between two deltas, during a stall, or before the first byte."""

    async def leave() -> None:
        connection = await asyncio.open_connection(http.base_url.host, http.base_url.port)
        raw = json.dumps(body(f"[[sim {directive}]]", stream=True)).encode()
        head = "\r\n".join(f"{k}: {v}" for k, v in HEADERS.items())
        request = f"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: {len(raw)}\r\n"
        connection[1].write(f"{request}{head}\r\n\r\n".encode() + raw)
        await asyncio.to_thread(wait_for, control, open_streams=1)
        connection[1].close()
        await connection[1].wait_closed()

    asyncio.run(leave())
    wait_for(control, open_streams=0, client_disconnects=1, messages_finished=0)


def test_options_can_be_changed_at_run_time(control: Control, sdk: anthropic.Anthropic) -> None:
    """A reset restores them."""
    control.configure(deltas=3)
    assert stream(sdk).usage.output_tokens == 3
    control.reset()
    assert stream(sdk).usage.output_tokens > 3
    with pytest.raises(ValueError, match="unknown option: speed"):
        control.configure(speed=3)
    with pytest.raises(ValueError, match="rate"):
        control.configure(rate=-3)


def test_fifty_streams_run_concurrently(control: Control, started: Control) -> None:
    """Each is complete, and each has its own answer."""

    async def all_of_them() -> list[Message]:
        async with anthropic.AsyncAnthropic(
            api_key="k", base_url=started.base_url, max_retries=0
        ) as client:

            async def one(number: int) -> Message:
                async with client.messages.stream(
                    model=MODEL,
                    max_tokens=100,
                    messages=[{"role": "user", "content": f"{number} [[sim deltas=20 rate=40]]"}],
                ) as opened:
                    return await opened.get_final_message()

            return await asyncio.gather(*map(one, range(50)))

    found = asyncio.run(all_of_them())
    assert len({text_of(message) for message in found}) == 50
    stats = wait_for(control, open_streams=0)
    assert (stats["deltas_sent"], stats["messages_finished"]) == (1000, 50)
    assert stats["max_open_streams"] > 10
