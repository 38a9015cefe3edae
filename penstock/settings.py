"""Settings of producers and readers. Workers have more settings, in ``config/``."""

import os
from collections.abc import Mapping
from typing import Annotated, Any, Final, Self

from pydantic import Field, FiniteFloat, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from penstock.access.credentials import without_wrapping
from penstock.access.redaction import login_secrets, protect
from penstock.access.redis_url import RedisUrl
from penstock.access.tls_files import check_files
from penstock.api_limits import MAX_BATCH_BYTES, MAX_BATCH_REQUESTS
from penstock.errors import ConfigurationError
from penstock.keys import Keys

Seconds = Annotated[int, Field(gt=0)]

#: Former names of settings, of clients and workers. A process that finds one in its environment
#: refuses to start: ignoring it would silently use the default.
RENAMED: Final = {
    "PENSTOCK_ATTEMPTS_LIMIT": "PENSTOCK_MAX_ATTEMPTS",
    "PENSTOCK_BREAKER_SHARE": "PENSTOCK_CIRCUIT_BREAKER_RATIO",
    "PENSTOCK_CREATE_QUARANTINE_S": "PENSTOCK_LOST_CREATE_WAIT_S",
    "PENSTOCK_DEATHS_LIMIT": "PENSTOCK_MAX_WORKER_LOSSES",
    "PENSTOCK_IDLE_TIMEOUT_S": "PENSTOCK_STREAM_IDLE_TIMEOUT_S",
    "PENSTOCK_LIST_LAG_S": "PENSTOCK_LIST_CONSISTENCY_S",
    "PENSTOCK_POLL_MAX_S": "PENSTOCK_POLL_INTERVAL_MAX_S",
    "PENSTOCK_POLL_MIN_S": "PENSTOCK_POLL_INTERVAL_MIN_S",
    "PENSTOCK_POLL_SHARE": "PENSTOCK_POLL_INTERVAL_RATIO",
    "PENSTOCK_REAPER_WAIT_S": "PENSTOCK_WAKEUP_RETRY_S",
    "PENSTOCK_REFUSALS_LIMIT": "PENSTOCK_MAX_API_RETRIES",
    "PENSTOCK_REFUSAL_MAX_WAIT_S": "PENSTOCK_API_RETRY_MAX_WAIT_S",
    "PENSTOCK_RESULTS_ALARM_DAYS": "PENSTOCK_RESULTS_ALERT_DAYS",
    "PENSTOCK_ROUNDS_LIMIT": "PENSTOCK_MAX_RETRY_ROUNDS",
    "PENSTOCK_TOTAL_TIMEOUT_S": "PENSTOCK_STREAM_TOTAL_TIMEOUT_S",
    "PENSTOCK_WORKSPACE_EXCLUSIVE": "PENSTOCK_DEDICATED_WORKSPACE",
}


class ClientSettings(BaseSettings):
    """Settings of every Penstock process, read from ``PENSTOCK_*`` environment variables."""

    model_config = SettingsConfigDict(
        env_prefix="PENSTOCK_",
        extra="ignore",
        frozen=True,
        env_ignore_empty=True,
        hide_input_in_errors=True,  # an input may be a password
    )

    redis_url: SecretStr = Field(
        default=SecretStr("redis://127.0.0.1:6379/0"),
        description="Redis for records, events and the Celery queues: redis://, rediss:// (TLS) or "
        "unix://, with user and password where needed. Options: db, client_name and, with "
        "rediss://, ssl_ca_certs, ssl_ca_path, ssl_certfile, ssl_keyfile, ssl_password, "
        "ssl_cert_reqs and ssl_check_hostname. Certificates are verified by default.",
    )
    key_prefix: str = Field(
        default="penstock",
        pattern=r"^[A-Za-z0-9_.:-]{1,64}$",
        description="First part of every key and channel, so that deployments can share a Redis.",
    )
    redis_timeout_s: Annotated[FiniteFloat, Field(gt=0)] = Field(
        default=5.0,
        description="Seconds to wait for a connection to Redis, or for one reply.",
    )
    request_ttl_s: Seconds = Field(
        default=86_400,
        description="Seconds until a request's record expires after its last write; a request "
        "that no worker takes in this time expires.",
    )
    retention_s: Seconds = Field(
        default=3_600, description="Seconds for which a stream can be read after its end."
    )
    batch_ttl_s: Seconds = Field(
        default=30 * 86_400,
        description="Seconds until a batch job's record and its spool expire after their last "
        "write; the API keeps results for 29 days.",
    )
    batch_retention_s: Seconds = Field(
        default=7 * 86_400,
        description="Seconds for which a job's results can be read after its end.",
    )
    spool_url: str = Field(
        default="",
        description="Where requests and results of batch jobs are stored: any URL that fsspec "
        "supports, such as s3://bucket/path or file:///srv/spool, the same for producers and "
        "workers. User and password belong in fsspec's own configuration. Empty: Redis.",
    )
    former_spool_urls: tuple[str, ...] = Field(
        default=(),
        description="JSON array of other spools whose jobs may still be read, after a change of "
        "PENSTOCK_SPOOL_URL. The address in a job's record is used only if it is one of these.",
    )
    shard_requests: Annotated[int, Field(gt=0, le=MAX_BATCH_REQUESTS)] = Field(
        default=10_000,
        description="Maximum requests of a batch job in one batch at the API. Progress is known "
        "only batch by batch; larger batches need fewer calls.",
    )
    shard_bytes: Annotated[int, Field(gt=0, le=MAX_BATCH_BYTES)] = Field(
        default=100_000_000,
        description="Maximum bytes of one batch's create call; a single larger request has a batch "
        "of its own.",
    )

    @field_validator("redis_url", "spool_url", mode="before")
    @classmethod
    def _unwrapped_url(cls, value: Any) -> Any:
        if isinstance(value, SecretStr):
            return SecretStr(without_wrapping(value.get_secret_value()))
        return without_wrapping(value) if isinstance(value, str) else value

    @field_validator("redis_url")
    @classmethod
    def _readable(cls, value: SecretStr) -> SecretStr:
        url = RedisUrl.parse(value.get_secret_value())
        check_files(url.tls)
        secrets = [*login_secrets(url.username, url.password), url.tls.get("ssl_password", "")]
        protect([*secrets, *([value.get_secret_value()] if url.password else [])])
        return value

    @field_validator("spool_url")
    @classmethod
    def _without_secrets(cls, value: str) -> str:
        return _checked_spool(value)

    @field_validator("former_spool_urls")
    @classmethod
    def _former_without_secrets(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_checked_spool(each) for each in value)

    @property
    def redis(self) -> RedisUrl:
        """The parts of ``redis_url``."""
        return RedisUrl.parse(self.redis_url.get_secret_value())

    @property
    def keys(self) -> Keys:
        """The keys under this deployment's prefix."""
        return Keys(self.key_prefix)

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """Read the settings from the environment; ``overrides`` take precedence.

        Raises `ConfigurationError`, whose one line names the variable and the problem.
        """
        for name in overrides:
            if name not in cls.model_fields:
                raise ConfigurationError(f"{name}: there is no such setting")
        _refuse_former_names(os.environ)
        try:
            return cls(**overrides)
        except ValidationError as error:
            raise ConfigurationError(_one_line(cls, error)) from None


def _checked_spool(value: str) -> str:
    # The URL is in the record of every job, and in logs.
    scheme, separator, rest = value.partition("://")
    if value and not (scheme and separator):
        raise ValueError("must be a URL such as s3://bucket/path or file:///srv/spool")
    if ":" in rest.partition("/")[0].rpartition("@")[0]:
        raise ValueError(
            "must not contain a password: it belongs in fsspec's own configuration "
            "(environment or ~/.config/fsspec)"
        )
    if set("*?[") & set(value):
        raise ValueError("must not contain * ? or [, which fsspec reads as patterns")
    return value


def variable_of(settings: type[BaseSettings], field: str) -> str:
    """The name of the environment variable for ``field``."""
    info = settings.model_fields.get(field)
    alias = info.validation_alias if info else None
    return alias if isinstance(alias, str) else f"PENSTOCK_{field}".upper()


def _refuse_former_names(environment: Mapping[str, str]) -> None:
    """Raise `ConfigurationError` for variables that were renamed, naming the new ones."""
    found = (name.upper() for name, value in environment.items() if value)
    former = sorted(name for name in found if name in RENAMED)
    if former:
        raise ConfigurationError("; ".join(f"{name} is now {RENAMED[name]}" for name in former))


def _one_line(settings: type[BaseSettings], error: ValidationError) -> str:
    problems = []
    for item in error.errors():
        field = str(item["loc"][0]) if item["loc"] else ""
        name = field if field.isupper() else variable_of(settings, field)
        problems.append(f"{name}: {item['msg'].removeprefix('Value error, ')}")
    return "; ".join(problems)
