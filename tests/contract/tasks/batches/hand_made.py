"""A batch job in a real Redis whose shards a test collects, with the workers' own claims."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

import orjson

from config.settings import WorkerSettings
from penstock.batches.notices import Alert
from penstock.batches.shard import Shard
from penstock.client import Client
from penstock.spool.chunks import lines_of
from penstock.states import State
from tasks.batches.claimed_shard import ClaimedShard
from tests.collected import Named, collected, spooled, succeeded

MODEL = "claude-haiku-4-5"


def requests(count: int, prefix: str = "line") -> list[dict[str, Any]]:
    """Requests with the custom_ids ``<prefix>-0``, ``<prefix>-1`` …"""
    params = {"model": MODEL, "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]}
    return [{"custom_id": f"{prefix}-{i}", "params": params} for i in range(count)]


class HandMadeJob:
    """A job of ``count`` requests; the settings of ``client`` decide how many make a shard."""

    def __init__(self, client: Client, count: int, **options: Any) -> None:
        batches = client.messages.batches
        self._client = client
        self._settings = WorkerSettings.load(
            redis_url=client.settings.redis_url.get_secret_value(),
            key_prefix=client.settings.key_prefix,
            spool_url=client.settings.spool_url,
        )
        self.id = batches.create(requests=requests(count), **options).id
        self.keys = client.settings.keys.job(self.id)

    @property
    def shards(self) -> tuple[Shard, ...]:
        """Its shards as they are recorded."""
        return self._client.messages.batches.retrieve(self.id).shards

    def claim(self, number: int) -> AbstractContextManager[ClaimedShard]:
        """A shard, as a worker claims it."""
        return ClaimedShard.claim(
            self._client._redis, self._settings, job=self.id, shard=number, worker="w"
        )

    def named(self, shard: Shard, work: ClaimedShard) -> list[Named]:
        """Positions and custom_ids of a shard's requests."""
        found = []
        for chunk in work.job.store().read(shard.id_chunk_name, shard.id_chunks):
            for line in lines_of(chunk):
                position, _, custom_id = line.decode().partition(" ")
                found.append((int(position), custom_id))
        return found

    def begin(self, number: int) -> None:
        """Record that a shard has a batch at the API."""
        with self.claim(number) as work:
            sent = work.shard.evolve(
                state="in_progress", batch_id=f"msgbatch_{number}", created_ms=1_700_000_000_000
            )
            work.advance("create", sent)
            work.release(countdown_s=1)

    def collect(
        self,
        number: int,
        *,
        retried: Iterable[int] = (),
        at_ms: int = 1,
        result: Callable[[str], dict[str, Any]] = succeeded,
        **changes: Any,
    ) -> None:
        """Collect a shard's results, last request first; those in ``retried`` get a retry shard."""
        retried = list(retried)
        with self.claim(number) as work:
            shard, store = work.shard, work.job.store()
            named = self.named(shard, work)
            order = reversed(range(len(named)))
            done = collected(
                store, shard, named, order, retried=retried, at_ms=at_ms, result=result
            )
            also = []
            if retried:
                [following] = work.job.fields("shards")
                child = number + int(following)
                moved = [named[index] for index in retried]
                spool = f"{child}-{work.lease.epoch}"
                also = [spooled(store, child, moved, spool=spool, round=shard.round + 1)]
            left = 0 if retried else -1
            work.advance("collect", done.evolve(**changes), also=also, left=left)
            work.release(done=True)

    def cancel(self, number: int) -> None:
        """Collect a shard that was never sent as canceled."""
        with self.claim(number) as work:
            canceled = work.shard.evolve(state="collected", uniform_result={"type": "canceled"})
            counts = orjson.loads(orjson.dumps(work.shard.counts))
            gone = type(work.shard.counts)(canceled=counts["processing"])
            work.advance("create", canceled.evolve(counts=gone), left=-1)
            work.release(done=True)

    def pause(self, number: int, kind: str = "billing_error", message: str = "no credit") -> None:
        """Pause the job for a reason."""
        with self.claim(number) as work:
            work.park(pause={"type": kind, "message": message})

    def alert(
        self, number: int, kind: Alert = Alert.DUPLICATE_BATCH, message: str = "check it"
    ) -> None:
        """Raise an alert."""
        with self.claim(number) as work:
            work.alert(kind, message)
            work.release(countdown_s=1)

    def end(self, state: State = State.DONE, **meta: Any) -> None:
        """End the job."""
        with self.claim(0) as work:
            work.end(state, {"type": "penstock.end", "state": state}, **meta)
