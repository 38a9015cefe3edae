"""Citations, server tools, compaction, threads and lanes, read with the SDK."""

from typing import Any

import anthropic
import pytest

from penstock.simulator.control import Control

MODEL = "claude-haiku-4-5"
DOCUMENT = {
    "type": "document",
    "title": "Sluices",
    "source": {"type": "text", "media_type": "text/plain", "data": "Water flows down."},
    "citations": {"enabled": True},
}
THREADS = ["message-threads-2026-08-12"]


def body(text: str = "hello", **fields: Any) -> dict[str, Any]:
    """The body of a request."""
    messages = [{"role": "user", "content": text}]
    return {"model": MODEL, "max_tokens": 1000, "messages": messages, **fields}


def both(sdk: anthropic.Anthropic, **fields: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same message whole, and assembled by the SDK from its stream."""
    whole = sdk.beta.messages.create(**fields)
    with sdk.beta.messages.stream(**fields) as opened:
        streamed = opened.get_final_message()
    return whole.to_dict(), streamed.to_dict()


def alike(whole: dict[str, Any], streamed: dict[str, Any]) -> bool:
    """Whether two answers differ in nothing but what differs between two calls."""

    def comparable(message: dict[str, Any]) -> dict[str, Any]:
        kept = {key: value for key, value in message.items() if key != "id" and value is not None}
        kept["content"] = [
            {key: value for key, value in block.items() if key != "parsed_output"}
            for block in message["content"]
        ]
        if message.get("container"):
            kept["container"] = message["container"]["id"]
        return kept

    return comparable(whole) == comparable(streamed)


@pytest.mark.parametrize(
    ("directives", "kinds"),
    [
        ("citations", ["text", "text", "text"]),
        ("redacted_thinking", ["redacted_thinking", "text"]),
        ("compaction thinking", ["compaction", "thinking", "text"]),
        ("server_tool=web_search", ["server_tool_use", "web_search_tool_result", "text"]),
        ("server_tool=web_fetch", ["server_tool_use", "web_fetch_tool_result", "text"]),
        ("server_tool=code_execution", ["server_tool_use", "code_execution_tool_result", "text"]),
        ("stop_reason=refusal tier=priority", ["text"]),
    ],
)
def test_the_sdk_assembles_the_whole_message_from_its_stream(
    control: Control, sdk: anthropic.Anthropic, directives: str, kinds: list[str]
) -> None:
    whole, streamed = both(sdk, **body(f"hello [[sim {directives}]]"))
    assert [block["type"] for block in streamed["content"]] == kinds
    assert alike(whole, streamed)


def test_a_document_with_citations_is_cited(control: Control, sdk: anthropic.Anthropic) -> None:
    content = [{"type": "text", "text": "What flows?"}, DOCUMENT]
    whole, streamed = both(sdk, **body(messages=[{"role": "user", "content": content}]))
    assert alike(whole, streamed)
    [citation] = streamed["content"][1]["citations"]
    assert (citation["type"], citation["cited_text"]) == ("char_location", "Water flows down.")


def test_a_server_tool_of_the_request_is_used_and_counted(
    control: Control, sdk: anthropic.Anthropic
) -> None:
    tools = [{"type": "web_search_20250305", "name": "web_search"}]
    whole, streamed = both(sdk, **body(tools=tools))
    assert streamed["usage"]["server_tool_use"]["web_search_requests"] == 1
    assert streamed["content"][0]["input"] == {"query": "penstock"}
    assert alike(whole, streamed)


def test_code_execution_names_its_container_at_the_end(
    control: Control, sdk: anthropic.Anthropic
) -> None:
    tools = [{"type": "code_execution_20250825", "name": "code_execution"}]
    _, streamed = both(sdk, **body(tools=tools, container="container_mine"))
    assert streamed["container"]["id"] == "container_mine"


def test_a_request_to_compact_is_answered_with_a_compaction_block(
    control: Control, sdk: anthropic.Anthropic
) -> None:
    asked = {"edits": [{"type": "compact_20260112"}]}
    whole, streamed = both(sdk, **body(context_management=asked, betas=["compact-2026-01-12"]))
    [compaction, _] = streamed["content"]
    assert compaction["content"]
    assert compaction["encrypted_content"]
    assert streamed["context_management"] == {"applied_edits": []}
    assert [each["type"] for each in streamed["usage"]["iterations"]] == ["compaction", "message"]
    assert alike(whole, streamed)


def test_a_continuation_of_a_cited_answer_has_the_same_blocks(
    control: Control, sdk: anthropic.Anthropic
) -> None:
    text = 'hello [[sim citations text="One two three four five six seven." deltas=9]]'
    whole, _ = both(sdk, **body(text))
    parts = [block["text"] for block in whole["content"]]
    begun = (parts[0] + parts[1][:3]).rstrip()
    said = [{"role": "user", "content": text}, {"role": "assistant", "content": begun}]
    rest, _ = both(sdk, **body(messages=said))
    assert [block["text"] for block in rest["content"]] == [
        (parts[0] + parts[1])[len(begun) :],
        parts[2],
    ]


def test_a_repetition_is_in_the_block_that_is_continued(
    control: Control, sdk: anthropic.Anthropic
) -> None:
    text = 'hello [[sim citations overlap=15 text="One two three four five six seven." deltas=9]]'
    whole, _ = both(sdk, **body(text))
    parts = [block["text"] for block in whole["content"]]
    begun = (parts[0] + parts[1] + parts[2][:5]).rstrip()
    said = [body(text)["messages"][0], {"role": "user", "content": f"Go on after [{begun}]"}]
    rest, _ = both(sdk, **body(messages=said))
    assert [block["text"] for block in rest["content"]] == ["".join(parts)[len(begun) - 15 :]]


def test_a_call_of_no_tokens_is_answered_without_content_but_is_no_request_of_a_batch(
    control: Control, sdk: anthropic.Anthropic
) -> None:
    whole, streamed = both(sdk, **body("hello [[sim server_tool=web_search]]", max_tokens=0))
    assert (streamed["content"], streamed["stop_reason"]) == ([], "max_tokens")
    assert alike(whole, streamed)
    request: Any = {"custom_id": "a", "params": body(max_tokens=0)}
    batch = sdk.messages.batches.create(requests=[request])
    control.end_batch(batch.id)
    [result] = sdk.messages.batches.results(batch.id)
    assert result.result.type == "errored"


def test_a_thread_is_continued_once(control: Control, sdk: anthropic.Anthropic) -> None:
    first = sdk.beta.messages.create(**body(thread={"type": "create"}, betas=THREADS))
    following: Any = {"type": "continue", "previous_message_id": first.id}
    with sdk.beta.messages.stream(**body("and?", thread=following, betas=THREADS)) as opened:
        second = opened.get_final_message()
    with pytest.raises(anthropic.BadRequestError) as repeated:
        sdk.beta.messages.create(**body("and?", thread=following, betas=THREADS))
    assert repeated.value.error_code == "thread_already_continued"
    following["previous_message_id"] = second.id
    sdk.beta.messages.create(**body("and then?", thread=following, betas=THREADS))


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"system": "Be brief."}, "thread_fingerprint_mismatch"),
        ({"cache_control": {"type": "ephemeral"}}, "thread_unsupported_request"),
        ({}, "thread_not_found"),
    ],
)
def test_a_thread_that_cannot_be_continued_is_an_error_with_the_apis_code(
    control: Control, sdk: anthropic.Anthropic, fields: dict[str, Any], code: str
) -> None:
    first = sdk.beta.messages.create(**body(thread={"type": "create"}, betas=THREADS))
    previous = first.id if fields else "msg_unknown"
    thread: Any = {"type": "continue", "previous_message_id": previous}
    with pytest.raises(anthropic.APIStatusError) as rejected:
        sdk.beta.messages.create(**body(thread=thread, betas=THREADS, **fields))
    assert rejected.value.error_code == code


def test_an_interrupted_continuation_of_a_thread_cannot_be_repeated(
    control: Control, sdk: anthropic.Anthropic
) -> None:
    first = sdk.beta.messages.create(**body(thread={"type": "create"}, betas=THREADS))
    thread: Any = {"type": "continue", "previous_message_id": first.id}
    asked = body("and? [[sim eof_after=1]]", thread=thread, betas=THREADS)
    with sdk.beta.messages.stream(**asked) as opened:
        list(opened)
    with pytest.raises(anthropic.BadRequestError) as rejected:
        sdk.beta.messages.create(**asked)
    assert rejected.value.error_code == "thread_already_continued"


@pytest.mark.parametrize("field", ["betas", "timeout", "thread", "context_management", "made_up"])
def test_a_field_that_the_api_does_not_know_is_rejected(
    control: Control, sdk: anthropic.Anthropic, field: str
) -> None:
    with pytest.raises(anthropic.BadRequestError, match=f"{field}: Extra inputs"):
        sdk.messages.create(**body(extra_body={field: {}}))


def test_fast_mode_has_headers_and_limits_of_its_own(
    control: Control, sdk: anthropic.Anthropic
) -> None:
    control.configure(requests_per_minute=1)
    for _ in range(2):
        fast = sdk.messages.with_raw_response.create(**body(speed="fast"))
        assert fast.headers["anthropic-fast-output-tokens-remaining"] == "200000"
        assert fast.headers["anthropic-ratelimit-requests-remaining"] == "1"
    assert fast.parse().usage.speed == "fast"
    sdk.messages.create(**body())
    with pytest.raises(anthropic.RateLimitError):
        sdk.messages.create(**body())


def test_the_priority_tier_has_headers_of_its_own(
    control: Control, sdk: anthropic.Anthropic
) -> None:
    response = sdk.messages.with_raw_response.create(**body("hello [[sim tier=priority]]"))
    assert response.parse().usage.service_tier == "priority"
    assert response.headers["anthropic-priority-input-tokens-limit"] == "1000000"
