"""Validation of a Messages body: what the API rejects is refused, by the name of its field."""

import copy
from typing import Any

import orjson
import pytest
from anthropic.types import Message, MessageParam, TextBlock
from anthropic.types.parsed_message import ParsedTextBlock
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import validation
from penstock.errors import InvalidRequest
from penstock.validation import MAX_REQUEST_BYTES, check_betas, check_body, encode_body

Body = dict[str, Any]
USER: MessageParam = {"role": "user", "content": "hello"}


def body(**fields: Any) -> Body:
    return {"model": "claude-haiku-4-5", "max_tokens": 100, "messages": [USER], **fields}


def without(field: str) -> Body:
    return {name: value for name, value in body().items() if name != field}


def refusal(value: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        encode_body(check_body(value))
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (without("model"), "model"),
        (body(model=""), "model"),
        (body(model=None), "model"),
        (body(model=5), "model"),
        (body(model=b"claude"), "model"),
        (body(model="m" * 257), "model"),
        (without("max_tokens"), "max_tokens"),
        (body(max_tokens=-1), "max_tokens"),
        (body(max_tokens=True), "max_tokens"),
        (body(max_tokens="100"), "max_tokens"),
        (body(max_tokens=100.0), "max_tokens"),
        (body(max_tokens=None), "max_tokens"),
        (body(max_tokens=64_001), "max_tokens"),
        (body(max_tokens=10**40), "max_tokens"),
        (body(model="claude-from-the-future", max_tokens=128_001), "max_tokens"),
        (without("messages"), "messages"),
        (body(messages=[]), "messages"),
        (body(messages=None), "messages"),
        (body(messages="hello"), "messages"),
        (body(messages=USER), "messages"),
        (body(messages=["hello"]), "messages.0"),
        (body(messages=[USER, None]), "messages.1"),
        (body(messages=[{"content": "x"}]), "messages.0.role"),
        (body(messages=[USER, {"role": "tool", "content": "x"}]), "messages.1.role"),
        (body(messages=[{"role": "User", "content": "x"}]), "messages.0.role"),
        (body(messages=[{"role": None, "content": "x"}]), "messages.0.role"),
        (body(messages=[{"role": "user"}]), "messages.0.content"),
        (body(messages=[{"role": "user", "content": None}]), "messages.0.content"),
        (body(messages=[{"role": "user", "content": 5}]), "messages.0.content"),
        (body(messages=[{"role": "user", "content": {"type": "text"}}]), "messages.0.content"),
        (body(messages=[{"role": "user", "content": ["x"]}]), "messages.0.content.0"),
        (body(messages=[{"role": "user", "content": [{}]}]), "messages.0.content.0.type"),
        (
            body(messages=[{"role": "user", "content": [{"type": "text"}, {"type": 5}]}]),
            "messages.0.content.1.type",
        ),
        (body(system=5), "system"),
        (body(system=["x"]), "system.0"),
        (body(system=[{"text": "x"}]), "system.0.type"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_invalid_value_is_refused_with_the_name_of_its_field(bad: Body, field: str) -> None:
    error = refusal(bad)
    assert error.field == field
    assert str(error).startswith(f"{field}: ")


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (None, "null"),
        ([], "a list"),
        ("text", "text"),
        (5, "a number"),
        (False, "false"),
        ([("model", "x")], "a list"),
        (b"{}", "bytes"),
    ],
)
def test_a_body_that_is_not_an_object_is_refused(value: Any, kind: str) -> None:
    assert str(refusal(value)) == f"must be an object, not {kind}"


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        (body(messages=None), "must be a list, not null"),
        (body(model=5), "must be text, not a number"),
        (body(max_tokens="100"), "must be a whole number, not text"),
        (body(messages=["x"]), "must be an object, not text"),
        (body(system={"type": "text"}), "must be text or a list of content blocks"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_type_is_named_in_the_words_of_json(bad: Body, problem: str) -> None:
    assert refusal(bad).problem == problem


@pytest.mark.parametrize("field", ["model", "max_tokens", "messages"])
def test_a_missing_field_is_reported_as_required(field: str) -> None:
    assert str(refusal(without(field))) == f"{field}: is required"


def test_too_many_max_tokens_are_refused_with_the_maximum() -> None:
    error = refusal(body(max_tokens=70_000))
    assert str(error) == "max_tokens: 70000 is more than claude-haiku-4-5 can write (64000)"
    error = refusal(body(max_tokens=10**5000))
    assert str(error) == "max_tokens: this number is more than claude-haiku-4-5 can write (64000)"


def test_a_beta_that_is_no_text_is_refused_whatever_it_is() -> None:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    for odd in (nested, 10**5000, None, object()):
        with pytest.raises(InvalidRequest, match="is not the name of a beta"):
            check_betas([odd])


@pytest.mark.parametrize(
    "bad",
    [
        body(messages=["hello"]),
        body(messages=[{"role": "user", "content": ["x"]}]),
        body(system=["x"]),
    ],
    ids=["message", "content", "system"],
)
def test_an_error_message_uses_the_words_of_json_and_not_our_classes(bad: Body) -> None:
    assert "_" not in refusal(bad).problem


def test_a_secret_value_is_not_repeated_in_the_error() -> None:
    secret = "hunter2-hunter2"
    bad = [
        body(messages=[{"role": "user", "content": [secret]}]),
        body(messages=secret),
        body(messages=[{"role": secret, "content": secret}]),
    ]
    assert not [error for error in map(refusal, bad) if secret in str(error)]


@pytest.mark.parametrize(
    "good",
    [
        body(),
        body(max_tokens=64_000),
        body(max_tokens=1),
        body(max_tokens=0),  # fills the prompt cache and generates nothing
        body(model="claude-from-the-future", max_tokens=128_000),
        body(system="be brief"),
        body(system=[{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}]),
        body(messages=[USER, {"role": "assistant", "content": "pre"}]),
        body(messages=[{"role": "system", "content": "x"}, USER]),
        body(messages=[{"role": "user", "content": []}]),
        body(messages=[{"role": "user", "content": [{"type": "not_yet_known", "x": {"y": 1}}]}]),
        body(messages=[{"role": "user", "content": "x", "new_in_a_message": True}]),
        body(temperature=0.5, thinking={"type": "adaptive"}, brand_new={"a": [1, None, "ü\u2028"]}),
        body(messages=[{"role": "user", "content": "str"}], list="str"),
    ],
)
def test_a_body_that_the_api_may_accept_passes_unchanged(good: Body) -> None:
    before = copy.deepcopy(good)
    assert check_body(good) is good
    assert good == before
    assert orjson.loads(encode_body(good)) == before


def test_blocks_of_the_sdk_are_accepted_as_by_the_sdk() -> None:
    answer = Message.construct(role="assistant", content=[TextBlock(type="text", text="hi")])
    request = body(messages=[USER, {"role": "assistant", "content": answer.content}])
    sent = orjson.loads(encode_body(check_body(request)))
    assert sent["messages"][1] == {
        "role": "assistant",
        "content": [{"type": "text", "text": "hi"}],
    }


def test_internal_fields_of_the_sdk_are_not_sent() -> None:
    block = ParsedTextBlock[Any](type="text", text="{}", parsed_output={"a": 1})
    assert orjson.loads(encode_body({"block": block})) == {"block": {"type": "text", "text": "{}"}}


def test_objects_of_the_sdk_are_encoded_without_unset_fields() -> None:
    block = TextBlock(type="text", text="ü")
    assert orjson.loads(encode_body({"x": [block]})) == {"x": [{"type": "text", "text": "ü"}]}


def test_an_iterator_of_messages_is_refused_and_not_consumed() -> None:
    error = refusal(body(messages=(message for message in [USER])))
    assert "generator" in str(error) or error.field == "messages"


def test_a_body_may_be_as_large_as_the_apis_limit() -> None:
    empty = len(encode_body(body(messages=[{"role": "user", "content": ""}])))
    fits = body(messages=[{"role": "user", "content": "x" * (MAX_REQUEST_BYTES - empty)}])
    assert len(encode_body(fits)) == MAX_REQUEST_BYTES == 32_000_000
    fits["messages"][0]["content"] += "x"
    assert str(refusal(fits)) == "32,000,001 bytes is more than the API's limit of 32,000,000"


def test_the_size_of_a_body_is_counted_in_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(validation, "MAX_REQUEST_BYTES", 200)
    assert "bytes is more than" in str(refusal(body(system="日" * 50)))
    assert encode_body(body(system="x" * 50))


def test_more_messages_than_the_apis_limit_are_refused() -> None:
    assert check_body(body(messages=[USER] * 100_000))
    assert refusal(body(messages=[USER] * 100_001)).field == "messages"


def test_a_stream_flag_outside_a_batch_is_accepted() -> None:
    assert check_body(body(stream=True))


def mutated(value: Any) -> st.SearchStrategy[Any]:
    """``value`` with some of its parts replaced."""
    other: st.SearchStrategy[Any] = st.sampled_from(
        [None, 0, -1, 1.5, True, "", "x", "user", [], [{}], {}, {"type": "text"}, ("user",)]
    )
    inner: st.SearchStrategy[Any] = st.just(value)
    if isinstance(value, dict):
        inner = st.fixed_dictionaries({}, optional={k: mutated(v) for k, v in value.items()})
    elif isinstance(value, list):
        inner = st.tuples(*map(mutated, value)).map(list)
    return st.one_of(inner, inner, inner, other)


@settings(max_examples=300, deadline=None)
@given(
    mutated(
        {
            "model": "claude-haiku-4-5",
            "max_tokens": 5,
            "messages": [USER, {"role": "assistant", "content": [{"type": "text", "text": "x"}]}],
            "system": [{"type": "text", "text": "x"}],
        }
    )
)
def test_the_plain_checks_never_accept_what_pydantic_refuses(value: Any) -> None:
    if isinstance(value, dict) and validation._is_plain(value):
        assert validation._problem(value) is None


def test_an_ordinary_body_needs_only_the_plain_checks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(validation, "_problem", lambda _: pytest.fail("pydantic was asked"))
    block = {"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}
    assert check_body(body(system=[block], messages=[USER, {"role": "user", "content": [block]}]))
