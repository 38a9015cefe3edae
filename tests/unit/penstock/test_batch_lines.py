"""The validation of one line of a job: its custom_id, its params, and no other field."""

from types import MappingProxyType
from typing import Any

import pytest
from anthropic import NOT_GIVEN
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from penstock.errors import InvalidRequest
from penstock.validation import check_custom_id, check_line

PARAMS = {
    "model": "claude-haiku-4-5",
    "max_tokens": 100,
    "messages": [{"role": "user", "content": "hello"}],
}


def line(**fields: Any) -> dict[str, Any]:
    return {"custom_id": "a", "params": PARAMS, **fields}


def params(**fields: Any) -> dict[str, Any]:
    return line(params={**PARAMS, **fields})


def test_a_valid_line_is_divided_into_its_fields_unchanged() -> None:
    custom_id, taken, betas = check_line(line())
    assert (custom_id, taken, betas) == ("a", PARAMS, ())
    assert taken is PARAMS


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ({"params": PARAMS}, "custom_id"),
        ({}, "custom_id"),
        (line(custom_id=None), "custom_id"),
        (line(custom_id=5), "custom_id"),
        (line(custom_id=["a"]), "custom_id"),
        (line(custom_id=""), "custom_id"),
        (line(custom_id="a" * 65), "custom_id"),
        (line(custom_id="a b"), "custom_id"),
        (line(custom_id="a.b"), "custom_id"),
        (line(custom_id="é"), "custom_id"),
        (line(custom_id="a\n"), "custom_id"),
        (line(custom_id="\u0661"), "custom_id"),
        ({"custom_id": "a"}, "params"),
        (line(params=None), "params"),
        (line(params=[PARAMS]), "params"),
        (line(params={}), "params.model"),
        (params(model=""), "params.model"),
        (params(max_tokens=0), "params.max_tokens"),
        (params(max_tokens=300_001), "params.max_tokens"),
        (params(messages=[]), "params.messages"),
        (params(messages=[{"role": "x", "content": "x"}]), "params.messages.0.role"),
        (params(stream=True), "params.stream"),
        (line(betas="one"), "betas"),
        (line(betas=None), "betas"),
        (line(betas=["a,b"]), "betas"),
        (line(method="POST"), "method"),
        (line(url="/v1/messages", body={}), "body"),  # the other vendor's format
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_invalid_line_is_refused_by_the_name_of_its_field(
    bad: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_line(bad)
    assert caught.value.field == field


def test_a_line_without_params_is_refused_as_incomplete() -> None:
    with pytest.raises(InvalidRequest, match="params: is required"):
        check_line({"custom_id": "a"})


@pytest.mark.parametrize("value", [None, "text", 5, [], ("a", PARAMS)])
def test_a_line_that_is_no_object_is_refused(value: Any) -> None:
    with pytest.raises(InvalidRequest, match="must be an object, not "):
        check_line(value)


def test_unknown_fields_of_any_type_are_refused() -> None:
    mixed: dict[Any, Any] = {**line(), 1: "x", "y": 2}
    with pytest.raises(InvalidRequest, match="is not a field of a batch request"):
        check_line(mixed)


def test_betas_of_a_line_are_sorted_and_each_listed_once() -> None:
    assert check_line(line(betas=["b-2", "a.1", "b-2"]))[2] == ("a.1", "b-2")
    assert check_line(line(betas=[]))[2] == ()


def test_a_line_may_have_more_max_tokens_than_a_live_call() -> None:
    assert check_line(params(max_tokens=300_000))


def test_a_line_may_say_that_it_is_not_streamed() -> None:
    assert check_line(params(stream=False))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.from_regex(r"[a-zA-Z0-9_-]{1,64}", fullmatch=True))
def test_every_well_formed_custom_id_is_accepted(custom_id: str) -> None:
    assert check_custom_id(custom_id) == custom_id


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text())
def test_a_custom_id_that_the_api_rejects_is_refused(custom_id: str) -> None:
    allowed = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
    if 1 <= len(custom_id) <= 64 and set(custom_id) <= allowed:
        assert check_custom_id(custom_id) == custom_id
    else:
        with pytest.raises(InvalidRequest, match="1 to 64 letters"):
            check_custom_id(custom_id)


def test_a_very_long_custom_id_is_cut_in_the_error() -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_custom_id("x" * 100_000)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("bad", "field", "words"),
    [
        (params(thread={"type": "create"}), "params.thread", "cannot be part of a thread"),
        (params(max_tokens=0), "params.max_tokens", "at least 1 in a batch"),
        (params(betas=["a-1"]), "params.betas", "put betas beside params"),
        (params(timeout=5), "params.timeout", "not a field of the Messages API"),
        (params(priority=1), "params.priority", "not a field of the Messages API"),
        (
            {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": PARAMS},
            "body",
            "OpenAI's batch format: replace method, url and body with params",
        ),
        (PARAMS, None, 'write {"custom_id": "a-unique-name", "params": BODY}'),
    ],
)
def test_a_mistake_is_refused_with_advice(bad: Any, field: str | None, words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_line(bad)
    assert caught.value.field == field
    assert words in caught.value.problem


def test_params_that_are_not_given_are_left_out() -> None:
    assert check_line(params(system=NOT_GIVEN))[1] == PARAMS


def test_a_request_may_be_a_mapping_or_an_object_of_a_program() -> None:
    class Params(BaseModel):
        model: str = "claude-haiku-4-5"
        max_tokens: int
        messages: list[dict[str, str]]

    typed = Params.model_validate(PARAMS)
    assert check_line(MappingProxyType(line(params=typed)))[1] == PARAMS


def test_a_new_field_of_the_api_passes_in_a_batch() -> None:
    new = params(brand_new={"a": 1})
    assert check_line(new)[1] is new["params"]
