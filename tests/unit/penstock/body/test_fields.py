"""The names of a request's arguments: mistakes are rejected, new fields of the API are sent."""

from inspect import signature
from typing import Any

import pytest
from anthropic import NOT_GIVEN, omit
from anthropic.resources.beta.messages import Messages as BetaMessages
from anthropic.resources.messages import Messages as SdkMessages

from penstock.body.fields import (
    BODY_FIELDS,
    ELSEWHERE,
    REQUEST_OPTIONS,
    body_fields,
    check_params_names,
    more_fields,
)
from penstock.client import Messages
from penstock.errors import InvalidRequest

BODY = {"model": "claude-haiku-4-5", "max_tokens": 1, "messages": []}


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("priorty", "priority"),
        ("on_interupt", "on_interrupt"),
        ("interrupt", "on_interrupt"),
        ("dedline", "deadline"),
        ("beta", "betas"),
        ("extra_header", "extra_headers"),
        ("max_token", "max_tokens"),
        ("sytem", "system"),
        ("stop_sequence", "stop_sequences"),
        ("max_retry", "max_retries"),
    ],
)
def test_a_misspelled_name_is_rejected_with_the_right_one(name: str, meant: str) -> None:
    with pytest.raises(InvalidRequest, match=f"did you mean {meant}\\?") as caught:
        body_fields({**BODY, name: 1})
    assert caught.value.field == name


@pytest.mark.parametrize("name", sorted(ELSEWHERE))
def test_an_option_from_elsewhere_is_rejected_with_advice(name: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        body_fields({**BODY, name: 5})
    assert (caught.value.field, caught.value.problem) == (name, ELSEWHERE[name])
    assert body_fields({**BODY, name: None}) == BODY  # not used
    assert body_fields({**BODY, name: NOT_GIVEN}) == BODY


@pytest.mark.parametrize("name", ["brand_new", "memory", "reasoning", "audio", "seed"])
def test_a_new_field_of_the_api_is_sent(name: str) -> None:
    assert body_fields({**BODY, name: {"a": 1}})[name] == {"a": 1}


def test_every_argument_of_the_sdk_is_a_field_an_option_or_rejected() -> None:
    arguments: set[str] = set()
    for method in (SdkMessages.create, BetaMessages.create):
        arguments |= signature(method).parameters.keys() - {"self"}
    assert arguments <= BODY_FIELDS | set(REQUEST_OPTIONS) | ELSEWHERE.keys()


def test_the_list_of_options_is_that_of_enqueue() -> None:
    options = signature(Messages.enqueue).parameters.keys() - {"self", "body"}
    assert set(REQUEST_OPTIONS) == options | {"user_profile_id", "workspace_id"}


@pytest.mark.parametrize("missing", [NOT_GIVEN, omit])
def test_arguments_that_are_not_given_are_left_out(missing: Any) -> None:
    assert body_fields({**BODY, "system": missing, "unknown": missing}) == BODY


@pytest.mark.parametrize("extra", [None, NOT_GIVEN, {}])
def test_an_empty_extra_body_adds_nothing(extra: Any) -> None:
    assert more_fields(extra) == {}


def test_extra_body_takes_fields_of_any_name() -> None:
    assert more_fields({"max_token": 1, "timeout": 2}) == {"max_token": 1, "timeout": 2}


@pytest.mark.parametrize(
    ("extra", "field"),
    [([1], "extra_body"), ("x", "extra_body"), ({"betas": ["a"]}, "extra_body.betas")],
)
def test_an_extra_body_that_the_api_certainly_rejects_is_refused(extra: Any, field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        more_fields(extra)
    assert caught.value.field == field


@pytest.mark.parametrize("name", ["betas", "timeout", "extra_headers", "priority", "max_retries"])
def test_an_option_among_the_params_of_a_batch_request_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_params_names({**BODY, name: 1})
    assert caught.value.field == name


def test_params_take_every_other_name() -> None:
    check_params_names({**BODY, "brand_new": 1, "systems": 2})
