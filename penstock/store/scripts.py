"""The Lua scripts that keep a record, its log and its channel consistent.

Each is stored beside this file in ``lua/`` and begins with its contract. A line ``-- include
<file>`` is replaced by a file in ``lua/include/``, which several scripts need. Scripts are called
by hash (EVALSHA), so that the text is sent once to each Redis and not with every delta. Callers use
the functions of `request_scripts`, `shard_scripts`, `job_scripts` and `limit_scripts`, each of
which returns a `ScriptCall`.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import sha1
from pathlib import Path
from typing import Any, Final, Generic, NamedTuple, TypeAlias, TypeVar

from redis.exceptions import NoPermissionError, NoScriptError, ResponseError

from penstock.store.availability import is_unavailable
from penstock.store.redis_protocol import AsyncConnection, Connection, QueuedCommands

_FOLDER = Path(__file__).parent / "lua"
_INCLUDE = re.compile(r"^-- include (\w+\.lua)$", re.MULTILINE)

#: The scripts that programs call which enqueue. Their Redis user may call scripts only by hash, so
#: workers load them: one that could send the text of a script could block Redis with it.
OF_PRODUCERS: Final = ("submit", "cancel", "job_wake", "job_withdraw", "retry_reserve")

T = TypeVar("T")

#: Why a task waits during the grace, for Flower and the logs.
IN_GRACE: Final = "Redis was interrupted; workers have one lease to renew the claims they hold"

#: What Redis takes as an argument of a script.
Arg: TypeAlias = str | bytes | int


class NotLoaded(NoPermissionError):
    """Redis does not have a script, and the user is not allowed to load it."""

    def __init__(self) -> None:
        super().__init__(
            "Redis does not have the scripts of this version of Penstock, and this user cannot "
            "load them: workers of the same version do, within seconds of their start or of a "
            "restart of Redis"
        )


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script and the hash under which Redis knows it."""

    text: str
    sha: str

    def __call__(self, redis: Connection, keys: list[str], args: list[Any]) -> Any:
        """Run it on a synchronous client and return Redis's reply."""
        try:
            return redis.evalsha(self.sha, len(keys), *keys, *args)
        except NoScriptError:
            try:
                return redis.eval(self.text, len(keys), *keys, *args)
            except NoPermissionError:
                raise NotLoaded from None

    def is_loaded(self, redis: Connection) -> bool:
        """Whether Redis has the script, so that it can be called by its hash."""
        try:
            return bool(redis.script_exists(self.sha)[0])
        except NoPermissionError:
            return False

    async def run(self, redis: AsyncConnection, keys: list[str], args: list[Any]) -> Any:
        """Run it on an asyncio client and return Redis's reply."""
        try:
            return await redis.evalsha(self.sha, len(keys), *keys, *args)
        except NoScriptError:
            return await redis.eval(self.text, len(keys), *keys, *args)


class ScriptCall(NamedTuple, Generic[T]):
    """One call of a script, not yet made: its arguments, and how to read its reply."""

    script: Script
    keys: list[str]
    args: list[Any]  #: each an `Arg`
    parse: Callable[[Any], T]

    def run(self, redis: Connection) -> T:
        """Make the call on a synchronous client. Raises `redis.RedisError`."""
        return self.parse(self.script(redis, self.keys, self.args))

    async def run_async(self, redis: AsyncConnection) -> T:
        """Make the call on an asyncio client. Raises `redis.RedisError`."""
        return self.parse(await self.script.run(redis, self.keys, self.args))

    def add_to(self, pipe: QueuedCommands, *, is_loaded: bool = False) -> None:
        """Add the call to a pipeline, with the script's text; `parse` reads the pipeline's reply.

        A pipeline cannot repeat a call of a script that Redis does not have, so it uses the hash
        only if the script is known to be loaded.
        """
        if is_loaded:
            pipe.evalsha(self.script.sha, len(self.keys), *self.keys, *self.args)
            return
        pipe.eval(self.script.text, len(self.keys), *self.keys, *self.args)


@dataclass(frozen=True, slots=True)
class Fenced:
    """The claim is lost: another worker has claimed the record, or the record has ended."""


class ClaimRefused(NamedTuple):
    """The record cannot be claimed now, or not any more."""

    reason: str  #: gone · ended · leased · early (the last for shards only)


class InGrace(NamedTuple):
    """Redis was interrupted: its workers can renew their claims before others take the work."""

    wait_ms: int  #: until a claim can be made


def is_state_of_redis(error: ResponseError) -> bool:
    """Whether Redis refused a script for now, whatever its keys contain: it is full, a replica, …

    False: the script failed because a key or a field is not what it expects.
    """
    refused = is_unavailable(error) or type(error) is not ResponseError
    return refused or "user_script" not in str(error)


@cache
def script(name: str) -> Script:
    """The script in ``lua/<name>.lua``."""
    text = _INCLUDE.sub(lambda found: _read(f"include/{found[1]}"), _read(f"{name}.lua"))
    # SHA-1 is how Redis names scripts; nothing here rests on its strength.
    return Script(text, sha1(text.encode(), usedforsecurity=False).hexdigest())


def pairs(fields: Mapping[str, Arg] | Iterable[tuple[Arg, Arg]]) -> list[Arg]:
    """Fields and values in turn, as a script takes them."""
    found = fields.items() if isinstance(fields, Mapping) else fields
    return [item for pair in found for item in pair]


def _read(file: str) -> str:
    return (_FOLDER / file).read_text(encoding="utf-8")
