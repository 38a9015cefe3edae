"""The producer's side, in the shape of the Anthropic SDK, plus what a queue adds."""

import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from penstock.batches.client import Batches
from penstock.events import Cursor
from penstock.follow.multiplexer import Multiplexer
from penstock.ids import new_id
from penstock.queue.wakeups import WakeUps
from penstock.settings import ClientSettings
from penstock.store.connection import connect, redis_errors_translated
from penstock.store.record import DEFAULT_PRIORITY, checked_id
from penstock.streams.records import RequestOptions, RequestRecords
from penstock.streams.stream import MessageStream, StreamRequest
from penstock.validation import check_body, encode_body


class Client:
    """Enqueues requests and batches, and follows them. Safe to share between threads.

    Settings come from ``PENSTOCK_*`` environment variables; keyword arguments win
    (`penstock.settings.ClientSettings` has them all). Raises `ConfigurationError` for a value
    that cannot be used. Nothing is connected before the first call.
    """

    def __init__(self, redis_url: str | None = None, **settings: Any) -> None:
        if redis_url is not None:
            settings["redis_url"] = redis_url
        self.settings = ClientSettings.load(**settings)
        self._redis = connect(self.settings)
        self._multiplexer = Multiplexer(self.settings)
        self._wakeups: WakeUps | None = None
        self._lock = threading.Lock()
        self.messages = Messages(self)

    def close(self) -> None:
        """Close all connections. Streams that are being read raise `ClientClosed`."""
        self._multiplexer.close()
        self._redis.close()
        if self._wakeups is not None:
            self._wakeups.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def wakeups(self) -> WakeUps:
        """The sender of wake-ups, made when first used."""
        with self._lock:
            if self._wakeups is None:
                self._wakeups = WakeUps(self.settings)
            return self._wakeups


class Messages:
    """``client.messages``: live streams, and ``client.messages.batches``."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._records = RequestRecords(client._redis, client.settings)
        self.batches = Batches(
            client._redis, client.settings, lambda: client.wakeups, client._multiplexer
        )

    def stream(self, *, timeout: float | None = None, **body: Any) -> MessageStream:
        """Enqueue a Messages request and follow its answer, as ``anthropic`` does.

        ``body`` is what ``client.messages.stream`` of the SDK takes, and the options of
        `enqueue`. ``timeout`` bounds the seconds between two events. Raises what `enqueue`
        raises.
        """
        return self.enqueue(**body).stream(timeout=timeout)

    def enqueue(
        self,
        *,
        typed: bool = False,
        priority: int = DEFAULT_PRIORITY,
        deadline: float | None = None,
        on_interrupt: str = "continue",
        extra_headers: Mapping[str, str] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        **body: Any,
    ) -> StreamRequest:
        """Enqueue a Messages request and return its handle at once.

        ``typed=True`` also publishes the bare text, for ``redis-cli SUBSCRIBE``. ``priority``:
        0 is taken first, 9 last. ``deadline``: seconds after which it is not started any more
        and fails with ``deadline_exceeded``, no tokens spent. ``on_interrupt``: what
        to do with an interrupted answer: ``continue`` it, ``restart`` it, or ``fail``.
        ``extra_headers`` (``anthropic-*`` only: betas, another API version) and ``extra_body``
        as in the SDK.

        Raises `InvalidRequest`, naming the field, or `RedisUnavailable`; nothing is enqueued
        then.
        """
        options = RequestOptions(
            typed=typed,
            priority=priority,
            deadline_s=deadline,
            on_interrupt=on_interrupt,
            headers=extra_headers or {},
        )
        body |= extra_body or {}
        body.pop("stream", None)  # every request is streamed; the SDK's flag says nothing here
        encoded = encode_body(check_body(body))
        id, model = new_id(), str(body["model"])
        with redis_errors_translated(self._client.settings):
            self._records.submit(id, model, encoded, options)
            try:
                self._client.wakeups.stream(id, model, priority)
            except BaseException:
                # Nobody will hear of it: a record without a wake-up would only confuse.
                self._records.discard(id)
                raise
        return self.handle(id)

    def request(self, id: str) -> StreamRequest:
        """The handle of a request that was enqueued before. Raises `NotFound`."""
        with redis_errors_translated(self._client.settings):
            self._records.read(id)
        return self.handle(id)

    def attach(
        self,
        id: str,
        *,
        after: Cursor | str | None = None,
        timeout: float | None = None,
        wait_for: float = 0.0,
    ) -> MessageStream:
        """Follow a request from its beginning, or from the cursor of the last event taken.

        ``wait_for``: seconds to wait for a request that has not been enqueued yet. Raises
        `NotFound`, or `ValueError` for a cursor that is none.
        """
        handle = self.handle(checked_id(id)) if wait_for else self.request(id)
        return handle.stream(after=after, timeout=timeout, wait_for=wait_for)

    def handle(self, id: str) -> StreamRequest:
        """A handle, whether or not there is such a request."""
        return StreamRequest(
            id, self._client._redis, self._client.settings, self._client._multiplexer
        )
