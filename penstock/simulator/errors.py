"""Errors in the API's words: a status, a type, a message and one JSON envelope."""

from collections.abc import Mapping
from typing import Any

STATUS_OF_TYPE = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "conflict_error": 409,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
TYPE_OF_STATUS = {status: kind for kind, status in STATUS_OF_TYPE.items()}

_WORDS = {
    "overloaded_error": "Overloaded",
    "api_error": "Internal server error",
    "timeout_error": "The request timed out.",
    "rate_limit_error": "This request would exceed your organization's rate limit.",
    "authentication_error": "API key is invalid.",
    "billing_error": "There is an issue with your billing or payment information.",
    "permission_error": "Your API key does not have permission to use the specified resource.",
    "request_too_large": "Request exceeds the maximum allowed number of bytes.",
}


#: The API sends this as an invalid_request_error, though the request itself is valid.
NO_CREDIT = (
    "Your credit balance is too low to access the Anthropic API. "
    "Please go to Plans & Billing to upgrade or purchase credits."
)


class ApiError(Exception):
    """An error response. Status and message follow from ``kind`` unless given."""

    def __init__(
        self,
        kind: str,
        message: str = "",
        *,
        status: int = 0,
        error_code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.kind = kind
        self.message = message or _WORDS.get(kind, kind)
        self.status = status or STATUS_OF_TYPE.get(kind, 500)
        self.error_code = error_code
        self.headers = dict(headers or {})
        super().__init__(self.message)

    def envelope(self, request_id: str | None) -> dict[str, Any]:
        """The JSON body that carries this error."""
        error: dict[str, Any] = {"type": self.kind, "message": self.message}
        if self.error_code:
            error["details"] = {"error_code": self.error_code}
        return {"type": "error", "error": error, "request_id": request_id}


def invalid(message: str) -> ApiError:
    """The 400 for a request that is not valid."""
    return ApiError("invalid_request_error", message)


def not_found(message: str) -> ApiError:
    """The 404 for something that does not exist."""
    return ApiError("not_found_error", message)
