"""A writer for tests of readers: it writes records by hand and loses what a test asks for."""

from typing import Any

from penstock import events
from penstock.client import Client
from penstock.ids import new_id
from penstock.streams.stream import MessageStream, StreamRequest
from tests.connections import redis_of

#: Seconds after which a test's reader gives up; no test waits for it to pass.
TIMEOUT_S = 20.0

START = {
    "type": "message_start",
    "message": {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-haiku-4-5",
        "content": [],
        "stop_reason": None,
        "usage": {"input_tokens": 3, "output_tokens": 1},
    },
}
BLOCK = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}


def delta(piece: str, index: int = 0) -> dict[str, Any]:
    """A piece of visible text."""
    return {
        "type": "content_block_delta",
        "index": index,
        "delta": {"type": "text_delta", "text": piece},
    }


def rewind(index: int, offset: int) -> dict[str, Any]:
    """Withdraw a block from an offset on, and all later blocks."""
    return {"type": events.REWIND, "index": index, "offset": offset}


class ScriptedWriter:
    """Writes one request as a worker does."""

    def __init__(
        self,
        client: Client,
        *,
        id: str | None = None,
        submit: bool = True,
        text_final: str = "at_once",
    ) -> None:
        self._text_final = text_final
        self.id = id or new_id()
        self.keys = client.settings.keys.request(self.id)
        self.epoch = 0
        self.n = 0
        self._client = client
        self._redis = redis_of(client)
        if submit:
            self.submit()

    def submit(self) -> None:
        """Write the record and its first event."""
        when = {"text_final": self._text_final}
        self._redis.hset(self.keys.meta, mapping={"state": "queued", "epoch": 0, "n": 0, **when})
        self.write({"type": events.QUEUED, **when})
        self.epoch = 1

    def write(self, *data: dict[str, Any], publish: bool = True) -> None:
        """Write events; without ``publish`` their messages are lost."""
        for each in data:
            self.n += 1
            line = events.encode(self.epoch, self.n, each)
            with self._redis.pipeline(transaction=True) as pipe:
                pipe.xadd(self.keys.log, {"d": line}, id=f"{self.epoch}-{self.n}")
                pipe.hset(self.keys.meta, mapping={"n": self.n, "epoch": self.epoch})
                if each["type"] == "content_block_delta" and "text" in each["delta"]:
                    pipe.append(self.keys.text, each["delta"]["text"])
                if each["type"] == events.END:
                    pipe.hset(self.keys.meta, "state", each["state"])
                if publish:
                    pipe.publish(self.keys.events, line)
                self._expire(pipe)
                pipe.execute()

    def text(self, *pieces: str, publish: bool = True) -> None:
        """Write deltas of the first block."""
        self.write(*(delta(piece) for piece in pieces), publish=publish)

    def end(self, *, publish: bool = True, **data: Any) -> None:
        """Write the last event."""
        self.write({"type": events.END, "state": "done", **data}, publish=publish)

    def heartbeat(self) -> None:
        """Publish the number of the last event."""
        line = events.encode(self.epoch, self.n, {"type": events.HEARTBEAT})
        self._redis.publish(self.keys.events, line)

    def set_text(self, text: str) -> None:
        """Replace the visible text, as a rewind does."""
        self._redis.set(self.keys.text, text, ex=300)

    def trim(self, base: int) -> None:
        """Drop the events before number ``base``."""
        self._redis.xtrim(self.keys.log, minid=f"{self.epoch}-{base}", approximate=False)
        self._redis.hset(self.keys.meta, "base", base)

    def lose_tail(self, n: int) -> None:
        """Remove every event after number ``n``, as a Redis that lost its last writes."""
        kept = [fields[b"d"] for _, fields in self._redis.xrange(self.keys.log, count=n)]
        text = "".join(
            event.data["delta"]["text"]
            for event in map(events.decode, kept)
            if event.type == "content_block_delta"
        )
        last = events.decode(kept[-1])
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.delete(self.keys.log)
            for line in kept:
                pipe.xadd(self.keys.log, {"d": line}, id=str(events.decode(line).cursor))
            pipe.hset(self.keys.meta, mapping={"n": n, "epoch": last.epoch, "state": "running"})
            pipe.set(self.keys.text, text)
            self._expire(pipe)
            pipe.execute()
        self.n, self.epoch = n, last.epoch

    def cut(self) -> None:
        """Close every pub/sub connection of the server."""
        self._redis.client_kill_filter(_type="pubsub")

    @property
    def subscribers(self) -> int:
        """Connections that are subscribed to the request's channel."""
        return int(self._redis.pubsub_numsub(self.keys.events)[0][1])

    def request(self) -> StreamRequest:
        """The handle of the request."""
        return self._client.messages.handle(self.id)

    def stream(self, **options: Any) -> MessageStream:
        """A stream of the request's answer."""
        return self.request().stream(timeout=TIMEOUT_S, **options)

    def _expire(self, pipe: Any) -> None:
        for key in (self.keys.meta, self.keys.log, self.keys.text):
            pipe.expire(key, 300)
