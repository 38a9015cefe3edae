"""A Redis connection that answers calls of scripts as a test has scripted, and well otherwise."""

import asyncio
from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import Any, Final

import hiredis

from penstock.store.scripts import script
from tests.unit.tasks.streams.publish.virtual_time import virtual_time

#: The answer to a call that Redis never answers.
NEVER: Final = object()

_NAMES: Final = {script(name).sha.encode(): name for name in ("write", "renew")}


@dataclass(frozen=True)
class Call:
    """One call of a script, as it was received."""

    script: str  #: write or renew
    id: str  #: of the request
    args: list[bytes]
    at: float  #: virtual time

    @property
    def first(self) -> int:
        """The number of the first event of a write."""
        return int(self.args[2])

    @property
    def last(self) -> int:
        """The number of the last event of a write."""
        return self.first + int(self.args[8]) - 1


class _Connection:
    """A connection of the pool."""

    def __init__(self, redis: "ScriptedRedis") -> None:
        self._redis = redis
        self._answers: deque[Any] = deque()
        self._reader = hiredis.Reader()
        self.is_connected = True

    async def send_packed_command(self, packed: list[bytes], *, check_health: bool = True) -> None:
        assert not self._answers, "the connection has unread replies of an earlier round trip"
        assert check_health is not self._reader.has_data(), "a health check inside a command"
        await asyncio.sleep(self._redis.send_s)
        for piece in packed:
            self._reader.feed(piece)
        calls = []
        while command := self._reader.gets():
            calls.append(_parse(command))
        if not calls:
            return  # the rest of a large call follows
        self._redis.round_trips.append(calls)
        self._answers.extend(self._redis.answer(call) for call in calls)

    async def read_response(self, *, timeout: float) -> Any:
        assert timeout == float("inf")
        await asyncio.sleep(self._redis.latency_s)
        answer = self._answers.popleft()
        if answer is NEVER:
            await asyncio.get_running_loop().create_future()
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def disconnect(self, *, nowait: bool) -> None:
        assert nowait
        self.is_connected = False
        self._answers.clear()
        self._reader = hiredis.Reader()


@dataclass
class ScriptedRedis:
    """The client, its pool, and what the test wants to know of both."""

    latency_s: float = 0.0  #: of each reply
    send_s: float = 0.0  #: to send what is sent at once
    round_trips: list[list[Call]] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)  #: texts of scripts
    connections: list[_Connection] = field(default_factory=list)  #: all that were ever opened
    _idle: list[_Connection] = field(default_factory=list)
    _scripted: dict[tuple[str, str], deque[Any]] = field(default_factory=lambda: defaultdict(deque))
    _tops: dict[str, int] = field(default_factory=dict)

    @property
    def connection_pool(self) -> "ScriptedRedis":
        return self

    async def get_connection(self) -> _Connection:
        if not self._idle:
            self.connections.append(_Connection(self))
            return self.connections[-1]
        connection = self._idle.pop()
        connection.is_connected = True
        return connection

    async def release(self, connection: _Connection) -> None:
        self._idle.append(connection)

    async def script_load(self, text: str) -> None:
        self.loaded.append(text)

    @property
    def is_idle(self) -> bool:
        """Whether every connection was given back."""
        return len(self._idle) == len(self.connections)

    def will_answer(self, script: str, id: str, *answers: Any) -> None:
        """Answer the next calls of a script for a request with these; errors are raised."""
        self._scripted[script, id].extend(answers)

    def answer(self, call: Call) -> Any:
        """The answer to a call: as scripted, or that of a Redis without any trouble."""
        scripted = self._scripted[call.script, call.id]
        if scripted:
            return scripted.popleft()
        if call.script == "renew":
            return [b"ok", b"", self._tops.get(call.id, -1)]
        self._tops[call.id] = call.last
        return [b"ok", call.last, b""]

    def calls(self, script: str, id: str = "") -> list[Call]:
        """All calls of a script so far, of one request or of all."""
        made = [call for calls in self.round_trips for call in calls]
        return [call for call in made if call.script == script and call.id in (id or call.id)]


def _parse(command: list[bytes]) -> Call:
    name, sha, count, *rest = command
    assert name == b"EVALSHA"
    keys, args = rest[: int(count)], rest[int(count) :]
    id = keys[0].decode().partition("{")[2].partition("}")[0]
    return Call(_NAMES[sha], id, args, virtual_time())
