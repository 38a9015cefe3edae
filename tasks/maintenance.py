"""Starts a reaper in every worker; the one that holds the reaper's key works."""

import functools
from typing import Any

from celery.signals import worker_ready

from penstock.queue.wakeups import send_shard, send_stream
from penstock.spool.stores import remove_orphans
from penstock.store.connection import connect, connect_async
from workers.app import app, settings
from workers.identity import process_name
from workers.loop import BackgroundTasks, streams_loop
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
        functools.partial(remove_orphans, connect(settings), settings),
    )
    streams_loop.submit(_keep(reaper))


async def _keep(reaper: Reaper) -> None:
    _background.keep("the reaper", reaper.run)
