"""The doctor's judgement, from facts alone."""

from typing import Any

import pytest

from penstock.cli.commands.doctor import Finding, credentials, queue_health, redis_health

HEALTHY: dict[str, Any] = {
    "redis_version": "7.4.1",
    "maxmemory_policy": "noeviction",
    "aof_enabled": 1,
    "used_memory": 2_000_000,
    "maxmemory": 0,
}


def about(subject: str, **facts: Any) -> Finding:
    """What is said about one side of a Redis that is healthy but for these facts."""
    found = {f.subject: f for f in redis_health({**HEALTHY, **facts}, "redis://here:6379/0")}
    return found[subject]


def test_a_healthy_redis_has_nothing_but_good_findings() -> None:
    assert {f.level for f in redis_health(HEALTHY, "redis://here")} == {"ok"}


def test_the_version_is_the_servers_own() -> None:
    assert about("redis").detail == "redis 7.4.1 at redis://here:6379/0"
    valkey = {"server_name": "valkey", "valkey_version": "9.1.2"}
    assert about("redis", **valkey).detail == "valkey 9.1.2 at redis://here:6379/0"


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_a_redis_that_evicts_is_wrong(policy: str) -> None:
    finding = about("eviction", maxmemory_policy=policy)
    assert finding.level == "wrong"
    assert policy in finding.detail
    assert "noeviction" in finding.remedy


def test_a_redis_that_forgets_is_a_warning() -> None:
    finding = about("persistence", aof_enabled=0)
    assert finding.level == "warn"
    assert "appendonly yes" in finding.remedy


def test_a_redis_that_is_nearly_full_is_a_warning() -> None:
    assert about("memory", maxmemory=3_000_000).level == "ok"
    finding = about("memory", maxmemory=2_100_000)
    assert finding.level == "warn"
    assert finding.detail == "2.0 MB used, of 2 MB"


@pytest.mark.parametrize("name", ["ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"])
def test_the_credential_is_named_and_never_shown(name: str) -> None:
    (finding,) = credentials({name: "sk-secret"}, workers=False)
    assert finding == Finding("ok", "api key", name)


def test_a_missing_key_matters_only_where_no_worker_runs() -> None:
    (alone,) = credentials({}, workers=False)
    assert alone.level == "wrong"
    assert "ANTHROPIC_API_KEY" in alone.remedy
    (elsewhere,) = credentials({}, workers=True)
    assert elsewhere.level == "warn"


def test_another_address_of_the_api_is_told() -> None:
    env = {"ANTHROPIC_API_KEY": "k", "ANTHROPIC_BASE_URL": "http://127.0.0.1:8099"}
    assert [f.detail for f in credentials(env, workers=True)] == [
        "ANTHROPIC_API_KEY",
        "http://127.0.0.1:8099 (ANTHROPIC_BASE_URL)",
    ]


def test_a_queue_without_a_worker_is_wrong_and_says_how_to_start_one() -> None:
    finding = queue_health("streams", [], 3)
    assert finding == Finding("wrong", "streams", "3 waiting, no worker", "penstock worker streams")


def test_a_queue_with_workers_names_them() -> None:
    finding = queue_health("batches", ["b@x", "a@x"], 0)
    assert finding == Finding("ok", "batches", "0 waiting, worker a@x, b@x")
