"""Every Redis key and channel of Penstock: name, type, lifetime, writer and reader.

This is the only place where a key is spelled. All keys of one request or job share the hash
tag ``{id}``. ``id`` is a UUIDv7; ``penstock`` is the prefix (``PENSTOCK_KEY_PREFIX``).
"Sliding" means renewed by every writer while the work goes on (``PENSTOCK_REQUEST_TTL_S`` for
requests, ``PENSTOCK_BATCH_TTL_S`` for jobs); once the work has ended a key lives
``PENSTOCK_RETENTION_S`` (requests) or ``PENSTOCK_BATCH_RETENTION_S`` (jobs) longer.

Celery's own keys on the same server are ``streams`` and ``batches`` (lists: the queues),
``unacked``, ``unacked_index``, ``unacked_mutex``, ``_kombu.binding*`` and ``*.pidbox``.
They have no TTL by Celery's design; `PERMANENT` lists them for whoever checks for leaks.
"""

from dataclasses import dataclass
from typing import Final

#: Patterns of the keys that rightly live for ever, for leak checks. All but the last five
#: are Celery's own.
PERMANENT: Final = (
    "streams*",
    "batches*",
    "unacked*",
    "_kombu.binding*",
    # the same under another prefix
    "*:streams*",
    "*:batches*",
    "*:unacked*",
    "*:_kombu.binding*",
    "*.reply.celery.pidbox",
    "*:jobs",
    "*:live",
    "*:live-shards",
    "*:run",
    "*:spools",
)


@dataclass(frozen=True, slots=True)
class RecordKeys:
    """What requests and jobs have in common: a record, a log of events and a channel."""

    prefix: str
    id: str

    def _key(self, name: str) -> str:
        return f"{self.prefix}:{{{self.id}}}:{name}"

    @property
    def meta(self) -> str:
        """Hash, sliding. The record: ``state``, ``epoch``, ``n`` (number of the last event),
        ``cancel`` (who asked), ``model``, ``worker``, times in ms since 1970, usage, error; for
        requests also ``attempts``, ``spent`` (usage of earlier attempts), ``api_retries`` (the API
        said "not now"), ``worker_losses`` (workers lost), ``woken`` (by the reaper), ``due_ms``
        (not to be called before), ``on_interrupt``, ``priority``, ``deadline_ms``, ``typed``,
        ``headers``, ``base`` (number of the first event that the log still has, if not 1).
        For jobs also ``shards`` (of the first round), ``left`` (shards not collected),
        ``requests``, ``spool`` (address of the chunks; empty: Redis), ``headers``,
        ``waiting_for_canary`` (nothing else is sent before the canary has its results), ``paused``
        and ``alert`` (JSON: ``type``, ``message``, ``at_ms``).
        Written by the producer before the wake-up is sent, then by whoever holds the lease;
        ``cancel`` by anyone. Read by everybody."""
        return self._key("meta")

    @property
    def log(self) -> str:
        """Stream, sliding. One entry per published event, entry id ``<epoch>-<n>``, one field
        ``d``: the JSON that was published. Written by the write script, read by readers that
        join late or missed something."""
        return self._key("log")

    @property
    def lease(self) -> str:
        """String, PX ``PENSTOCK_LEASE_MS``. ``<worker>:<epoch>`` of whoever works on this now;
        renewed by it, gone soon after it dies. Written and read by workers."""
        return self._key("lease")

    @property
    def events(self) -> str:
        """Channel. One JSON line per event, as in the log, plus heartbeats, which are not
        logged. Published by the write script; subscribed to by readers."""
        return self._key("events")


@dataclass(frozen=True, slots=True)
class RequestKeys(RecordKeys):
    """The keys of one streamed request; the id is also the Celery task id."""

    @property
    def request(self) -> str:
        """String, sliding. The Messages body as the producer sent it (JSON). Written once by
        the producer, read by the worker."""
        return self._key("request")

    @property
    def text(self) -> str:
        """String, sliding. The visible answer so far: one GET is a late join. Appended to by
        the write script, read by anyone."""
        return self._key("text")

    @property
    def typed(self) -> str:
        """Channel, only where the producer asked for it (``typed=True``). Bare text, so that
        ``redis-cli SUBSCRIBE`` reads like a typewriter."""
        return self._key("typed")


@dataclass(frozen=True, slots=True)
class JobKeys(RecordKeys):
    """The keys of one batch job."""

    @property
    def shards(self) -> str:
        """Hash, sliding. Shard number → JSON of `penstock.batches.shard.Shard`. Written by the
        producer when the job is made, then by the step that holds the shard; read by everybody."""
        return self._key("shards")

    @property
    def claims(self) -> str:
        """Hash, sliding. ``<shard>`` → ``<epoch> <worker>`` of its last claim, which every write
        is checked against, without the worker once it is given up; ``<shard>:due`` → the time in
        ms before which a wake-up for it finds nothing to do; ``<shard>:woken`` → wake-ups that the
        reaper sent since the last claim. Written and read by the scripts."""
        return self._key("claims")

    def shard_lease(self, shard: int) -> str:
        """String, PX ``PENSTOCK_LEASE_MS``. ``<worker>:<epoch>`` of whoever works on this shard
        now; renewed by it, gone when its step is over or soon after it dies. Written and read by
        workers."""
        return self._key(f"lease:{shard}")

    @property
    def money(self) -> str:
        """Hash, sliding; only for jobs with a money cap, in millionths of a US dollar: ``cap``,
        ``spent`` (settled), ``reserved:<shard>``. Written by the producer and the scripts, the cap
        also by whoever resumes the job with another one."""
        return self._key("money")

    def chunks(self, name: str) -> str:
        """List, EX 1 h, sliding, while the producer writes, then EX ``PENSTOCK_BATCH_TTL_S``;
        results of a job that has ended EX ``PENSTOCK_BATCH_RETENTION_S``. Zstandard-compressed
        chunks of lines, where the spool is Redis: ``requests-…`` (params of the requests, JSON)
        and ``ids-…`` (their position and custom_id), written by the producer, or by the collect
        step for what is tried again, read by the create and collect steps and by clients;
        ``results-…`` (JSONL as the API gave it), written by the collect step, one list for each
        claim so that two collectors never mix, read by clients."""
        return self._key(f"chunks:{name}")


@dataclass(frozen=True, slots=True)
class Keys:
    """All keys under one prefix."""

    prefix: str = "penstock"

    def request(self, id: str) -> RequestKeys:
        """The keys of the streamed request ``id``."""
        return RequestKeys(self.prefix, id)

    def job(self, id: str) -> JobKeys:
        """The keys of the batch job ``id``."""
        return JobKeys(self.prefix, id)

    @property
    def live(self) -> str:
        """Sorted set, permanent. Id of every request that has not ended → when the reaper looks
        at it next, in ms of Redis's clock. Written by the scripts, read by the reaper."""
        return f"{self.prefix}:live"

    @property
    def reaper(self) -> str:
        """String, PX a few seconds. The worker that does the reaping now. Written and read by
        workers."""
        return f"{self.prefix}:reaper"

    @property
    def run(self) -> str:
        """Hash, permanent. The Redis process that was seen last: ``id`` (its run_id) and
        ``since_ms`` (when it was first seen, if another one was before it). Until a lease after
        that nothing is claimed, since claims may have been lost. Written and read by the scripts
        that claim."""
        return f"{self.prefix}:run"

    @property
    def control(self) -> str:
        """Channel. The id of a request whose record asks for attention (it was canceled): a
        wake-up for the worker that holds it. Published by who cancels, subscribed to by workers."""
        return f"{self.prefix}:control"

    def rate_limit(self, model: str) -> str:
        """Hash, EX 1 h, sliding. What is known of the API's rate limit for a model: ``tokens``,
        ``stamp_ms``, ``interval_us``, ``limit``, ``closed_ms``, ``known``. Written and read by
        the rate limiter's scripts for all workers."""
        return f"{self.prefix}:rate-limit:{{{model}}}"

    def rate_limit_calls(self, model: str) -> str:
        """Sorted set, EX 1 h, sliding. Calls that the API has not answered yet → when they count as
        lost, in ms. Written by the rate limiter's scripts."""
        return f"{self.rate_limit(model)}:calls"

    def rate_limit_turns(self, model: str) -> str:
        """Sorted set, EX 1 h, sliding. Requests that wait for the rate limit → when their turn is,
        in ms. Written by the rate limiter's scripts."""
        return f"{self.rate_limit(model)}:turns"

    @property
    def jobs(self) -> str:
        """Sorted set, permanent. Job id → time of creation in ms. Written by producers; read by
        ``batches.list()``, which also drops the ids whose records have expired."""
        return f"{self.prefix}:jobs"

    @property
    def spools(self) -> str:
        """Sorted set, permanent. ``<job> <address>`` of every job whose chunks lie elsewhere than
        in Redis → the time in ms after which they can go if the job has no record. Written by
        whoever writes chunks, read by the reaper, which removes what is left behind."""
        return f"{self.prefix}:spools"

    @property
    def live_shards(self) -> str:
        """Sorted set, permanent. ``<job>/<shard>`` of every shard that is not done with → when the
        reaper looks at it next, in ms of Redis's clock. Written by the scripts, read by the
        reaper."""
        return f"{self.prefix}:live-shards"

    @property
    def active_batches(self) -> str:
        """Hash, EX 25 h, sliding. ``<job>/<shard>`` of every batch that is active at the API (or
        may be) → ``<requests> <ms after which it counts no more>``. Written by the create and poll
        steps, so that the deployment stays within the API's limits."""
        return f"{self.prefix}:active-batches"

    def size_lock(self, requests: int) -> str:
        """Hash, EX 26 h, sliding. The create calls with so many requests whose fate is not known:
        ``open:<job>/<shard>`` → nonce of the one that is out; no other call of this size is made
        meanwhile, so that a batch in the API's list can be told by its size.
        ``lost:<job>/<shard>`` → time in ms of the newest batch from before one that was given up,
        whose own batch may still appear, and when it cannot any more. Written and read by the
        create step."""
        return f"{self.prefix}:size-lock:{requests}"

    def batch_owner(self, batch_id: str) -> str:
        """String, EX 30 d. ``<job>/<shard>`` that the API's batch belongs to, or is guessed to (the
        shard's record tells). Written by the create step, read when a batch is looked for, so that
        none is taken for another's."""
        return f"{self.prefix}:batch-owner:{batch_id}"

    @property
    def history(self) -> str:
        """List, EX 90 d, the last 200. How long batches took, JSON: ``model``, ``requests``,
        ``ms``. Written by the collect step, read for the estimate of the remaining time."""
        return f"{self.prefix}:history"
