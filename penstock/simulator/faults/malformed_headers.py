"""Headers that surprise clients, as data."""

from datetime import UTC, datetime, timedelta

_REQUESTS = "anthropic-ratelimit-requests"
_TOKENS = "anthropic-ratelimit-input-tokens"

_HEADERS: dict[str, dict[str, str]] = {
    "long": {"x-long": "a" * 9000},
    "many": {f"x-header-{number}": "a" for number in range(200)},
    "quota_text": {f"{_REQUESTS}-{name}": "many" for name in ("limit", "remaining", "reset")},
    "quota_infinite": {
        f"{_REQUESTS}-limit": "inf",
        f"{_REQUESTS}-remaining": "-1",
        f"{_REQUESTS}-reset": "9999-12-31T23:59:59Z",
    },
}
_MONTHLY = "monthly_quota"
_MONTH = timedelta(days=20)

MALFORMED_HEADERS = frozenset({*_HEADERS, _MONTHLY})


def headers(name: str, now: datetime | None = None) -> dict[str, str]:
    """The headers of one of `MALFORMED_HEADERS`."""
    if name != _MONTHLY:
        return _HEADERS[name]
    reset = ((now or datetime.now(UTC)) + _MONTH).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        f"{quota}-{field}": value
        for quota, limit in ((_REQUESTS, "1000000"), (_TOKENS, "100000000"))
        for field, value in (("limit", limit), ("remaining", "0"), ("reset", reset))
    }
