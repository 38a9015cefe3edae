"""The scripts of a streamed request, called as clients and workers call them.

Each function has the defaults of a request ``w`` works on with its first claim.
"""

from typing import Any

import redis

from penstock import events
from penstock.keys import Keys, RequestKeys
from penstock.local.embedded_redis import EmbeddedRedis
from penstock.store import request_scripts
from penstock.store.scripts import ScriptCall
from tasks.streams.publish.outbox import Outbox

PREFIX = "contract"

#: The end event of a request that no worker holds when it is canceled.
CANCELED = b'{"type":"penstock.end","state":"canceled"}'

RETENTION_S = 50


def live(keys: RequestKeys) -> str:
    """The live set that a request belongs to."""
    return Keys(keys.prefix).live


def run(keys: RequestKeys) -> str:
    """The key of the Redis process that was seen last."""
    return Keys(keys.prefix).run


def reply(connection: Any, call: ScriptCall[Any]) -> Any:
    """What the script returns, before it is given a type: the tests are about the script."""
    return call.script(connection, call.keys, call.args)


def submit(
    connection: Any,
    keys: RequestKeys,
    *,
    ttl: int = 100,
    body: str = "{}",
    check_after_ms: int = 10_000,
) -> Any:
    return reply(
        connection,
        request_scripts.submit(
            keys,
            Keys(keys.prefix),
            ttl_s=ttl,
            first_event=b'{"e":0,"n":1,"data":{}}',
            body=body.encode(),
            check_after_ms=check_after_ms,
            fields={"model": "m", "kind": "stream"},
        ),
    )


def claim(connection: Any, keys: RequestKeys, worker: str = "w", lease_ms: int = 60_000) -> Any:
    """Claim it, and number the claims 1, 2, 3 …, so that tests can name them.

    `claim_by_clock` leaves the epoch as it is. Records of earlier versions have such small ones.
    """
    before = connection.hget(keys.meta, "epoch")
    found = claim_by_clock(connection, keys, worker, lease_ms)
    if found[0] == b"claimed":
        found[1] = int(before) + 1
        connection.hset(keys.meta, "epoch", found[1])
        connection.set(keys.lease, f"{worker}:{found[1]}", px=lease_ms)
    return found


def claim_by_clock(
    connection: Any, keys: RequestKeys, worker: str = "w", lease_ms: int = 60_000
) -> Any:
    shared = Keys(keys.prefix)
    return reply(connection, request_scripts.claim(keys, shared, worker=worker, lease_ms=lease_ms))


def renew(
    connection: Any,
    keys: RequestKeys,
    epoch: int = 1,
    worker: str = "w",
    *,
    lease_ms: int = 60_000,
    ttl: int = 100,
) -> Any:
    call = request_scripts.renew(
        keys, Keys(keys.prefix), worker=worker, epoch=epoch, lease_ms=lease_ms, ttl_s=ttl
    )
    return reply(connection, call)


def release(
    connection: Any,
    keys: RequestKeys,
    epoch: int = 1,
    worker: str = "w",
    *,
    due_ms: int = 0,
    check_after_ms: int = 10_000,
    waits_for: str = "",
    ttl: int = 100,
) -> Any:
    return reply(
        connection,
        request_scripts.release(
            keys,
            Keys(keys.prefix),
            worker=worker,
            epoch=epoch,
            due_in_ms=due_ms,
            check_after_ms=check_after_ms,
            waits_for=waits_for,
            ttl_s=ttl,
        ),
    )


def cancel(
    connection: Any, keys: RequestKeys, who: str = "me", *, only_waiting: bool = False
) -> Any:
    call = request_scripts.cancel(
        keys,
        Keys(keys.prefix),
        who=who,
        end_event=CANCELED,
        retention_s=RETENTION_S,
        only_waiting=only_waiting,
    )
    return reply(connection, call)


def write(
    connection: Any,
    keys: RequestKeys,
    first: int,
    count: int = 1,
    *,
    epoch: int = 1,
    worker: str = "w",
    ttl: int | None = 100,
    text: str = "",
    fresh: bool = False,
    final: str = "",
    keep: int = 0,
    typed: bool = False,
    **meta: Any,
) -> Any:
    return reply(
        connection,
        request_scripts.write(
            request_scripts.write_keys(keys, Keys(keys.prefix), typed=typed),
            worker=worker,
            epoch=epoch,
            first=first,
            events=[line(epoch, first + i, text) for i in range(count)],
            fields=meta.items(),
            text=text,
            empty_text=fresh,
            final_state=final,
            ttl_s=ttl,
            log_limit=keep,
        ),
    )


def line(epoch: int, n: int, text: str = "") -> bytes:
    """The event that `write` writes."""
    return events.encode(epoch, n, {"type": "x", "text": text})


def outbox(keys: RequestKeys, **options: Any) -> Outbox:
    """The outbox of the worker that claimed the request."""
    defaults = {"worker": "w", "epoch": 1, "n": 1, "ttl_s": 500, "retention_s": RETENTION_S}
    return Outbox(Keys(keys.prefix), keys.id, **{**defaults, **options})


def flush(connection: Any, box: Outbox) -> Any:
    """Make the outbox's next call and give it the answer."""
    call = box.next_call()
    assert call is not None
    answer = reply(connection, call)
    box.apply_reply(answer)
    return answer


def whole(connection: Any, keys: RequestKeys) -> list[Any]:
    """Everything that Redis has of the request, to check that nothing changed."""
    return [
        connection.hgetall(keys.meta),
        connection.xrange(keys.log),
        connection.get(keys.request),
        connection.get(keys.text),
        connection.get(keys.lease),
        connection.zscore(live(keys), keys.id),
        [connection.ttl(k) for k in (keys.meta, keys.log, keys.request)],
    ]


def clock(connection: Any) -> int:
    """Redis's clock, in ms."""
    seconds, micro = connection.time()
    return int(seconds) * 1000 + int(micro) // 1000


class Listener:
    """Receives what is published about a request, on its channels and the control channel."""

    def __init__(self, server: EmbeddedRedis, keys: RequestKeys) -> None:
        connection: Any = redis.Redis.from_url(server.url)
        self._connection = connection
        self._marker = keys.events
        self._channel = connection.pubsub(ignore_subscribe_messages=False)
        channels = (keys.events, keys.typed, Keys(keys.prefix).control)
        self._channel.subscribe(*channels)
        for _ in channels:
            assert self._message()["type"] == "subscribe"

    def _message(self) -> Any:
        message = self._channel.get_message(timeout=20)
        assert message is not None
        return message

    def received(self) -> list[tuple[str, bytes]]:
        """Channel and text of every message up to now, which all arrive before a marker of ours."""
        self._connection.publish(self._marker, b"marker")
        found = []
        while (message := self._message())["data"] != b"marker":
            found.append((message["channel"].decode().rpartition(":")[2], message["data"]))
        return found

    def close(self) -> None:
        self._channel.close()
        self._connection.close()
