"""Settings of clients and workers: read, overridden, and refused in one line."""

import pickle
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from config import __main__ as printed
from config.settings import WorkerSettings
from penstock.client import Client
from penstock.errors import ConfigurationError
from penstock.settings import RENAMED, ClientSettings, variable_of
from penstock.store.connection import redis_address

URL = "redis://someone:hunter2@redis.example:6380/3"


def test_defaults_need_no_environment() -> None:
    settings = ClientSettings.load()
    assert settings.redis_url.get_secret_value() == "redis://127.0.0.1:6379/0"
    assert settings.keys.prefix == "penstock"
    assert settings.request_ttl_s == 86_400


def test_the_environment_is_read_and_overrides_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_REDIS_URL", URL)
    monkeypatch.setenv("PENSTOCK_KEY_PREFIX", "from-env")
    monkeypatch.setenv("PENSTOCK_RETENTION_S", "60")
    settings = ClientSettings.load(key_prefix="given")
    assert settings.redis_url.get_secret_value() == URL
    assert settings.key_prefix == "given"
    assert settings.retention_s == 60


def test_workers_read_the_sdks_own_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-1")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:1")
    settings = WorkerSettings.load()
    assert settings.anthropic_api_key is not None
    assert settings.anthropic_api_key.get_secret_value() == "sk-ant-1"
    assert settings.anthropic_base_url == "http://127.0.0.1:1"
    assert WorkerSettings.load(anthropic_base_url="https://x").anthropic_base_url == "https://x"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PENSTOCK_REDIS_URL", "localhost:6379"),
        ("PENSTOCK_REDIS_URL", "http://127.0.0.1"),
        ("PENSTOCK_KEY_PREFIX", "a{b}"),
        ("PENSTOCK_KEY_PREFIX", "a b"),
        ("PENSTOCK_KEY_PREFIX", "a*"),
        ("PENSTOCK_KEY_PREFIX", "a\n"),
        ("PENSTOCK_REDIS_TIMEOUT_S", "0"),
        ("PENSTOCK_REDIS_TIMEOUT_S", "-1"),
        ("PENSTOCK_REDIS_TIMEOUT_S", "nan"),
        ("PENSTOCK_REDIS_TIMEOUT_S", "soon"),
        ("PENSTOCK_REQUEST_TTL_S", "0"),
        ("PENSTOCK_SPOOL_URL", "/srv/spool"),
        ("PENSTOCK_SPOOL_URL", "://x"),
        ("PENSTOCK_SPOOL_URL", "file:///srv/*"),
        ("PENSTOCK_SPOOL_URL", "sftp://me:hunter2@host/path"),
        ("PENSTOCK_REQUEST_TTL_S", "1.5"),
        ("PENSTOCK_BATCH_RETENTION_S", "a week"),
        ("PENSTOCK_LEASE_MS", "499"),
        ("PENSTOCK_POLL_INTERVAL_RATIO", "1.1"),
        ("PENSTOCK_POLL_INTERVAL_MAX_S", "901"),
        ("PENSTOCK_LOG_LEVEL", "LOUD"),
        ("PENSTOCK_LOG_FORMAT", "xml"),
        ("PENSTOCK_STREAMS_CONCURRENCY", "0"),
        ("ANTHROPIC_BASE_URL", "api.anthropic.com"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError) as caught:
        WorkerSettings.load()
    message = str(caught.value)
    assert message.startswith(f"{variable}: ")
    assert "\n" not in message
    assert "Value error" not in message
    assert caught.value.__cause__ is None


def test_an_infinite_time_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_REDIS_TIMEOUT_S", "inf")
    with pytest.raises(ConfigurationError, match="PENSTOCK_REDIS_TIMEOUT_S"):
        ClientSettings.load()


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost:abc",
        "redis://:hun?ter2@h/0",
        "redis://:hun/ter2@h/0",
        "redis://h/0?socket_timeout=abc",
    ],
)
def test_a_redis_url_that_cannot_be_used_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigurationError, match="PENSTOCK_REDIS_URL") as caught:
        Client(url)
    assert "hun" not in str(caught.value)


def test_several_wrong_values_are_all_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_RETENTION_S", "x")
    monkeypatch.setenv("PENSTOCK_POLL_INTERVAL_RATIO", "2")
    with pytest.raises(
        ConfigurationError, match=r"RETENTION_S: .*; PENSTOCK_POLL_INTERVAL_RATIO: "
    ):
        WorkerSettings.load()


def test_a_misspelt_keyword_is_not_swallowed() -> None:
    with pytest.raises((ConfigurationError, TypeError), match="key_prefx"):
        ClientSettings.load(key_prefx="x")


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "")
    settings = WorkerSettings.load()
    assert settings.anthropic_api_key is None
    assert settings.anthropic_base_url is None


@pytest.mark.parametrize("settings", [ClientSettings, WorkerSettings])
@pytest.mark.parametrize("former", sorted(RENAMED))
def test_the_former_name_of_a_setting_is_refused_with_the_new_one(
    monkeypatch: pytest.MonkeyPatch, former: str, settings: type[ClientSettings]
) -> None:
    monkeypatch.setenv(former, "1")
    with pytest.raises(ConfigurationError, match=f"^{former} is now {RENAMED[former]}$"):
        settings.load()


def test_a_former_name_is_refused_in_lower_case_too_and_ignored_when_empty(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PENSTOCK_POLL_MIN_S", "")
    ClientSettings.load()
    monkeypatch.setenv("penstock_poll_min_s", "5")
    with pytest.raises(ConfigurationError, match=r"^PENSTOCK_POLL_MIN_S is now"):
        ClientSettings.load()


def test_every_renamed_setting_exists_under_its_new_name_only() -> None:
    variables = {variable_of(WorkerSettings, name) for name in WorkerSettings.model_fields}
    assert set(RENAMED.values()) <= variables
    assert variables.isdisjoint(RENAMED)


def test_settings_cannot_be_changed_by_accident() -> None:
    settings = ClientSettings.load()
    with pytest.raises(ValidationError):
        settings.key_prefix = "other"


def secretive(monkeypatch: pytest.MonkeyPatch) -> WorkerSettings:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-hunter2")
    return WorkerSettings.load(redis_url=URL)


@pytest.mark.parametrize("show", [str, repr, "{}".format, lambda s: s.model_dump_json()])
def test_no_secret_shows_in_any_form_of_the_settings(
    monkeypatch: pytest.MonkeyPatch, show: Any
) -> None:
    assert "hunter2" not in show(secretive(monkeypatch))


@pytest.mark.parametrize("value", ["hunter2", "http://:hunter2@h", "hunter2://h"])
def test_no_secret_shows_in_a_refusal(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("PENSTOCK_REDIS_URL", value)
    with pytest.raises(ConfigurationError) as caught:
        ClientSettings.load()
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        URL,
        "redis://:hunter2@127.0.0.1:6379/0",
        "rediss://:hunter2@h",
        "redis://u:hunter2@hunter2@h/0",
        "redis://:hunter2%40@h/0",
        "redis://h:1/0?password=hunter2",
        "redis://h:1/1?db=1&username=u&password=hunter2%40",
        "redis://:hun@ter2@h/0",
        "unix://:hunter2@/run/redis.sock?db=1",
    ],
)
def test_the_address_shown_in_messages_has_no_password(url: str) -> None:
    shown = redis_address(ClientSettings.load(redis_url=url))
    assert "hunter2" not in shown
    assert "ter2" not in shown
    assert shown.startswith(("redis://", "rediss://", "unix://"))


def test_the_address_shown_in_messages_names_host_and_database() -> None:
    assert redis_address(ClientSettings.load(redis_url=URL)) == "redis://redis.example:6380/3"


def test_settings_can_be_pickled() -> None:
    settings = ClientSettings.load(redis_url=URL)
    assert pickle.loads(pickle.dumps(settings)) == settings  # noqa: S301 - our own


def test_every_setting_has_a_description_and_a_variable_of_its_own() -> None:
    fields = WorkerSettings.model_fields
    assert all(field.description for field in fields.values())
    variables = [variable_of(WorkerSettings, name) for name in fields]
    assert len(set(variables)) == len(variables)
    assert all(v.startswith(("PENSTOCK_", "ANTHROPIC_")) and v.isupper() for v in variables)


def test_settings_are_printed_without_secrets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PENSTOCK_REDIS_URL", URL)
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-hunter2")
    monkeypatch.setenv("PENSTOCK_POLL_INTERVAL_MIN_S", "7")
    assert printed.main() == 0
    out = capsys.readouterr().out
    assert "hunter2" not in out
    assert "ANTHROPIC_API_KEY = (set)" in out
    assert "PENSTOCK_REDIS_URL = redis://redis.example:6380/3" in out
    assert "PENSTOCK_POLL_INTERVAL_MIN_S = 7.0   (default: 5.0)" in out
    assert all(variable_of(WorkerSettings, name) in out for name in WorkerSettings.model_fields)


def test_a_wrong_setting_is_printed_as_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PENSTOCK_LOG_LEVEL", "LOUD")
    assert printed.main() == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("penstock: PENSTOCK_LOG_LEVEL: ")
    assert captured.err.count("\n") == 1


def test_no_dotenv_file_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("PENSTOCK_KEY_PREFIX=from-a-file\n")
    monkeypatch.chdir(tmp_path)
    assert ClientSettings.load().key_prefix == "penstock"


@pytest.mark.parametrize(
    "url", ["", "s3://bucket/path", "file:///srv/spool", "abfs://container@account.net/path"]
)
def test_a_spool_may_be_any_url_without_a_password(url: str) -> None:
    assert ClientSettings.load(spool_url=url).spool_url == url


def test_the_password_of_a_spool_is_not_repeated() -> None:
    with pytest.raises(ConfigurationError, match="PENSTOCK_SPOOL_URL") as caught:
        ClientSettings.load(spool_url="ftp://me:hunter2@host:21/path")
    assert "hunter2" not in str(caught.value)
