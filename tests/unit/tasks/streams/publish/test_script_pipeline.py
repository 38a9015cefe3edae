"""ScriptPipeline: many calls of one script in a round trip, over a scripted connection."""

import asyncio
from typing import Any

import pytest
import redis
from redis.exceptions import NoScriptError, OutOfMemoryError, ResponseError

from penstock.store import request_scripts
from penstock.store.scripts import Script, ScriptCall
from tasks.streams.publish.script_pipeline import MIN_BYTES_PER_S, ScriptPipeline
from tests.unit.tasks.streams.publish.outbox_calls import DEPLOYMENT, ok
from tests.unit.tasks.streams.publish.scripted_redis import NEVER, ScriptedRedis
from tests.unit.tasks.streams.publish.virtual_time import run_in_virtual_time

IDS = ("a", "b", "c")
MISSING = NoScriptError("NOSCRIPT No matching script.")


def calls() -> list[ScriptCall[Any]]:
    """A write of one event for each of three requests."""
    return [
        request_scripts.write(
            request_scripts.write_keys(DEPLOYMENT.request(id), DEPLOYMENT, typed=False),
            worker="w",
            epoch=3,
            first=11,
            events=["é".encode()],
        )
        for id in IDS
    ]


def run(scripted: ScriptedRedis) -> list[Any]:
    connection: Any = scripted
    pipeline = ScriptPipeline(connection, timeout_s=5.0)
    return run_in_virtual_time(lambda: pipeline.run(calls()))


def test_the_replies_are_in_the_order_of_the_calls() -> None:
    scripted = ScriptedRedis()
    scripted.will_answer("write", "b", ok(7))
    assert run(scripted) == [ok(11), ok(7), ok(11)]
    (trip,) = scripted.round_trips
    assert [call.id for call in trip] == list(IDS)
    assert trip[0].args[-1] == "é".encode()
    assert scripted.is_idle


@pytest.mark.parametrize("error", [ResponseError("WRONGTYPE"), OutOfMemoryError("OOM")])
def test_the_reply_to_a_refused_call_is_its_error(error: ResponseError) -> None:
    scripted = ScriptedRedis()
    scripted.will_answer("write", "b", error)
    assert run(scripted) == [ok(11), error, ok(11)]
    assert len(scripted.round_trips) == 1
    assert scripted.connections[0].is_connected


def test_a_call_that_cannot_be_packed_is_not_made_and_harms_no_other() -> None:
    scripted = ScriptedRedis()
    bad = calls()
    bad[1].args.append(object())
    connection: Any = scripted
    pipeline = ScriptPipeline(connection, timeout_s=5.0)
    first, second, third = run_in_virtual_time(lambda: pipeline.run(bad))
    assert (first, third) == (ok(11), ok(11))
    assert isinstance(second, TypeError)
    assert [call.id for call in scripted.round_trips[0]] == ["a", "c"]
    (reply,) = run_in_virtual_time(lambda: pipeline.run(bad[1:2]))
    assert isinstance(reply, TypeError)
    assert len(scripted.round_trips) == 1


def test_a_script_that_redis_does_not_have_is_loaded_and_the_calls_are_repeated() -> None:
    scripted = ScriptedRedis()
    for id in IDS:
        scripted.will_answer("write", id, MISSING)
    assert run(scripted) == 3 * [ok(11)]
    script: Script = calls()[0].script
    assert scripted.loaded == [script.text]
    first, second = scripted.round_trips
    assert [call.args for call in first] == [call.args for call in second]


def test_a_script_that_is_forgotten_twice_is_not_loaded_for_ever() -> None:
    scripted = ScriptedRedis()
    scripted.will_answer("write", "a", MISSING, MISSING)
    assert run(scripted) == [MISSING, ok(11), ok(11)]
    assert len(scripted.round_trips) == 2


@pytest.mark.parametrize("error", [redis.ConnectionError("lost"), ConnectionResetError("lost")])
def test_a_connection_with_unread_replies_is_closed_and_given_back(error: Exception) -> None:
    scripted = ScriptedRedis()
    scripted.will_answer("write", "b", error)
    with pytest.raises(type(error)):
        run(scripted)
    assert scripted.is_idle
    assert not scripted.connections[0].is_connected


def test_the_timeout_bounds_the_whole_round_trip() -> None:
    scripted = ScriptedRedis(latency_s=4.0)  # for each of three replies
    with pytest.raises(TimeoutError):
        run(scripted)
    assert scripted.is_idle
    assert not scripted.connections[0].is_connected


def test_the_timeout_grows_with_the_size_of_the_calls() -> None:
    scripted = ScriptedRedis(send_s=0.9)  # for each MB
    large = calls()[:1]
    large[0].args[4] = 20 * MIN_BYTES_PER_S * "x"
    connection: Any = scripted
    pipeline = ScriptPipeline(connection, timeout_s=5.0)
    assert run_in_virtual_time(lambda: pipeline.run(large)) == [ok(11)]
    assert scripted.round_trips[0][0].at > 1_000.0 + 15
    scripted.will_answer("write", "a", NEVER)
    with pytest.raises(TimeoutError):
        run_in_virtual_time(lambda: pipeline.run(large))
    assert scripted.is_idle


def test_a_canceled_round_trip_closes_its_connection() -> None:
    scripted = ScriptedRedis()
    scripted.will_answer("write", "c", NEVER)

    async def cancel() -> None:
        connection: Any = scripted
        running = asyncio.ensure_future(ScriptPipeline(connection, timeout_s=5.0).run(calls()))
        await asyncio.sleep(1)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    run_in_virtual_time(cancel)
    assert scripted.is_idle
    assert not scripted.connections[0].is_connected
