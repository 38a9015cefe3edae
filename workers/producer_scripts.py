"""Keeps in Redis the scripts that producers call, whose user is not allowed to load any."""

import asyncio
import logging
from typing import Final

from penstock.store.availability import ANY_FAILURE
from penstock.store.connection import AsyncConnection
from penstock.store.scripts import OF_PRODUCERS, script

logger = logging.getLogger(__name__)

#: Seconds between two checks. A restart of Redis forgets all scripts.
CHECK_S: Final = 2.0


async def keep_scripts_loaded(redis: AsyncConnection) -> None:
    """Load the scripts whenever Redis does not have them, until canceled."""
    while True:
        try:
            await load_missing(redis)
        except ANY_FAILURE as error:
            logger.debug("the scripts of producers cannot be loaded yet: %s", error)
        await asyncio.sleep(CHECK_S)


async def load_missing(redis: AsyncConnection) -> None:
    """Load the scripts that Redis does not have. Raises `redis.RedisError`."""
    scripts = [script(name) for name in OF_PRODUCERS]
    loaded = await redis.script_exists(*(each.sha for each in scripts))
    for each, exists in zip(scripts, loaded, strict=True):
        if not exists:
            await redis.script_load(each.text)
