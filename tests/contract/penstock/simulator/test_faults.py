"""The faults of messages, as the SDK and a socket see them."""

import json
import socket
from typing import Any
from urllib.parse import urlsplit

import anthropic
import httpx2
import pytest
from anthropic.types import Message

from penstock.simulator.control import Control

MODEL = "claude-haiku-4-5"


def ask(sdk: anthropic.Anthropic, text: str, **fields: Any) -> dict[str, Any]:
    """The arguments of a request."""
    return {
        "model": MODEL,
        "max_tokens": 1000,
        "messages": [{"role": "user", "content": text}],
        **fields,
    }


def stream(sdk: anthropic.Anthropic, text: str, **fields: Any) -> Message:
    """The message of a stream, assembled by the SDK."""
    with sdk.messages.stream(**ask(sdk, text, **fields)) as opened:
        return opened.get_final_message()


def deltas_before_error(
    sdk: anthropic.Anthropic, text: str, error: type[Exception], **fields: Any
) -> tuple[int, Exception]:
    """The number of deltas before a stream fails, and the error."""
    seen: list[str] = []
    with (
        pytest.raises(error) as failed,
        sdk.messages.create(stream=True, **ask(sdk, text, **fields)) as opened,
    ):
        seen.extend(event.type for event in opened)
    return seen.count("content_block_delta"), failed.value


def text_of(message: Message) -> str:
    """The text of a message."""
    return "".join(block.text for block in message.content if block.type == "text")


def wire(control: Control, text: str) -> bytes:
    """All bytes of the response to a streamed request, head and chunk sizes included."""
    body = {
        "model": MODEL,
        "max_tokens": 1000,
        "stream": True,
        "messages": [{"role": "user", "content": text}],
    }
    raw = json.dumps(body).encode()
    address = urlsplit(control.base_url)
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.sendall(
            b"POST /v1/messages HTTP/1.1\r\nhost: x\r\nx-api-key: k\r\nconnection: close\r\n"
            b"anthropic-version: 2026-10-21\r\ncontent-length: %d\r\n\r\n" % len(raw) + raw
        )
        received = b""
        while part := connection.recv(65536):
            received += part
    return received


def chunks(received: bytes) -> tuple[list[bytes], bool]:
    """The chunks of a body, and whether it ended properly."""
    found: list[bytes] = []
    rest = received.partition(b"\r\n\r\n")[2]
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        if length == 0:
            return found, rest == b"\r\n"
        found.append(rest[:length])
        rest = rest[length + 2 :]
    return found, False


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, anthropic.BadRequestError),
        (403, anthropic.PermissionDeniedError),
        (429, anthropic.RateLimitError),
        (500, anthropic.InternalServerError),
        (529, anthropic.OverloadedError),
    ],
)
def test_a_status_fault_fires_once(
    control: Control, sdk: anthropic.Anthropic, status: int, error: type[anthropic.APIStatusError]
) -> None:
    """The same request succeeds when it is sent again."""
    text = f"hello [[sim status={status} retry_after=7]]"
    with pytest.raises(error) as refused:
        stream(sdk, text)
    assert refused.value.response.headers["retry-after"] == "7"
    assert stream(sdk, text).stop_reason == "end_turn"
    assert control.stats()["faults"] == {"status": 1}


def test_a_spend_limit_error_has_its_code_and_no_retry_after(
    control: Control, sdk: anthropic.Anthropic
) -> None:
    """It is a 429 that is not worth retrying."""
    with pytest.raises(anthropic.RateLimitError) as refused:
        stream(sdk, "[[sim status=429 error_code=enforced_spend_limit_reached]]")
    assert refused.value.error_code == "enforced_spend_limit_reached"
    assert "retry-after" not in refused.value.response.headers


def test_disconnect_after_cuts_the_body_after_that_many_deltas(
    control: Control, sdk: anthropic.Anthropic
) -> None:
    """The body has no end."""
    count, _ = deltas_before_error(sdk, "[[sim disconnect_after=5]]", httpx2.RemoteProtocolError)
    assert count == 5
    found, ended = chunks(wire(control, "again [[sim disconnect_after=5]]"))
    assert sum(b"content_block_delta" in each for each in found) == 5
    assert not ended


def test_reset_cuts_the_connection_with_a_tcp_reset(
    control: Control, sdk: anthropic.Anthropic
) -> None:
    """Not with an end of file."""
    _, error = deltas_before_error(
        sdk, "[[sim disconnect_after=5 reset rate=100]]", httpx2.ReadError
    )
    assert "reset" in str(error)


def test_eof_after_ends_the_body_properly_without_message_stop(
    control: Control, sdk: anthropic.Anthropic
) -> None:
    """The SDK accepts it as a message without a stop reason."""
    cut = stream(sdk, "hello [[sim eof_after=5]]")
    assert (cut.stop_reason, cut.usage.output_tokens) == (None, 1)
    whole = stream(sdk, "hello [[sim eof_after=5]]")
    assert text_of(whole).startswith(text_of(cut))
    found, ended = chunks(wire(control, "again [[sim eof_after=5]]"))
    assert sum(b"content_block_delta" in each for each in found) == 5
    assert ended


@pytest.mark.parametrize(("position", "count"), [("0", 0), ("-1", 11), ("last", 12)])
def test_delta_positions_count_from_either_end(
    control: Control, sdk: anthropic.Anthropic, position: str, count: int
) -> None:
    """``last`` is before message_stop."""
    text = f"[[sim deltas=12 disconnect_after={position}]]"
    assert deltas_before_error(sdk, text, httpx2.RemoteProtocolError)[0] == count


def test_a_stream_can_be_cut_inside_a_tools_input(
    control: Control, sdk: anthropic.Anthropic
) -> None:
    """The deltas of every block count."""
    schema = {"type": "object", "properties": {"long": {"type": "string", "minLength": 200}}}
    tools = [{"name": "t", "input_schema": schema}]
    cut = stream(sdk, "hello [[sim eof_after=-3]]", tools=tools)
    whole = stream(sdk, "hello [[sim eof_after=-3]]", tools=tools)
    assert [block.type for block in cut.content] == ["text", "tool_use"]
    assert cut.content[1].to_dict() != whole.content[1].to_dict()


def test_error_after_ends_a_stream_with_an_error_event(
    control: Control, sdk: anthropic.Anthropic
) -> None:
    """An overloaded_error, unless ``error_type`` says otherwise."""
    count, error = deltas_before_error(sdk, "[[sim error_after=4]]", anthropic.APIStatusError)
    assert count == 4
    assert isinstance(error, anthropic.APIStatusError)
    assert (error.type, error.status_code) == ("overloaded_error", 200)
    text = "[[sim error_after=0 error_type=api_error]]"
    _, error = deltas_before_error(sdk, text, anthropic.APIStatusError)
    assert isinstance(error, anthropic.APIStatusError)
    assert error.type == "api_error"


def test_a_stalled_stream_sends_nothing(control: Control, sdk: anthropic.Anthropic) -> None:
    """Until a read timeout, or until ``stall`` seconds are over."""
    text = "hello [[sim stall_after=3]]"
    count, _ = deltas_before_error(sdk, text, httpx2.ReadTimeout, timeout=0.3)
    assert count == 3
    assert stream(sdk, "hello [[sim stall_after=3 stall=0.1]]").stop_reason == "end_turn"


def test_slow_first_delays_the_first_byte(control: Control, sdk: anthropic.Anthropic) -> None:
    """Here until the client times out."""
    with pytest.raises(anthropic.APITimeoutError):
        stream(sdk, "[[sim slow_first=30]]", timeout=0.2)


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_chunk_splits_a_stream_without_changing_its_bytes(
    control: Control, sdk: anthropic.Anthropic, size: int
) -> None:
    """Anywhere, even inside a character."""
    text = "日本 [[sim deltas=30]]"
    whole = stream(sdk, text)
    assert text_of(stream(sdk, f"{text} [[sim chunk={size}]]")) == text_of(whole)
    found, ended = chunks(wire(control, f"again [[sim chunk={size}]]"))
    assert {len(each) for each in found[:-1]} == {size}
    assert ended


def test_crlf_ends_every_line_of_a_stream_in_cr_lf(
    control: Control, sdk: anthropic.Anthropic
) -> None:
    """The SDK accepts both."""
    assert stream(sdk, "hello [[sim crlf]]").stop_reason == "end_turn"
    body = b"".join(chunks(wire(control, "again [[sim crlf]]"))[0])
    assert body.count(b"\r\n") == body.count(b"\n") > 0


def test_drop_mid_char_cuts_a_stream_inside_a_character(
    control: Control, sdk: anthropic.Anthropic
) -> None:
    """The bytes received are not valid UTF-8."""
    text = '[[sim text="aé日本🚀" chars=1 drop_mid_char=2]]'
    assert deltas_before_error(sdk, text, httpx2.RemoteProtocolError)[0] == 2
    found, ended = chunks(wire(control, f"again {text}"))
    assert not ended
    with pytest.raises(UnicodeDecodeError, match="unexpected end"):
        b"".join(found).decode()


@pytest.mark.parametrize("fault", ["disconnect_after=1", "eof_after=1", "drop_mid_char"])
def test_a_fault_of_a_stream_cuts_the_body_of_a_whole_answer(
    control: Control, sdk: anthropic.Anthropic, fault: str
) -> None:
    """There are no events to count."""
    text = f"hello [[sim {fault}]]"
    with pytest.raises((httpx2.TransportError, anthropic.APIConnectionError)):
        sdk.messages.create(**ask(sdk, text))
    assert sdk.messages.create(**ask(sdk, text)).stop_reason == "end_turn"


def test_the_other_faults_apply_to_a_whole_answer(
    control: Control, sdk: anthropic.Anthropic
) -> None:
    """As far as they make sense."""
    with pytest.raises(anthropic.OverloadedError):
        sdk.messages.create(**ask(sdk, "[[sim error_after=1]]"))
    with pytest.raises(anthropic.APITimeoutError):
        sdk.messages.create(**ask(sdk, "[[sim stall_after=1]]", timeout=0.2))
    assert sdk.messages.create(**ask(sdk, "[[sim chunk=5]]")).stop_reason == "end_turn"


def test_limited_faults_of_one_prompt_fire_in_sequence(
    control: Control, sdk: anthropic.Anthropic
) -> None:
    """Two refusals, a cut, then the answer."""
    text = "hello [[sim status=529 times=2]] [[sim disconnect_after=2]]"
    for _ in range(2):
        with pytest.raises(anthropic.OverloadedError):
            stream(sdk, text)
    with pytest.raises(httpx2.RemoteProtocolError):
        stream(sdk, text)
    assert stream(sdk, text).stop_reason == "end_turn"
    assert control.stats()["faults"] == {"status": 2, "disconnect_after": 1}


def test_control_puts_faults_in_force_by_model_and_for_all_requests(
    control: Control, sdk: anthropic.Anthropic
) -> None:
    """For requests whose prompt the test does not write."""
    control.fault(status=500, model="claude-opus-*", after=1)
    assert stream(sdk, "hello").stop_reason == "end_turn"
    assert stream(sdk, "hello", model="claude-opus-5").stop_reason == "end_turn"
    with pytest.raises(anthropic.InternalServerError):
        stream(sdk, "hello", model="claude-opus-5")
    control.fault(status=529, times=0)
    with pytest.raises(anthropic.OverloadedError):
        stream(sdk, "hello")
    control.clear_faults()
    assert stream(sdk, "hello").stop_reason == "end_turn"


def test_control_refuses_a_fault_with_an_unknown_key(control: Control) -> None:
    """The error names the key."""
    with pytest.raises(ValueError, match="disconnect"):
        control.fault(disconnect=3)
