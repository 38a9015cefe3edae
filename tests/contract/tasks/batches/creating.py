"""The create step on a Redis and a simulator, with jobs, faults and simulated time."""

import contextlib
from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import Any

import anthropic
import httpx2
import orjson

from penstock import events
from penstock.batches.jobs import JobRecords
from penstock.batches.shard import Shard
from penstock.local.embedded_redis import EmbeddedRedis
from penstock.queue import names
from penstock.simulator.control import Control
from tasks.batches.create.step import CreateStep
from tasks.batches.step_result import RetryIn, StepResult
from tasks.batches.steps import BatchSteps
from tests.contract.jobs import Desk, api_at, expect
from tests.contract.penstock.store.calls import clock

BATCHES = "/v1/messages/batches"
#: What the desk's settings say, in ms.
UPLOAD_TIMEOUT_MS, LOST_CREATE_WAIT_MS, LIST_CONSISTENCY_MS = 600_000, 900_000, 60_000


class Killed(BaseException):
    """The worker is killed here."""


class Creating:
    """The create step of one deployment."""

    def __init__(self, server: EmbeddedRedis, control: Control) -> None:
        self.control = control
        self.server = server
        self.desk = Desk(server)
        self.api = api_at(control)
        # WAITAOF need not wait for the next second then.
        self.desk.connection.config_set("appendfsync", "always")

    def restart(self, **settings: Any) -> None:
        """Continue with other settings."""
        prefix = self.desk.settings.key_prefix
        self.desk.close()
        self.desk = Desk(self.server, key_prefix=prefix, **settings)

    def submit(self, *shards: list[dict[str, Any]], **meta: Any) -> str:
        return self.desk.submit(*shards, **meta)

    def step(
        self, id: str, number: int = 0, *, api: anthropic.Anthropic | None = None
    ) -> StepResult:
        """Run the create step."""
        return self.desk.step(CreateStep(self.desk.settings, api or self.api).run, id, number)

    def dispatch(self, id: str, number: int = 0, *, api: Any = None) -> StepResult:
        """Run it as the task does, with the handling of the API's errors."""
        steps = BatchSteps(self.desk.settings, api or self.api)
        return self.desk.step(lambda work: steps.run(names.BATCH_CREATE, work), id, number)

    @contextlib.contextmanager
    def hooked(self, kind: str, hook: Callable[[], object]) -> Iterator[anthropic.Anthropic]:
        """The SDK with a hook that runs before a create call, or when its response arrives."""

        def called(message: Any) -> None:
            request = message if kind == "request" else message.request
            if request.method == "POST":
                hook()

        client = httpx2.Client(event_hooks={kind: [called]}, timeout=30)
        with anthropic.Anthropic(
            api_key="simulated-key",
            base_url=self.control.base_url,
            max_retries=0,
            http_client=client,
        ) as api:
            yield api

    def die(self, kind: str, id: str, number: int = 0) -> None:
        """Run the step and kill its worker before its call, or before it sees the response."""

        def kill() -> None:
            raise Killed

        with self.hooked(kind, kill) as api, contextlib.suppress(Killed):
            self.step(id, number, api=api)
            raise AssertionError("the worker was not killed")

    def pass_grace(self, id: str, number: int = 0) -> None:
        """End the grace, in which no shard can be claimed after a restart of Redis."""
        self.desk.connection.delete(self.desk.settings.keys.run)
        self.desk.connection.delete(self.desk.keys(id).shard_lease(number))

    def reject(self, status: int, **more: Any) -> None:
        """Let the API reject the next create call."""
        self.control.fault(status=status, method="POST", path=BATCHES, **more)

    def lose(self, **fault: Any) -> None:
        """Lose the response to the next create call."""
        self.control.fault(method="POST", path=BATCHES, **fault)

    def age(self, id: str, ms: int, number: int = 0) -> None:
        """Let time pass for a shard."""
        shard = self.shard(id, number)
        times = ("sent_ms", "over_ms", "missed_ms")
        older = {name: getattr(shard, name) - ms for name in times if getattr(shard, name)}
        self.desk.change(id, number, **older)

    def abandon(self, id: str, number: int = 0) -> None:
        """Let the wait for a lost create call pass, and the first of two searches."""
        known = self.shard(id, number).over_ms
        # Not more: a batch that the API creates later than this is none of the call.
        self.age(id, LOST_CREATE_WAIT_MS + (0 if known else UPLOAD_TIMEOUT_MS), number)
        assert expect(RetryIn, self.step(id, number)).seconds
        assert self.shard(id, number).missed_ms
        self.age(id, LIST_CONSISTENCY_MS, number)

    def cancel(self, id: str) -> None:
        JobRecords(self.desk.connection, self.desk.settings).cancel(id, "me")

    def cap(self, id: str, micro_usd: int) -> None:
        """Give a job a cost cap."""
        key = self.desk.keys(id).money
        self.desk.connection.hset(key, "cap", micro_usd)
        self.desk.connection.expire(key, 100)

    def shard(self, id: str, number: int = 0) -> Shard:
        return self.desk.shard(id, number)

    def meta(self, id: str, field: str) -> Any:
        return self.desk.meta(id, field)

    def only_batch(self) -> Any:
        """The one batch at the API."""
        [batch] = self.control.batches()
        return batch

    def owner(self, batch_id: str) -> str:
        raw = self.desk.connection.get(self.desk.settings.keys.batch_owner(batch_id))
        return (raw or b"").decode()

    def size_lock(self, requests: int) -> dict[bytes, bytes]:
        found: dict[bytes, bytes] = self.desk.connection.hgetall(
            self.desk.settings.keys.size_lock(requests)
        )
        return found

    def reaped_at(self, id: str, number: int = 0) -> Any:
        """When the reaper checks the shard; None: never."""
        return self.desk.connection.zscore(self.desk.settings.keys.live_shards, f"{id}/{number}")

    def due_in_ms(self, id: str, number: int = 0) -> int:
        """Milliseconds until the shard is due."""
        raw = self.desk.connection.hget(self.desk.keys(id).claims, f"{number}:due")
        return int(raw or 0) - clock(self.desk.connection)

    def events(self, id: str) -> list[str]:
        log = self.desk.connection.xrange(self.desk.keys(id).log, "0-2")
        return [events.decode(fields[b"d"]).type for _, fields in log]

    def alert(self, id: str) -> dict[str, Any] | None:
        raw = self.meta(id, "alert")
        return None if raw is None else orjson.loads(raw)

    def hashes(self, requests: list[dict[str, Any]]) -> list[str]:
        """The requests as the simulator's accounts name them."""
        dumped = [orjson.dumps(each, option=orjson.OPT_SORT_KEYS) for each in requests]
        return [sha256(each).hexdigest()[:16] for each in dumped]

    def assert_holds_nothing(self, id: str, number: int = 0) -> None:
        """A waiting shard has no slot, no size lock and no reserved cost."""
        redis, shared, member = self.desk.connection, self.desk.settings.keys, f"{id}/{number}"
        assert not redis.hexists(shared.active_batches, member)
        assert f"open:{member}".encode() not in self.size_lock(self.shard(id, number).requests)
        assert not redis.hexists(self.desk.keys(id).money, f"reserved:{number}")

    def close(self) -> None:
        self.desk.connection.config_set("appendfsync", "everysec")
        self.api.close()
        self.desk.close()
