"""The workers' settings, each documented here and nowhere else (``penstock settings``)."""

from typing import Annotated, Literal

from pydantic import Field, FiniteFloat, SecretStr

from penstock.settings import ClientSettings

Count = Annotated[int, Field(gt=0)]
Duration = Annotated[FiniteFloat, Field(gt=0)]


class WorkerSettings(ClientSettings):
    """Everything a worker reads from the environment."""

    anthropic_api_key: SecretStr | None = Field(
        default=None,
        validation_alias="ANTHROPIC_API_KEY",
        description="Key for the API. The SDK's other ways (ANTHROPIC_AUTH_TOKEN, a profile, "
        "workload identity) work as well.",
    )
    anthropic_base_url: str | None = Field(
        default=None,
        validation_alias="ANTHROPIC_BASE_URL",
        pattern=r"^https?://",
        description="Address of the API, for a gateway or the simulator.",
    )
    streams_concurrency: Annotated[int, Field(gt=0, le=5000)] = Field(
        default=200, description="Streams one worker process carries at the same time."
    )
    batches_concurrency: Annotated[int, Field(gt=0, le=100)] = Field(
        default=8, description="Batch steps one worker process runs at the same time."
    )
    lease_ms: Annotated[int, Field(ge=500)] = Field(
        default=5_000,
        description="Milliseconds after which a worker that no longer renews its claim counts as "
        "dead; renewed three times in that span.",
    )
    connect_timeout_s: Duration = Field(
        default=10.0, description="Seconds to wait for a connection to the API."
    )
    stream_idle_timeout_s: Duration = Field(
        default=120.0,
        description="Seconds of silence on a stream after which it counts as broken. The API "
        "sends pings, so a healthy stream is never silent for long.",
    )
    log_limit: Annotated[int, Field(ge=100)] = Field(
        default=20_000,
        description="Events of one stream that its log keeps; of a longer one the oldest are "
        "trimmed, and late readers begin with the text so far.",
    )
    max_attempts: Count = Field(
        default=6,
        description="How often the API is called for one stream that keeps breaking off; then it "
        "fails and keeps what was received.",
    )
    stream_total_timeout_s: Duration = Field(
        default=3_600.0,
        description="Seconds from a stream's first claim after which a break is not mended any "
        "more.",
    )
    max_worker_losses: Count = Field(
        default=5,
        description="How many workers may be lost over one request before it fails: it may be "
        "what kills them.",
    )
    prefill: dict[str, bool] = Field(
        default_factory=dict,
        description="JSON object, model id or its beginning → whether it continues a partial "
        "assistant message; for models that penstock does not know.",
    )
    wakeup_retry_s: Duration = Field(
        default=10.0,
        description="Seconds after which a wake-up that did not arrive is sent again.",
    )
    max_api_retries: Count = Field(
        default=20,
        description="How often a request that the API refuses for the moment (429, 529, 5xx) "
        "goes back to the queue before it fails.",
    )
    api_retry_max_wait_s: Duration = Field(
        default=60.0,
        description="Longest wait in seconds before a refused call is made again, unless the "
        "API's retry-after asks for more.",
    )
    poll_interval_min_s: Duration = Field(
        default=5.0, description="Shortest wait in seconds between two looks at a batch."
    )
    poll_interval_max_s: Annotated[float, Field(gt=0, le=900)] = Field(
        default=300.0,
        description="Longest wait in seconds between two looks at a batch; far below "
        "PENSTOCK_VISIBILITY_TIMEOUT_S.",
    )
    poll_interval_ratio: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.05,
        description="The wait between two looks, as a share of the batch's age: results wait at "
        "most about this much of the time their batch took.",
    )
    upload_timeout_s: Duration = Field(
        default=600.0, description="Seconds to wait for the API's answer to a batch create."
    )
    active_batches_limit: Count = Field(
        default=90,
        description="Batches of the whole deployment that may be active at the API at once (its "
        "own limit is about 100).",
    )
    queued_requests_limit: Count = Field(
        default=200_000,
        description="Requests in these batches together; the API's limit for the organization is "
        "200,000, 300,000 or 500,000 by its tier.",
    )
    lost_create_wait_s: Duration = Field(
        default=900.0,
        description="Seconds in which the API may still make a batch of a create call whose answer "
        "was lost. Only after them, and two looks that did not find it, is the call made again.",
    )
    list_consistency_s: Duration = Field(
        default=60.0,
        description="Seconds that a new batch may take to appear in the API's list; between the "
        "two looks lies at least this time.",
    )
    dedicated_workspace: bool = Field(
        default=False,
        description="Whether nothing else makes batches in the API workspace: then a batch that "
        "turns out to be a late twin of one of ours is canceled, and one that nobody knows raises "
        "an alert.",
    )
    max_retry_rounds: Annotated[int, Field(ge=0)] = Field(
        default=3,
        description="How often requests of a batch that expired, or failed for a passing reason, "
        "are sent again in a batch of their own.",
    )
    circuit_breaker_ratio: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.5,
        description="Share of a batch's requests that end in the same error from which on the job "
        "is paused before more of it is sent.",
    )
    results_alert_days: Annotated[FiniteFloat, Field(gt=0, le=29)] = Field(
        default=22.0,
        description="Days from a batch's creation after which results that are not collected yet "
        "raise an alert in the job's record; the API removes them after 29.",
    )
    visibility_timeout_s: Annotated[int, Field(ge=1800)] = Field(
        default=3_600,
        description="Seconds after which Redis hands out again a message that a worker took and "
        "never acknowledged.",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="Least level that is logged."
    )
    log_format: Literal["text", "json"] = Field(
        default="text", description="How a log line is written: for people, or one JSON object."
    )
