"""The Lua scripts that keep a record, its log and its channel in step.

Each lies beside this file in ``lua/`` and begins with its contract; ``-- include <file>`` on a line
of its own stands for what several of them need. They are loaded by hash (EVALSHA), so that the text
travels once per Redis, not once per delta.
"""

import re
from dataclasses import dataclass
from functools import cache
from hashlib import sha1
from pathlib import Path
from typing import Any

from redis.exceptions import NoScriptError

_FOLDER = Path(__file__).parent / "lua"
_INCLUDE = re.compile(r"^-- include (\w+\.lua)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script and the hash under which Redis knows it."""

    text: str
    sha: str

    def __call__(self, redis: Any, keys: list[str], args: list[Any]) -> Any:
        """Run it on a synchronous client and return Redis's answer."""
        try:
            return redis.evalsha(self.sha, len(keys), *keys, *args)
        except NoScriptError:
            return redis.eval(self.text, len(keys), *keys, *args)

    async def run(self, redis: Any, keys: list[str], args: list[Any]) -> Any:
        """Run it on an asyncio client and return Redis's answer."""
        try:
            return await redis.evalsha(self.sha, len(keys), *keys, *args)
        except NoScriptError:
            return await redis.eval(self.text, len(keys), *keys, *args)


@cache
def script(name: str) -> Script:
    """The script in ``lua/<name>.lua``."""
    text = _INCLUDE.sub(lambda found: _read(found[1]), _read(f"{name}.lua"))
    # SHA-1 is how Redis names scripts; nothing here rests on its strength.
    return Script(text, sha1(text.encode(), usedforsecurity=False).hexdigest())


def _read(file: str) -> str:
    return (_FOLDER / file).read_text(encoding="utf-8")
