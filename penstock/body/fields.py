"""The names of a request's arguments: fields of the body, options of Penstock, and other names.

A field that the API adds must work at once, so a name that is not known is sent to the API. Only
names that are certain to be a mistake are rejected: options of the Anthropic SDK or of Celery that
have no meaning here, and names that resemble a known one. ``extra_body`` takes any name.
"""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, Final

from penstock.body.values import is_omitted, kind_of
from penstock.errors import InvalidRequest

#: Fields of the Messages API, betas included.
BODY_FIELDS: Final = frozenset(
    {
        "billing_policy",
        "cache_control",
        "compaction",
        "container",
        "context_management",
        "diagnostics",
        "fallback_credit_token",
        "fallbacks",
        "inference_geo",
        "max_tokens",
        "mcp_servers",
        "messages",
        "metadata",
        "model",
        "output_config",
        "service_tier",
        "speed",
        "stop_sequences",
        "stream",
        "system",
        "temperature",
        "thinking",
        "thread",
        "tool_choice",
        "tools",
        "top_k",
        "top_p",
    }
)

#: Options of `penstock.client.Messages.enqueue`.
REQUEST_OPTIONS: Final = (
    "betas",
    "deadline",
    "extra_body",
    "extra_headers",
    "on_interrupt",
    "priority",
    "typed",
    "user_profile_id",
    "workspace_id",
)

#: Arguments of the SDK that it sends as headers: name → header.
HEADER_OPTIONS: Final = {
    "user_profile_id": "anthropic-user-profile-id",
    "workspace_id": "anthropic-workspace-id",
}

_WORKERS_HAVE_KEYS: Final = "workers call the API: set ANTHROPIC_API_KEY for them"
_CELERY: Final = "is an option of Celery, not of a request: use priority or deadline"

#: Names from elsewhere → what to do instead.
ELSEWHERE: Final[Mapping[str, str]] = {
    "api_key": _WORKERS_HAVE_KEYS,
    "auth_token": _WORKERS_HAVE_KEYS,
    "base_url": "workers call the API: set ANTHROPIC_BASE_URL for them",
    "default_headers": "is not supported: pass extra_headers with each request",
    "default_query": "query parameters are not passed on to the API",
    "extra_query": "query parameters are not passed on to the API",
    "headers": "is not a field of the API: pass extra_headers",
    "http_client": "workers call the API: set the proxy in their environment",
    "idempotency_key": "is not supported: a request is enqueued once, and its id identifies it",
    "max_retries": "workers retry: set PENSTOCK_MAX_API_RETRIES for them",
    "timeout": "pass timeout to stream() or result(), or bound the time in the queue with deadline",
    **dict.fromkeys(("countdown", "eta", "expires", "queue", "retry", "routing_key"), _CELERY),
}

#: Ratio of equal characters (difflib) from which a name is taken for a misspelling: of an option,
#: or of a field of the API, which may well get another field with a similar name.
_LIKE_AN_OPTION: Final = 0.8
_LIKE_A_FIELD: Final = 0.9


def body_fields(
    arguments: Mapping[str, Any], options: Iterable[str] = REQUEST_OPTIONS
) -> dict[str, Any]:
    """Return the arguments that are fields of the body.

    Leaves out the SDK's ``NOT_GIVEN`` and ``omit``. ``options``: the options of Penstock at this
    place. Raises `InvalidRequest` for a name that is certain to be a mistake. For example::

        >>> body_fields({"model": "claude-haiku-4-5", "priorty": 1})
        Traceback (most recent call last):
        penstock.errors.InvalidRequest: priorty: is unknown; did you mean priority? …
    """
    fields = {name: value for name, value in arguments.items() if not is_omitted(value)}
    if fields.keys() <= BODY_FIELDS:
        return fields
    for name in fields.keys() - BODY_FIELDS - HEADER_OPTIONS.keys():
        if name not in ELSEWHERE:
            _check_similar(name, options)
        elif fields.pop(name) is not None:
            raise InvalidRequest(ELSEWHERE[name], field=name)
    return fields


def more_fields(extra_body: Any) -> dict[str, Any]:
    """Return the fields in ``extra_body``. Raises `InvalidRequest`."""
    if extra_body is None or is_omitted(extra_body):
        return {}
    if not isinstance(extra_body, Mapping):
        raise InvalidRequest(f"must be an object, not {kind_of(extra_body)}", field="extra_body")
    if "betas" in extra_body:
        raise InvalidRequest("is a header: pass it as an option", field="extra_body.betas")
    return dict(extra_body)


def check_params_names(params: Mapping[str, Any]) -> None:
    """Raise `InvalidRequest` for a name that cannot be a field of a request in a batch.

    Names that only resemble a known one pass: params have no ``extra_body`` for a new field.
    """
    if params.keys() <= BODY_FIELDS:
        return
    for name in params:
        if name == "betas":
            problem = "is a header, not a field of the body: put betas beside params"
            raise InvalidRequest(problem, field=name)
        if name in REQUEST_OPTIONS or name in ELSEWHERE:
            raise InvalidRequest("is not a field of the Messages API", field=name)


def _check_similar(name: str, options: Iterable[str]) -> None:
    similar = get_close_matches(name, (*options, *ELSEWHERE), n=1, cutoff=_LIKE_AN_OPTION)
    similar += get_close_matches(name, BODY_FIELDS, n=1, cutoff=_LIKE_A_FIELD)
    if similar:
        problem = f"is unknown; did you mean {similar[0]}? (extra_body takes fields of any name.)"
        raise InvalidRequest(problem, field=name)
