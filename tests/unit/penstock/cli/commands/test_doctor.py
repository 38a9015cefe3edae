"""The findings of ``penstock doctor``, from data alone."""

from typing import Any

import pytest

from penstock.cli.commands.doctor import Finding, base_url, credentials, queue_health, redis_health

HEALTHY: dict[str, Any] = {
    "redis_version": "7.4.1",
    "maxmemory_policy": "noeviction",
    "aof_enabled": 1,
    "used_memory": 2_000_000,
    "maxmemory": 0,
}


def finding_about(subject: str, **info: Any) -> Finding:
    """Return a finding about a Redis, healthy except for these fields of INFO."""
    found = {f.subject: f for f in redis_health({**HEALTHY, **info}, "redis://here:6379/0")}
    return found[subject]


def test_all_findings_about_a_healthy_redis_are_ok() -> None:
    assert {f.level for f in redis_health(HEALTHY, "redis://here")} == {"ok"}


def test_the_version_is_that_of_the_server() -> None:
    assert finding_about("redis").detail == "Redis 7.4.1 at redis://here:6379/0"
    valkey = {"server_name": "valkey", "valkey_version": "9.1.2"}
    assert finding_about("redis", **valkey).detail == "Valkey 9.1.2 at redis://here:6379/0"


def test_a_redis_without_waitaof_is_an_error() -> None:
    finding = finding_about("redis", redis_version="7.0.15")
    assert finding.level == "error"
    assert finding.detail == "Redis 7.0.15 at redis://here:6379/0: too old for durable batches"
    assert finding.remedy.startswith("use Redis 7.2 or later, or Valkey")


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_an_eviction_policy_other_than_noeviction_is_an_error(policy: str) -> None:
    finding = finding_about("eviction", maxmemory_policy=policy)
    assert finding.level == "error"
    assert policy in finding.detail
    assert "noeviction" in finding.remedy


def test_a_redis_without_an_append_only_file_is_a_warning() -> None:
    finding = finding_about("persistence", aof_enabled=0)
    assert finding.level == "warn"
    assert "appendonly yes" in finding.remedy


def test_a_redis_that_is_nearly_full_is_a_warning() -> None:
    assert finding_about("memory", maxmemory=3_000_000).level == "ok"
    finding = finding_about("memory", maxmemory=2_100_000)
    assert finding.level == "warn"
    assert finding.detail == "2.0 MB used of 2 MB"


@pytest.mark.parametrize("name", ["ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"])
def test_the_variable_of_the_credential_is_named_and_its_value_is_not(name: str) -> None:
    (finding,) = credentials({name: "sk-secret"}, workers=False)
    assert finding == Finding("ok", "api key", name)


def test_a_missing_api_key_is_an_error_only_if_no_worker_runs() -> None:
    (alone,) = credentials({}, workers=False)
    assert alone.level == "error"
    assert "ANTHROPIC_API_KEY" in alone.remedy
    (elsewhere,) = credentials({}, workers=True)
    assert elsewhere.level == "warn"


@pytest.mark.parametrize("key", ["sk-secret\nsk-secret", "sk-s\u00e9cret", "\n"])
def test_a_key_that_no_header_can_carry_is_an_error_and_not_printed(key: str) -> None:
    (finding,) = credentials({"ANTHROPIC_API_KEY": key}, workers=True)
    assert finding.level == "error"
    assert finding.detail.startswith("ANTHROPIC_API_KEY ")
    assert "cret" not in finding.detail + finding.remedy


@pytest.mark.parametrize("host", ["https://gateway.example", "http://127.0.0.1:8099/anthropic"])
@pytest.mark.parametrize("end", ["/v1", "/v1/", "/v1/messages", "/v1/messages/batches/"])
def test_a_base_url_with_the_path_that_the_sdk_adds_is_an_error(host: str, end: str) -> None:
    finding = base_url(f"{host}{end}")
    assert finding.level == "error"
    assert f"calls go to {host}{end.rstrip('/')}/v1/messages" in finding.detail
    assert finding.remedy == f"set ANTHROPIC_BASE_URL={host}"


@pytest.mark.parametrize("url", ["localhost:8099", "//gateway", "gateway.example", "https://"])
def test_a_base_url_that_is_no_address_is_an_error(url: str) -> None:
    assert base_url(url).level == "error"


@pytest.mark.parametrize("end", ["", "/", "/v1beta", "/v10", "/v1/projects/x"])
def test_any_other_base_url_is_ok(end: str) -> None:
    assert base_url(f"https://gateway.example{end}").level == "ok"


def test_a_password_in_the_base_url_is_not_printed() -> None:
    for url in ("https://me:secret@gateway/v1", "https://me:secret@gateway"):
        finding = base_url(url)
        assert "secret" not in finding.detail + finding.remedy


def test_a_custom_base_url_is_reported() -> None:
    env = {"ANTHROPIC_API_KEY": "k", "ANTHROPIC_BASE_URL": "http://127.0.0.1:8099"}
    assert [f.detail for f in credentials(env, workers=True)] == [
        "ANTHROPIC_API_KEY",
        "http://127.0.0.1:8099 (ANTHROPIC_BASE_URL)",
    ]


def test_a_queue_without_a_worker_is_an_error_with_the_command_that_starts_one() -> None:
    finding = queue_health("streams", [], 3)
    hint = "to start one: penstock worker streams"
    assert finding == Finding("error", "streams", "3 queued, no worker", hint)


def test_the_workers_of_a_queue_are_named() -> None:
    finding = queue_health("batches", ["b@x", "a@x"], 0)
    assert finding == Finding("ok", "batches", "0 queued, 2 workers: a@x, b@x")
