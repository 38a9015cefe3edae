"""The workers that consume the queues now, as they report themselves."""

from typing import Final

from penstock.queue import names
from penstock.queue.wakeups import broker_settings
from penstock.settings import ClientSettings

#: Seconds to wait for the replies of workers.
REPLY_TIMEOUT_S: Final = 2.0
#: Minimum seconds to wait for Redis: kombu asks it for replies with a wait of a second.
MIN_SOCKET_TIMEOUT_S: Final = 3.0
#: The node names of workers that use the simulator begin with this, if `penstock up` started them.
SIMULATED: Final = "simulated-"


def find_consumers(settings: ClientSettings) -> dict[str, list[str]]:
    """Ask all workers; returns queue → node names of the workers that consume it.

    Takes `REPLY_TIMEOUT_S`. A worker that does not reply in this time is missing.
    """
    from celery import Celery  # slow to import

    found: dict[str, list[str]] = {queue: [] for queue in names.QUEUES}
    with Celery("penstock-inspect", set_as_current=False) as app:
        app.conf.update(**broker_settings(settings))
        options = app.conf.broker_transport_options
        options["socket_timeout"] = max(options["socket_timeout"], MIN_SOCKET_TIMEOUT_S)
        answers = app.control.inspect(timeout=REPLY_TIMEOUT_S).active_queues() or {}
    for worker, queues in answers.items():
        for queue in queues:
            if queue["name"] in found:
                found[queue["name"]].append(worker)
    return {queue: sorted(workers) for queue, workers in found.items()}
