"""Relay: a record that another program has damaged fails its own request, once."""

import json

import pytest

from penstock.client import Client
from penstock.errors import NotEnded, RecordUnreadable, RequestFailed
from penstock.local.embedded_redis import EmbeddedRedis
from tests.contract.tasks.streams.conftest import Perform
from tests.contract.tasks.streams.raw_api import whole
from tests.contract.tasks.streams.relay_stage import RelayStage

ODD_NUMBERS = ["", "x", "-1", "1e5", "0.5", "9" * 30, "null", "{}", " 1", b"\x00\xff"]


@pytest.mark.parametrize("field", ["n", "epoch", "worker_losses"])
@pytest.mark.parametrize("value", ODD_NUMBERS)
def test_a_record_whose_number_is_damaged_fails_with_its_field(
    perform: Perform, penstock_redis: EmbeddedRedis, field: str, value: str | bytes
) -> None:
    async def test(stage: RelayStage) -> None:
        id = stage.submit()
        keys = stage.settings.keys
        stage.connection.hset(keys.request(id).meta, field, value)
        [result] = await stage.run(id)
        assert result.state == "skipped"
        state, error = stage.connection.hmget(keys.request(id).meta, "state", "error")
        assert state == b"failed"
        end = stage.events(id)[-1].data
        assert end == {**end, "type": "penstock.end", "state": "failed"}
        assert f"{field!r} is not a number" in end["error"]["message"]
        assert json.loads(error) == end["error"]
        assert stage.connection.zscore(keys.live, id) is None
        assert all(stage.connection.ttl(key) > 0 for key in stage.connection.keys(f"*{id}*"))
        prefix = stage.settings.key_prefix
        with (
            Client(penstock_redis.url, key_prefix=prefix) as client,
            pytest.raises(RequestFailed, match="is not a number"),
        ):
            client.messages.request(id).result(timeout=5)
        assert stage.api.calls == 0

    perform(test, whole("Hello"))


@pytest.mark.parametrize("name", ["meta", "log", "text"])
def test_a_record_with_a_key_of_another_type_fails_once_with_its_name(
    perform: Perform, penstock_redis: EmbeddedRedis, name: str
) -> None:
    async def test(stage: RelayStage) -> None:
        id = stage.submit()
        keys = stage.settings.keys.request(id)
        key = getattr(keys, name)
        stage.connection.delete(key)
        stage.connection.sadd(key, "x")
        [result] = await stage.run(id)
        assert result.state == "skipped"
        state, error = stage.connection.hmget(keys.meta, "state", "error")
        assert state == b"failed"
        assert f"{key} is a set" in json.loads(error)["message"]
        last = stage.connection.xrevrange(keys.log, count=1)[0][1][b"d"]
        assert json.loads(last)["data"]["error"] == json.loads(error)
        assert stage.connection.zscore(stage.settings.keys.live, id) is None
        assert all(stage.connection.ttl(key) > 0 for key in stage.connection.keys(f"*{id}*"))
        [again] = await stage.run(id)
        assert again.state == "skipped"
        assert stage.connection.hget(keys.meta, "error") == error
        assert stage.api.calls == 0

    perform(test, whole("Hello"))


def test_a_record_in_a_state_of_a_newer_version_fails_once(perform: Perform) -> None:
    async def test(stage: RelayStage) -> None:
        id = stage.submit()
        meta = stage.settings.keys.request(id).meta
        stage.connection.hset(meta, "state", "napping")
        await stage.run(id)
        state, error = stage.connection.hmget(meta, "state", "error")
        assert state == b"failed"
        assert "'state' is unknown" in json.loads(error)["message"]

    perform(test, whole("Hello"))


@pytest.mark.parametrize("who", [b"\xff\xfe", "Zoë".encode("latin-1"), b"\xed\xa0\x80"])
def test_a_request_can_be_canceled_by_a_name_that_is_not_utf_8(
    perform: Perform, who: bytes
) -> None:
    async def test(stage: RelayStage) -> None:
        id = stage.submit()
        stage.connection.hset(stage.settings.keys.request(id).meta, "cancel", who)
        end = await stage.end(id)
        assert (end["state"], end["by"]) == ("canceled", who.decode(errors="replace"))

    perform(test, whole("Hello"))


def test_a_log_without_a_last_event_is_no_message(
    perform: Perform, penstock_redis: EmbeddedRedis
) -> None:
    async def test(stage: RelayStage) -> None:
        id = stage.submit()
        stage.connection.hset(stage.settings.keys.request(id).meta, "state", "done")
        prefix = stage.settings.key_prefix
        with (
            Client(penstock_redis.url, key_prefix=prefix) as client,
            pytest.raises(NotEnded, match="no last event"),
        ):
            client.messages.request(id).result(timeout=5)

    perform(test, whole("Hello"))


@pytest.mark.parametrize(("field", "value"), [("state", "odd"), ("state", b"\xff")])
def test_a_damaged_record_is_reported_as_unreadable(
    perform: Perform, penstock_redis: EmbeddedRedis, field: str, value: str | bytes
) -> None:
    async def test(stage: RelayStage) -> None:
        id = stage.submit()
        stage.connection.hset(stage.settings.keys.request(id).meta, field, value)
        with (
            Client(penstock_redis.url, key_prefix=stage.settings.key_prefix) as client,
            pytest.raises(RecordUnreadable, match="is damaged"),
        ):
            client.messages.request(id).record()

    perform(test, whole("Hello"))


@pytest.mark.parametrize(("field", "value"), [("n", "x"), ("epoch", b"\xff"), ("cancel", b"\xff")])
def test_the_state_of_a_record_is_shown_although_another_field_is_damaged(
    perform: Perform, penstock_redis: EmbeddedRedis, field: str, value: str | bytes
) -> None:
    async def test(stage: RelayStage) -> None:
        id = stage.submit()
        stage.connection.hset(stage.settings.keys.request(id).meta, field, value)
        with Client(penstock_redis.url, key_prefix=stage.settings.key_prefix) as client:
            assert client.messages.request(id).record().state == "queued"

    perform(test, whole("Hello"))
