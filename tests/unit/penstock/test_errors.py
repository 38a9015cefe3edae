"""Errors: one tree, each with a message, and nothing lost by pickling."""

import inspect
import pickle
from typing import Any

import pytest

import penstock
from penstock import errors
from penstock.errors import InvalidRequest, PenstockError, RequestCanceled, RequestFailed

CLASSES = [
    member
    for _, member in inspect.getmembers(errors, inspect.isclass)
    if issubclass(member, Exception)
]
SAMPLES: list[PenstockError] = [
    PenstockError(),
    PenstockError("something"),
    errors.ConfigurationError("PENSTOCK_X: wrong"),
    InvalidRequest("is required", field="model", line=3),
    errors.RedisUnavailable(),
    errors.NotFound("no record of x"),
    errors.NotEnded(),
    RequestFailed({"type": "overloaded_error", "message": "busy", "status": 529}, text="half"),
    RequestCanceled("canceled by me", text="half"),
    errors.MissingDependency("the anthropic SDK", "worker"),
    errors.MissingDependency("what fsspec needs for s3://", hint="Install s3fs"),
    errors.SpoolUnavailable(),
    errors.LocalProcessError("redis ended"),
]


def test_all_errors_are_in_one_tree_and_have_a_sample() -> None:
    assert all(issubclass(error, PenstockError) for error in CLASSES)
    samples = {type(error) for error in SAMPLES}
    plain = {kind for kind in CLASSES if "__init__" not in vars(kind)}
    assert set(CLASSES) - plain <= samples


def test_the_docstring_is_the_default_message() -> None:
    assert str(PenstockError()) == "Something went wrong in Penstock."
    assert str(errors.RedisUnavailable()).startswith("Redis cannot be reached")
    assert str(RequestCanceled()) == "The request was canceled."


@pytest.mark.parametrize("error", SAMPLES, ids=lambda error: type(error).__name__)
def test_every_message_is_one_line(error: PenstockError) -> None:
    assert str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("field", "line", "message"),
    [
        (None, None, "is wrong"),
        ("model", None, "model: is wrong"),
        (None, 4, "line 4: is wrong"),
        ("params.model", 4, "line 4: params.model: is wrong"),
        ("model", 0, "line 0: model: is wrong"),
    ],
)
def test_an_invalid_request_names_line_and_field(
    field: str | None, line: int | None, message: str
) -> None:
    error = InvalidRequest("is wrong", field=field, line=line)
    assert str(error) == message
    assert (error.problem, error.field, error.line) == ("is wrong", field, line)


def test_an_error_can_be_moved_into_a_parent_field() -> None:
    inner = InvalidRequest("is required", field="model")
    assert str(inner.inside("params").at_line(7)) == "line 7: params.model: is required"
    assert str(inner.at_line(7).inside("params")) == "line 7: params.model: is required"
    assert InvalidRequest("must be an object").inside("params").field == "params"
    assert inner.field == "model"  # itself unchanged
    assert inner.line is None


def test_a_missing_dependency_is_reported_with_the_command_that_installs_it() -> None:
    assert str(errors.MissingDependency("pyarrow", "parquet")) == (
        "pyarrow is not installed. Try: pip install 'penstock-celery[parquet]'"
    )


def test_a_failed_request_keeps_the_error_and_the_text() -> None:
    error = RequestFailed({"type": "api_error", "message": "broken"}, text="so far")
    assert str(error) == "api_error: broken"
    assert error.text == "so far"
    assert str(RequestFailed({})) == "error: no message"


@pytest.mark.parametrize("error", SAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_survives_pickling(error: PenstockError) -> None:
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert public(copy) == public(error)


def public(error: PenstockError) -> dict[str, Any]:
    return {name: value for name, value in vars(error).items() if not name.startswith("_")}


def test_the_errors_that_users_catch_are_in_the_package() -> None:
    for name in ("InvalidRequest", "NotFound", "RedisUnavailable", "RequestFailed"):
        assert getattr(penstock, name) is getattr(errors, name)


def test_every_public_name_can_be_imported() -> None:
    for name in penstock.__all__:
        assert getattr(penstock, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'Nonsense'"):
        penstock.Nonsense  # noqa: B018
