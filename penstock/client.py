"""The synchronous client: the interface of the Anthropic SDK, plus what a queue adds."""

import threading
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from penstock.batches.client import Batches
from penstock.body.fields import HEADER_OPTIONS, body_fields, more_fields
from penstock.events import Cursor
from penstock.follow.multiplexer import Multiplexer
from penstock.ids import new_id
from penstock.queue.wakeups import WakeUps
from penstock.settings import ClientSettings
from penstock.store.connection import connect, redis_errors_translated
from penstock.store.record import DEFAULT_PRIORITY, checked_id
from penstock.streams.final_text import text_final
from penstock.streams.records import RequestOptions, RequestRecords
from penstock.streams.stream import MessageStream, StreamRequest
from penstock.validation import check_body, check_thread, check_timeout, encode_body, merged_headers


class Client:
    """Enqueues requests and batch jobs, and follows them. Threads can share a client.

    ``redis_url`` and the other settings are read from ``PENSTOCK_*`` environment variables; keyword
    arguments take precedence (`penstock.settings.ClientSettings` lists them, with their units).
    Raises `ConfigurationError` if a value cannot be used. No connection is made before the first
    call. For example::

        with Client("redis://127.0.0.1:6379/0", retention_s=600) as client:
            with client.messages.stream(
                model="claude-haiku-4-5",
                max_tokens=200,
                messages=[{"role": "user", "content": "Hello"}],
            ) as stream:
                for text in stream.text_stream:
                    print(text, end="", flush=True)
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
        """Close all connections. Readers of open streams raise `ClientClosed`."""
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
        """The sender of wake-ups, created at its first use."""
        with self._lock:
            if self._wakeups is None:
                self._wakeups = WakeUps(self.settings)
            return self._wakeups


class Messages:
    """``client.messages``: live streams; ``client.messages.batches``: batch jobs."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._records = RequestRecords(client._redis, client.settings)
        self.batches = Batches(
            client._redis, client.settings, lambda: client.wakeups, client._multiplexer
        )

    def stream(self, *, timeout: float | None = None, **body: Any) -> MessageStream:
        """Enqueue a Messages request and follow its answer.

        Takes what ``client.messages.stream`` of the SDK takes (Messages API, Create a Message), and
        the options of `enqueue`. ``timeout`` is the maximum number of seconds between two events;
        after that the reader raises `TimeoutError`, and the request runs on. Raises what `enqueue`
        raises. For example::

            with client.messages.stream(
                model="claude-haiku-4-5",
                max_tokens=200,
                messages=[{"role": "user", "content": "Hello"}],
            ) as stream:
                for text in stream.text_stream:
                    print(text, end="", flush=True)
                message = stream.get_final_message()
        """
        seconds = check_timeout(timeout)
        return self.enqueue(**body).stream(timeout=seconds)

    def enqueue(
        self,
        *,
        typed: bool = False,
        priority: int = DEFAULT_PRIORITY,
        deadline: float | None = None,
        on_interrupt: str = "continue",
        betas: Sequence[str] = (),
        extra_headers: Mapping[str, str] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        **body: Any,
    ) -> StreamRequest:
        """Enqueue a Messages request and return its handle at once.

        - ``body``: the parameters of the Messages API (Create a Message). ``stream`` is ignored,
          because every request is streamed. Arguments that are ``NOT_GIVEN`` or ``omit`` are left
          out; a path, an open file or bytes as ``data`` of type ``base64`` is read and encoded.
        - ``typed``: also publish the plain text, for ``redis-cli SUBSCRIBE``.
        - ``priority``: 0 (first) to 9 (last).
        - ``deadline``: seconds until the request is no longer worth starting. If no worker has
          started it by then, it fails with the error ``deadline_exceeded`` and costs no tokens.
        - ``on_interrupt``: what to do if the answer is interrupted: ``continue`` it after what was
          received, ``restart`` it from the beginning, or ``fail``. A request with ``thread`` takes
          only ``fail``.
        - ``betas``: names for the header ``anthropic-beta``.
        - ``extra_headers``: headers for the API, ``anthropic-*`` only, such as ``anthropic-beta``.
        - ``extra_body``: more fields of the body, as in the SDK. Their names are not checked.

        Raises `InvalidRequest`, which names the field, or `RedisUnavailable`. Nothing is enqueued
        then. For example::

            request = client.messages.enqueue(
                model="claude-haiku-4-5",
                max_tokens=200,
                messages=[{"role": "user", "content": "Hello"}],
                priority=0,
                deadline=30,
            )
            print(request.id)
        """
        fields = body_fields(body)
        headers = merged_headers(extra_headers, betas)
        for name, header in HEADER_OPTIONS.items():
            if (value := fields.pop(name, None)) is not None:
                headers[header] = value
        options = RequestOptions(
            typed=typed,
            priority=priority,
            deadline_s=deadline,
            on_interrupt=on_interrupt,
            headers=headers,
        )
        fields |= more_fields(extra_body)
        fields.pop("stream", None)  # every request is streamed, so the SDK's flag has no meaning
        check_thread(fields, on_interrupt)
        fields = check_body(fields)
        encoded = encode_body(fields)
        id, model = new_id(), str(fields["model"])
        with redis_errors_translated(self._client.settings):
            self._records.submit(id, model, encoded, options, text_final(fields, on_interrupt))
            try:
                self._client.wakeups.stream(id, model, priority)
            except BaseException:
                # The caller gets no handle: a record without a wake-up would only confuse.
                self._records.discard(id)
                raise
        return self.handle(id)

    def request(self, id: str) -> StreamRequest:
        """Return the handle of an enqueued request.

        Raises `NotFound` if there is no such request or its record has expired, or
        `RedisUnavailable`. For example::

            print(client.messages.request(id).state)
        """
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
        """Follow an enqueued request from the beginning, or from a cursor.

        - ``after``: the cursor of the last event that the reader has taken; the stream begins with
          the next one.
        - ``timeout``: maximum seconds between two events; after that the reader raises
          `TimeoutError`.
        - ``wait_for``: seconds to wait for a request that has not been enqueued yet.

        Raises `NotFound`, `RedisUnavailable`, or `ValueError` if ``after`` is not a cursor. For
        example::

            with client.messages.attach(id, after="1-58", timeout=60) as stream:
                for event in stream:
                    print(event.type, stream.cursor)
        """
        handle = self.handle(checked_id(id)) if wait_for else self.request(id)
        return handle.stream(after=after, timeout=timeout, wait_for=wait_for)

    def handle(self, id: str) -> StreamRequest:
        """Return a handle, whether or not there is such a request."""
        return StreamRequest(
            id, self._client._redis, self._client.settings, self._client._multiplexer
        )
