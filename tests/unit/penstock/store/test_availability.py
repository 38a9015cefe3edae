"""Which errors of Redis are retried, and what the log says about an outage."""

import asyncio
import logging

import pytest
from redis._parsers.base import BaseParser
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import InvalidResponse, ResponseError

from penstock.store.availability import Outage, is_unavailable, retry_until_available

LOGGER = "penstock.store.availability"
SCRIPT = "script: f_1, on @user_script:7."


def error_of(reply: str) -> Exception:
    """What redis-py raises for this error reply."""
    error: Exception = BaseParser.parse_error(reply)  # type: ignore[no-untyped-call]  # a gap
    return error


@pytest.mark.parametrize(
    "reply",
    [
        "OOM command not allowed when used memory > 'maxmemory'.",
        f"OOM command not allowed when used memory > 'maxmemory'. {SCRIPT}",
        "READONLY You can't write against a read only replica.",
        f"MISCONF Redis is configured to save RDB snapshots. {SCRIPT}",
        "ERR Error running script: @user_script:1: @user_script: 1: -MISCONF Errors writing",
        "NOREPLICAS Not enough good replicas to write.",
        "LOADING Redis is loading the dataset in memory",
        "BUSY Redis is busy running a script.",
        "MASTERDOWN Link with MASTER is down",
        "CLUSTERDOWN The cluster is down",
        "TRYAGAIN Multiple keys request during rehashing of slot",
        "UNBLOCKED client unblocked via CLIENT UNBLOCK",
        "NOAUTH Authentication required.",
        "WRONGPASS invalid username-password pair",
        "NOPERM User x has no permissions to run the 'get' command",
        "ERR max number of clients reached",
    ],
)
def test_a_reply_about_redis_itself_counts_as_an_outage(reply: str) -> None:
    assert is_unavailable(error_of(reply))


@pytest.mark.parametrize(
    "error", [ConnectionLost(), TimeoutError(), ConnectionResetError(), InvalidResponse("?")]
)
def test_a_lost_connection_and_garbage_count_as_an_outage(error: Exception) -> None:
    assert is_unavailable(error)


@pytest.mark.parametrize(
    "reply",
    [
        f"WRONGTYPE Operation against a key holding the wrong kind of value {SCRIPT}",
        "BUSYKEY Target key name already exists.",
        "BUSYGROUP Consumer Group name already exists",
        "ERR unknown command 'WAITAOF'",
        "ERR the field 'BUSY' is odd",
    ],
)
def test_a_reply_about_a_key_or_a_command_is_no_outage(reply: str) -> None:
    assert not is_unavailable(error_of(reply))


def test_an_outage_of_several_parts_is_one_line_at_its_start_and_one_at_its_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    outage = Outage()
    with caplog.at_level(logging.INFO, LOGGER):
        for _ in range(3):
            outage.note("writes", ResponseError("MISCONF no disk"))
            outage.note("broker", TimeoutError())
        outage.end("writes")
        assert (outage.affects("writes"), outage.affects("broker")) == (False, True)
        outage.end("broker")
        outage.end("broker")
    assert caplog.messages == [
        "Redis is unavailable or refuses commands, retrying: ResponseError: MISCONF no disk",
        "Redis is available again",
    ]


def test_a_command_is_repeated_until_redis_accepts_it() -> None:
    answers: list[Exception | int] = [ResponseError("BUSY a script"), TimeoutError(), 7]

    async def command() -> int:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert asyncio.run(retry_until_available(command)) == 7


def test_a_command_that_its_key_makes_fail_is_not_repeated() -> None:
    calls = []

    async def command() -> None:
        calls.append(1)
        raise ResponseError("WRONGTYPE Operation against a key")

    with pytest.raises(ResponseError):
        asyncio.run(retry_until_available(command))
    assert calls == [1]
