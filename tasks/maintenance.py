"""Starts what runs in every worker beside its tasks: the reaper, and the loading of scripts.

The reaper that holds the reaper's key works.
"""

import functools
from collections.abc import Callable, Coroutine
from typing import Any

from celery.signals import worker_ready

from penstock.queue.wakeups import send_shard, send_stream
from penstock.spool.stores import remove_orphans
from penstock.store import job_index
from penstock.store.connection import Connection, connect, connect_async
from workers.app import app, settings
from workers.identity import process_name
from workers.loop import BackgroundTasks, streams_loop
from workers.producer_scripts import keep_scripts_loaded
from workers.reaper import Reaper

_background = BackgroundTasks()


@worker_ready.connect
def _ready(**_: Any) -> None:
    reaper = Reaper(
        settings,
        connect_async(settings),
        process_name(),
        functools.partial(send_stream, app),
        functools.partial(send_shard, app),
        _clean_up(connect(settings)),
    )
    scripts = functools.partial(keep_scripts_loaded, connect_async(settings))
    streams_loop.submit(_keep(reaper, scripts))


def _clean_up(connection: Connection) -> Callable[[], None]:
    """Return what the reaper calls once a minute."""
    pruned = 0

    def run() -> None:
        nonlocal pruned
        try:
            pruned = job_index.prune(connection, settings.keys, pruned)
        finally:
            remove_orphans(connection, settings)

    return run


async def _keep(reaper: Reaper, scripts: Callable[[], Coroutine[Any, Any, None]]) -> None:
    _background.keep("the reaper", reaper.run)
    _background.keep("the scripts of producers", scripts)
