"""The steps of one shard: create → poll → collect → finish.

Each step can run twice without harm: it looks at the record first and does only what is missing.
Money is spent in one place, `create`, and there a call whose fate is unknown is looked for at
the API before it is made again.
"""

import contextlib
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, cast

import anthropic
import httpx2
import orjson
from anthropic.types.messages import MessageBatch

from config.settings import WorkerSettings
from penstock import events, names
from penstock.jobs import chunks, create_body
from penstock.records import now_ms
from penstock.shards import Counts, Shard
from penstock.states import State
from tasks.api import ApiProblem, problem_of
from tasks.cadence import next_look_s
from tasks.prices import batch_cost
from tasks.reconciled import Books, ResultsIncomplete
from tasks.refusals import wait_s
from tasks.shard import ClaimedShard

BATCHES: Final = "/v1/messages/batches"
#: Wait before a create call with an unknown fate is looked for (again).
LOOK_AGAIN_S: Final = 5.0
#: Answers to a create call that say for certain that no batch was made.
DEFINITE: Final = frozenset({400, 401, 402, 403, 404, 413, 422, 429})
#: A call that the API has not listed so long after its timeout was never received.
GIVEN_UP_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Step:
    """How a step went. With a ``countdown_s`` it is to be run again, for ``reason``."""

    summary: dict[str, Any] = field(default_factory=dict)
    countdown_s: float | None = None
    reason: str = ""


class JobFailed(Exception):
    """The job cannot go on; its record has the API's words."""


class Undecidable(Exception):
    """Nothing tells which of several batches is ours; a person has to look."""


class BatchSteps:
    """The steps, with the API they call."""

    def __init__(self, settings: WorkerSettings, api: anthropic.Anthropic) -> None:
        self._settings = settings
        self._api = api

    def run(self, name: str, work: ClaimedShard) -> Step:
        """Run the step called ``name``. Raises `JobFailed` when the job has ended by it."""
        steps = {
            names.BATCH_CREATE: self.create,
            names.BATCH_POLL: self.poll,
            names.BATCH_COLLECT: self.collect,
            names.BATCH_FINISH: self.finish,
        }
        try:
            return steps[name](work)
        except (anthropic.APIError, httpx2.HTTPError) as error:
            return self._refused(work, problem_of(error))
        except ResultsIncomplete as error:
            problem = ApiProblem(type="incomplete_results", message=str(error), passing=True)
            return self._refused(work, problem)
        except Undecidable as error:
            problem = ApiProblem(type="undecidable_create", message=str(error))
            return self._refused(work, problem)

    # -- create -------------------------------------------------------------------------------

    def create(self, work: ClaimedShard) -> Step:
        """Make the shard a batch at the API."""
        shard = work.shard
        if shard.batch_id or shard.state == "collected":
            return self._created(work)
        if shard.state == "sending":
            return self._look_for(work)
        if work.cancel:
            canceled = Counts(canceled=shard.requests)
            work.advance("create", shard.but(state="collected", counts=canceled))
            return Step({"kind": "batch", "state": "canceled", "requests": shard.requests})
        return self._send(work)

    def _send(self, work: ClaimedShard) -> Step:
        # The intent comes first: should we die now, the next one knows that a call may be out.
        newest = self._api.messages.batches.list(limit=1).data
        intent = work.shard.but(
            state="sending", sent_ms=now_ms(), watermark=newest[0].id if newest else ""
        )
        work.write(intent)
        try:
            batch = self._api.post(
                BATCHES,
                cast_to=MessageBatch,
                content=create_body(work.requests()),
                options={
                    "headers": {
                        "content-type": "application/json",
                        "content-length": str(intent.size),
                    }
                },
            )
        except (anthropic.APIError, httpx2.HTTPError) as error:
            problem = problem_of(error)
            if problem.sent and problem.status not in DEFINITE:
                return Step(countdown_s=LOOK_AGAIN_S, reason=f"{problem}; looking for the batch")
            work.write(intent.but(state="planned"))
            raise
        return self._adopt(work, batch)

    def _look_for(self, work: ClaimedShard) -> Step:
        """A create call was made and its answer never came: is there a batch that fits?"""
        shard = work.shard
        found = []
        for batch in self._api.messages.batches.list(limit=100):
            if batch.id == shard.watermark or _ms(batch.created_at) < shard.sent_ms - 300_000:
                break
            if _total(batch) == shard.requests:
                found.append(batch)
        if len(found) == 1:
            return self._adopt(work, found[0])
        if found:
            ids = ", ".join(batch.id for batch in found)
            raise Undecidable(f"a create call had no answer, and each of these may be it: {ids}")
        waited_s = (now_ms() - shard.sent_ms) / 1000
        if waited_s > self._settings.upload_timeout_s + GIVEN_UP_S:
            work.write(shard.but(state="planned"))
            return Step(countdown_s=0.0, reason="the create call never arrived; sending it again")
        return Step(
            countdown_s=min(LOOK_AGAIN_S + waited_s / 10, 60.0),
            reason="a create call had no answer; looking for its batch",
        )

    def _adopt(self, work: ClaimedShard, batch: MessageBatch) -> Step:
        created = work.shard.but(
            state="in_progress", batch_id=batch.id, created_ms=_ms(batch.created_at)
        )
        work.advance("create", created)
        return self._created(work)

    def _created(self, work: ClaimedShard) -> Step:
        shard = work.shard
        return Step({"kind": "batch", "batch_id": shard.batch_id, "requests": shard.requests})

    # -- poll ---------------------------------------------------------------------------------

    def poll(self, work: ClaimedShard) -> Step:
        """Look whether the batch has ended; pass a wish to cancel on to the API."""
        shard = work.shard
        if shard.state in ("ended", "collected"):
            return self._polled(shard)
        batch = self._api.messages.batches.retrieve(shard.batch_id)
        if work.cancel and batch.processing_status == "in_progress":
            batch = self._api.messages.batches.cancel(shard.batch_id)
        shard = shard.but(polls=shard.polls + 1)
        if batch.processing_status == "ended":
            counts = Counts(**batch.request_counts.to_dict())  # type: ignore[arg-type]
            shard = shard.but(state="ended", ended_ms=now_ms(), counts=counts)
            work.advance("poll", shard)
            return self._polled(shard)
        work.write(shard)
        age_s = (now_ms() - shard.created_ms) / 1000
        settings = self._settings
        wait = next_look_s(
            age_s,
            share=settings.poll_share,
            shortest_s=settings.poll_min_s,
            longest_s=settings.poll_max_s,
            jitter=random.random(),  # noqa: S311 - spreads load, guards nothing
        )
        reason = f"{shard.batch_id} is {batch.processing_status}, {_age(age_s)} old"
        return Step(countdown_s=wait, reason=reason)

    def _polled(self, shard: Shard) -> Step:
        return Step({"kind": "batch", "batch_id": shard.batch_id, "polls": shard.polls})

    # -- collect ------------------------------------------------------------------------------

    def collect(self, work: ClaimedShard) -> Step:
        """Store the results, complete or not at all."""
        shard = work.shard
        if shard.state == "collected":
            return self._collected(shard)
        books = Books.of(orjson.loads(line)["custom_id"] for line in work.requests())
        temporary = work.keys.collecting(shard.number, work.epoch)
        try:
            for chunk in chunks(self._result_lines(shard, books)):
                work.redis.rpush(temporary, chunk)
                work.redis.expire(temporary, self._settings.batch_ttl_s)
            books.close()
        except BaseException:
            work.redis.delete(temporary)
            raise
        collected = shard.but(state="collected", counts=books.as_counts(), usage=books.as_usage())
        work.redis.rename(temporary, work.keys.results(shard.number))
        work.advance("collect", collected)
        return self._collected(collected)

    def _result_lines(self, shard: Shard, books: Books) -> Iterator[bytes]:
        """The result lines, entered into the books as they pass.

        Read raw: the SDK's own reader takes 64 bytes at a time. Split on line feeds alone:
        JSON may contain characters that `splitlines` takes for line ends.
        """
        path = f"{BATCHES}/{shard.batch_id}/results"
        rest = b""
        response = cast(
            httpx2.Response,
            self._api.get(
                path, cast_to=httpx2.Response, stream=True, stream_cls=anthropic.Stream[Any]
            ),
        )
        with contextlib.closing(response):
            for chunk in _whole(response):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    if line.strip():
                        books.take(line)
                        yield line + b"\n"
        if rest.strip():
            books.take(rest)
            yield rest + b"\n"

    def _collected(self, shard: Shard) -> Step:
        counts = orjson.loads(orjson.dumps(shard.counts))
        return Step({"kind": "batch", "batch_id": shard.batch_id, "counts": counts})

    # -- finish -------------------------------------------------------------------------------

    def finish(self, work: ClaimedShard) -> Step:
        """End the job when its last shard has been collected."""
        shards = work.all_shards()
        waiting = [shard for shard in shards if shard.state != "collected"]
        if waiting:
            return Step({"kind": "batch", "shards_left": len(waiting)})
        counts = sum((shard.counts for shard in shards), Counts())
        usage = _total_usage(shards)
        cost = batch_cost(usage)
        state = State.CANCELED if work.cancel and not counts.succeeded else State.DONE
        end = {
            "type": events.END,
            "state": state,
            "counts": orjson.loads(orjson.dumps(counts)),
            "usage": _summed(usage),
            "cost": cost,
            **({"by": work.cancel} if work.cancel else {}),
        }
        work.write(
            event=end,
            final=state,
            release=True,
            ended_ms=now_ms(),
            usage=orjson.dumps(_summed(usage)),
            cost=orjson.dumps(cost),
        )
        self._retain(work, shards)
        return Step({"kind": "batch", "state": str(state), "counts": end["counts"], "cost": cost})

    def _retain(self, work: ClaimedShard, shards: list[Shard]) -> None:
        """Keep the results for as long as the settings say; the requests are not needed now."""
        with work.redis.pipeline(transaction=False) as pipe:
            for shard in shards:
                pipe.expire(work.keys.results(shard.number), self._settings.batch_retention_s)
                pipe.delete(work.keys.spool(shard.number))
            pipe.execute()

    # -- when the API says no -----------------------------------------------------------------

    def _refused(self, work: ClaimedShard, problem: ApiProblem) -> Step:
        """When to run the step again. Ends the job and raises `JobFailed` if that is of no use."""
        refusals = int(work.redis.hincrby(work.keys.meta, "refusals", 1))
        if not problem.passing or refusals >= self._settings.refusals_limit:
            self._fail(work, problem.as_error())
            raise JobFailed(str(problem))
        wait = wait_s(
            refusals,
            problem.retry_after,
            self._settings.refusal_max_wait_s,
            random.random(),  # noqa: S311 - spreads load, guards nothing
        )
        return Step(countdown_s=wait, reason=str(problem))

    def _fail(self, work: ClaimedShard, error: dict[str, Any]) -> None:
        """End the job with an error. What is known of its batches stays in its record."""
        end = {"type": events.END, "state": State.FAILED, "error": error}
        work.write(
            event=end,
            final=State.FAILED,
            release=True,
            ended_ms=now_ms(),
            error=orjson.dumps(error),
        )
        self._retain(work, work.all_shards())


def _whole(response: httpx2.Response) -> Iterator[bytes]:
    """The body in chunks. Raises `ResultsIncomplete` where it breaks off."""
    try:
        yield from response.iter_bytes()
    except httpx2.TransportError as error:
        raise ResultsIncomplete(f"the download broke off: {type(error).__name__}") from error


def _total(batch: MessageBatch) -> int:
    return sum(int(count) for count in batch.request_counts.to_dict().values())  # type: ignore[call-overload]


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _age(seconds: float) -> str:
    """An age in words short enough for a column of Flower."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _total_usage(shards: list[Shard]) -> dict[str, Counter[str]]:
    usage: dict[str, Counter[str]] = {}
    for shard in shards:
        for model, tokens in shard.usage.items():
            usage.setdefault(model, Counter()).update(tokens)
    return usage


def _summed(usage: dict[str, Counter[str]]) -> dict[str, int]:
    return dict(sum(usage.values(), Counter()))
