"""The settings of the workers, documented here and shown by ``penstock settings``."""

from typing import Annotated, Any, Literal
from urllib.parse import unquote, urlsplit

from pydantic import Field, FiniteFloat, SecretStr, field_validator

from penstock.access.credentials import custom_headers_problem, header_problem, without_wrapping
from penstock.access.redaction import login_secrets, protect
from penstock.settings import ClientSettings

Count = Annotated[int, Field(gt=0)]
Duration = Annotated[FiniteFloat, Field(gt=0)]


class WorkerSettings(ClientSettings):
    """All settings that a worker reads from the environment."""

    anthropic_api_key: SecretStr | None = Field(
        default=None,
        validation_alias="ANTHROPIC_API_KEY",
        description="Key for the Anthropic API. The SDK's other credentials (a profile, workload "
        "identity) work as well. White space and quotation marks around it are removed.",
    )
    anthropic_auth_token: SecretStr | None = Field(
        default=None,
        validation_alias="ANTHROPIC_AUTH_TOKEN",
        description="Bearer token, such as of a gateway; used if there is no ANTHROPIC_API_KEY.",
    )
    anthropic_custom_headers: SecretStr | None = Field(
        default=None,
        validation_alias="ANTHROPIC_CUSTOM_HEADERS",
        description="More headers for every call of the API, one a line: `name: value`.",
    )
    anthropic_base_url: str | None = Field(
        default=None,
        validation_alias="ANTHROPIC_BASE_URL",
        pattern=r"^https?://",
        repr=False,  # it may have a password
        description="Address of the API without /v1; set it for a gateway or the simulator.",
    )
    streams_concurrency: Annotated[int, Field(gt=0, le=5000)] = Field(
        default=200, description="Maximum streams that one worker process runs at the same time."
    )
    batches_concurrency: Annotated[int, Field(gt=0, le=100)] = Field(
        default=8, description="Maximum batch steps that one worker process runs at the same time."
    )
    lease_ms: Annotated[int, Field(ge=500)] = Field(
        default=5_000,
        description="Milliseconds until a worker that does not renew its lease counts as dead; a "
        "lease is renewed three times in that time.",
    )
    connect_timeout_s: Duration = Field(
        default=10.0, description="Seconds to wait for a connection to the API."
    )
    stream_idle_timeout_s: Duration = Field(
        default=120.0,
        description="Seconds of silence until a stream counts as interrupted, before its first "
        "byte too. The API sends pings, so a healthy stream is never silent for long.",
    )
    log_limit: Annotated[int, Field(ge=100)] = Field(
        default=20_000,
        description="Maximum events that the log of one stream keeps. Older events are trimmed, "
        "and late readers begin with the text so far.",
    )
    max_attempts: Count = Field(
        default=6,
        description="Maximum calls to the API in a row that do not advance an interrupted stream, "
        "answered or not; after the last one it fails and keeps what was received. Its calls also "
        "never cost more than this number of complete answers.",
    )
    stream_total_timeout_s: Duration = Field(
        default=7_200.0,
        description="Maximum seconds of one call for a stream or a canary, whatever keeps "
        "arriving; also the seconds after a stream's first claim from which on an "
        "interrupted answer is no longer resumed.",
    )
    max_worker_losses: Count = Field(
        default=5,
        description="Maximum workers lost while they run one request; after that it fails, because "
        "the request itself may be what kills them.",
    )
    prefill: dict[str, bool] = Field(
        default_factory=dict,
        description="JSON object: model id or prefix → whether the model continues a partial "
        "assistant message; for models that Penstock does not know.",
    )
    wakeup_retry_s: Duration = Field(
        default=10.0,
        description="Seconds until a wake-up that was lost is sent again.",
    )
    max_api_retries: Count = Field(
        default=20,
        description="Maximum temporary rejections (429, 529, 5xx) of one request by the API: it is "
        "retried after each of them except the last, after which it fails.",
    )
    api_retry_max_wait_s: Duration = Field(
        default=60.0,
        description="Maximum seconds until a rejected call is retried, unless the API's "
        "retry-after asks for more.",
    )
    poll_interval_min_s: Duration = Field(
        default=5.0, description="Minimum seconds between two polls of a batch."
    )
    poll_interval_max_s: Annotated[float, Field(gt=0, le=900)] = Field(
        default=300.0,
        description="Maximum seconds between two polls of a batch; must stay far below "
        "PENSTOCK_VISIBILITY_TIMEOUT_S.",
    )
    poll_interval_ratio: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.05,
        description="Seconds between two polls as a share of the batch's age: finished results "
        "wait at most about this share of the time that their batch took.",
    )
    upload_timeout_s: Duration = Field(
        default=600.0, description="Seconds to wait for the API's response to a create call."
    )
    active_batches_limit: Count = Field(
        default=90,
        description="Maximum batches of the whole deployment that are active at the API at the "
        "same time; the API's own limit is about 100.",
    )
    queued_requests_limit: Count = Field(
        default=200_000,
        description="Maximum requests in all active batches together; the API's limit for an "
        "organization is 200,000, 300,000 or 500,000, depending on its tier.",
    )
    lost_create_wait_s: Duration = Field(
        default=900.0,
        description="Seconds in which the API may still create the batch of a call whose response "
        "was lost. The call is repeated only after that, and after two searches that did not find "
        "the batch.",
    )
    list_consistency_s: Duration = Field(
        default=60.0,
        description="Maximum seconds until a new batch appears in the API's list; also the minimum "
        "time between the two searches.",
    )
    dedicated_workspace: bool = Field(
        default=False,
        description="Whether only Penstock creates batches in the API workspace. If so, a "
        "duplicate of one of its batches is canceled, and a batch that it does not know raises an "
        "alert.",
    )
    max_retry_rounds: Annotated[int, Field(ge=0)] = Field(
        default=3,
        description="Maximum rounds in which expired requests and requests with a retryable error "
        "are sent again, each round in a batch of its own.",
    )
    circuit_breaker_ratio: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.5,
        description="Share of a batch's requests that must end in the same error for the job to be "
        "paused before more of it is sent.",
    )
    results_alert_days: Annotated[FiniteFloat, Field(gt=0, le=29)] = Field(
        default=22.0,
        description="Days after a batch's creation until uncollected results raise an alert in the "
        "job's record; the API removes results after 29 days.",
    )
    visibility_timeout_s: Annotated[int, Field(ge=1800)] = Field(
        default=3_600,
        description="Seconds until a message that a worker received but did not acknowledge is "
        "delivered again.",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="Lowest level that is logged."
    )
    log_format: Literal["text", "json"] = Field(
        default="text", description="Format of a log line: text, or one JSON object."
    )

    @field_validator(
        "anthropic_api_key", "anthropic_auth_token", "anthropic_base_url", mode="before"
    )
    @classmethod
    def _unwrapped(cls, value: Any) -> Any:
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        if not isinstance(text, str) or not text:
            return value
        if not (unwrapped := without_wrapping(text)):
            raise ValueError("is blank; set it to a value, or unset it")
        return unwrapped

    @field_validator("anthropic_api_key", "anthropic_auth_token")
    @classmethod
    def _sendable(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            if problem := header_problem(value.get_secret_value()):
                raise ValueError(problem)
            protect([value.get_secret_value()])
        return value

    @field_validator("anthropic_custom_headers")
    @classmethod
    def _sendable_headers(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and (problem := custom_headers_problem(value.get_secret_value())):
            raise ValueError(problem)
        return value

    @field_validator("anthropic_base_url")
    @classmethod
    def _usable_address(cls, value: str | None) -> str | None:
        # The messages do not contain the address: it may have a password.
        try:
            parts = urlsplit(value or "https://api.anthropic.com")
            valid = bool(parts.hostname) and (parts.port or 0) >= 0
        except ValueError:  # a port that is no number, a bracket without its other half
            valid = False
        if not valid or any(character.isspace() for character in value or ""):
            raise ValueError("is not a URL; write https://host or https://host:port")
        if parts.path.rstrip("/").endswith("/v1"):
            raise ValueError("ends in /v1, which every call adds itself; remove it")
        if "@" in f"{parts.path}{parts.query}{parts.fragment}" or parts.query or parts.fragment:
            raise ValueError(
                "has more than a host and a path; write / ? # and @ in a password as "
                "%2F %3F %23 %40"
            )
        protect(login_secrets(unquote(parts.username or ""), unquote(parts.password or "")))
        return value
