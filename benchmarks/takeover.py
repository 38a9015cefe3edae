"""Measures how long readers wait when a worker stops, and how fast cancel is.

``python -m benchmarks.takeover``: two workers with the default lease. ``kill``: from SIGKILL of the
worker that runs a stream to the next delta. ``hand_over``: with SIGTERM, from the last delta of one
worker to the first of the other. ``cancel``: from the call to the closed connection at the API.
Each worker that was stopped is replaced.
"""

import argparse
import signal
import threading
import time
from os import kill as send_signal
from typing import Any

from benchmarks.figures import note, report, spread
from benchmarks.rig import Rig, asking, rig
from penstock.local.stack import WorkerProcess
from penstock.states import State
from penstock.streams.stream import StreamRequest

#: Deltas to wait for before the worker is stopped, so that the answer is in full flow.
BEFORE = 15


class Reader(threading.Thread):
    """Follows one stream and notes when each delta arrived, and under which epoch."""

    def __init__(self, handle: StreamRequest) -> None:
        super().__init__(daemon=True)
        self.handle = handle
        self.came: list[tuple[float, int]] = []
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        """Read to the end."""
        try:
            for event in self.handle.events(timeout=60):
                if event.type == "content_block_delta":
                    self.came.append((time.perf_counter(), event.epoch))
        except BaseException as error:
            self.error = error

    def wait_for(self, deltas: int) -> None:
        """Wait until this number of deltas has arrived."""
        while len(self.came) < deltas:
            if self.error is not None:
                raise self.error
            time.sleep(0.002)

    def change(self) -> tuple[float, float]:
        """Wait for the next worker; return the times of the last delta and the next one.

        The epoch separates them: deltas in transit when the first worker stopped are its own.
        """
        while self.came[-1][1] == self.came[0][1]:
            if self.error is not None:
                raise self.error
            time.sleep(0.002)
        epoch = self.came[0][1]
        return (
            max(at for at, each in self.came if each == epoch),
            min(at for at, each in self.came if each > epoch),
        )


class Pair:
    """Two workers, one of which can be stopped and replaced."""

    def __init__(self, stage: Rig) -> None:
        self._stage = stage
        self._started = 0
        self.workers = [self._new(), self._new()]

    def holder(self, handle: StreamRequest) -> WorkerProcess:
        """The worker that runs the stream."""
        meta = self._stage.client.settings.keys.request(handle.id).meta
        connection: Any = self._stage.client._redis
        worker = connection.hget(meta, "worker").decode()
        return next(each for each in self.workers if f":{each.pid}:" in worker)

    def replace(self, gone: WorkerProcess) -> None:
        """Start another worker in place of this one."""
        gone.stop()
        self.workers[self.workers.index(gone)] = self._new()

    def _new(self) -> WorkerProcess:
        self._started += 1
        return self._stage.worker(f"streams-{self._started}")


def send_away(stage: Rig, pair: Pair, number: signal.Signals) -> float:
    """Seconds from SIGKILL, or from the last delta before SIGTERM, to the next delta."""
    handle = stage.client.messages.enqueue(**asking(deltas=600, rate=40))
    reader = Reader(handle)
    reader.wait_for(BEFORE)
    worker = pair.holder(handle)
    moment = time.perf_counter()
    send_signal(worker.pid, number)
    last, first = reader.change()
    handle.cancel()
    reader.join(30)
    if not handle.state.ended:
        raise RuntimeError(f"{handle} did not end")
    pair.replace(worker)
    return first - (moment if number is signal.SIGKILL else last)


def cancel(stage: Rig) -> float:
    """Seconds from the call of cancel until the API sees the connection close."""
    handle = stage.client.messages.enqueue(**asking(deltas=600, rate=40))
    reader = Reader(handle)
    reader.wait_for(BEFORE)
    open_before = stage.control.stats()["open_streams"]
    moment = time.perf_counter()
    handle.cancel()
    while stage.control.stats()["open_streams"] >= open_before:
        if time.perf_counter() > moment + 30:
            raise RuntimeError("the API's connection stays open")
    took = time.perf_counter() - moment
    reader.join(30)
    if handle.state is not State.CANCELED:
        raise RuntimeError(f"{handle} is {handle.state}")
    return took


def main() -> None:
    """Measure and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--hand-overs", type=int, default=10)
    parser.add_argument("--cancels", type=int, default=50)
    asked = parser.parse_args()
    figures: dict[str, Any] = {}
    with rig() as stage:
        pair = Pair(stage)
        figures["lease_s"] = 5.0
        counts = {"kill": asked.kills, "hand_over": asked.hand_overs}
        for name, number in (("kill", signal.SIGKILL), ("hand_over", signal.SIGTERM)):
            gaps = []
            for _ in range(counts[name]):
                gaps.append(send_away(stage, pair, number))
                note(f"  {name}: {gaps[-1]:.2f} s")
            figures[f"{name}_to_next_delta_s"] = spread(gaps)
        figures["cancel_to_closed_ms"] = spread(
            [cancel(stage) for _ in range(asked.cancels)], scale=1e3
        )
    report("takeover", figures)


if __name__ == "__main__":
    main()
