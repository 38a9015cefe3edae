"""The background writer: order, back-pressure, errors of the store, and lifetimes."""

import threading
from collections.abc import Iterable

import pytest

from penstock.spool import writer
from penstock.spool.chunks import lines_of
from penstock.spool.writer import BackgroundWriter
from penstock.testing import wait_until
from tests.collected import MemoryChunkStore


class SlowStore(MemoryChunkStore):
    """A store that stores nothing before it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.released = threading.Event()
        self.refreshed: list[tuple[list[str], int]] = []

    def add(self, name: str, index: int, chunk: bytes) -> None:
        """Wait, then store."""
        assert self.released.wait(30)
        super().add(name, index, chunk)

    def refresh_ttl(self, names: Iterable[str], seconds: int) -> bool:
        """Remember what was refreshed."""
        self.refreshed.append((list(names), seconds))
        return True


class FullStore(MemoryChunkStore):
    """A store that fails from its second chunk on."""

    def add(self, name: str, index: int, chunk: bytes) -> None:
        """Store the first chunk; fail after it."""
        if index:
            raise OSError("no space left")
        super().add(name, index, chunk)


def stored(store: MemoryChunkStore, name: str) -> list[bytes]:
    return [line for chunk in store.chunks.get(name, ()) for line in lines_of(chunk)]


def write(store: MemoryChunkStore, blocks: Iterable[bytes]) -> None:
    with BackgroundWriter(store) as background:
        for block in blocks:
            background.put("name", block)


def test_blocks_are_stored_in_order_under_their_names() -> None:
    store = MemoryChunkStore()
    with BackgroundWriter(store) as background:
        for number in range(50):
            background.put(f"name-{number % 2}", b"%d\n" % number)
    assert background.chunks == {"name-0": 25, "name-1": 25}
    assert stored(store, "name-0") == [b"%d" % number for number in range(0, 50, 2)]
    assert stored(store, "name-1") == [b"%d" % number for number in range(1, 50, 2)]


def test_an_empty_block_is_no_chunk() -> None:
    store = MemoryChunkStore()
    with BackgroundWriter(store) as background:
        background.put("name", b"")
        background.put("name", bytearray(b"line\n"))
        background.put("name", bytearray())
    assert background.chunks["name"] == len(store.chunks["name"]) == 1


def test_a_caller_waits_while_too_many_bytes_wait_for_the_store(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(writer, "MAX_WAITING_BYTES", 10)
    store, put = SlowStore(), list[int]()
    with BackgroundWriter(store) as background:

        def fill() -> None:
            for number in range(8):
                background.put("name", b"four\n")
                put.append(number)

        filling = threading.Thread(target=fill)
        filling.start()
        # The other thread is in the store, so the one that waits for a change is the caller.
        wait_until(lambda: background._changed._waiters)  # type: ignore[attr-defined]
        assert put == [0, 1]
        assert background._waiting_bytes == 10
        store.released.set()
        filling.join()
    assert len(store.chunks["name"]) == 8


def test_a_block_larger_than_the_bound_is_stored_nevertheless(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(writer, "MAX_WAITING_BYTES", 3)
    store = MemoryChunkStore()
    write(store, [b"longer\n"] * 3)
    assert len(store.chunks["name"]) == 3


def test_an_error_of_the_store_is_raised_by_the_next_put_and_at_the_end() -> None:
    store = FullStore()

    def write() -> None:
        with BackgroundWriter(store) as background:
            background.put("name", b"stored\n")
            background.put("name", b"fails\n")
            background._thread.join()
            with pytest.raises(OSError, match="no space left"):
                background.put("name", b"raises\n")

    with pytest.raises(OSError, match="no space left"):
        write()
    assert stored(store, "name") == [b"stored"]


def test_an_error_of_the_store_wakes_a_caller_that_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "MAX_WAITING_BYTES", 10)
    with pytest.raises(OSError, match="no space left"):
        write(FullStore(), [b"block\n"] * 100)


def test_an_error_of_the_last_block_is_raised_at_the_end() -> None:
    with pytest.raises(OSError, match="no space left"):
        write(FullStore(), [b"stored\n", b"fails\n"])


def test_blocks_that_still_wait_are_dropped_when_the_caller_fails() -> None:
    store = SlowStore()
    background = BackgroundWriter(store)

    def release() -> None:
        wait_until(lambda: background._closed)
        store.released.set()

    releasing = threading.Thread(target=release)

    def fail() -> None:
        with background:
            for _ in range(5):
                background.put("name", b"line\n")
            wait_until(lambda: len(background._blocks) == 4)
            releasing.start()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    releasing.join()
    assert len(store.chunks["name"]) == 1
    assert not background._thread.is_alive()


def test_lifetimes_are_refreshed_while_the_caller_puts_nothing() -> None:
    store = SlowStore()
    store.released.set()
    with BackgroundWriter(store, refresh_ttl_s=1) as background:
        background.put("name", b"line\n")
        wait_until(lambda: (["name"], 1) in store.refreshed)
    assert len(store.chunks["name"]) == 1


def test_lifetimes_are_not_refreshed_unless_asked_for() -> None:
    store = SlowStore()
    store.released.set()
    with BackgroundWriter(store) as background:
        background.put("name", b"line\n")
        assert background._refresh_at is None
    assert store.refreshed == []
