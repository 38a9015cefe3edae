"""Every Redis key and channel of Penstock: its name, type, TTL, writers and readers.

No other module spells a key. All keys of a request or a job share the hash tag ``{id}``, a UUIDv7;
``penstock`` is the prefix (``PENSTOCK_KEY_PREFIX``). A *sliding* TTL is renewed by every writer
while the work is running: ``PENSTOCK_REQUEST_TTL_S`` for requests, ``PENSTOCK_BATCH_TTL_S`` for
jobs. After the end a key expires in ``PENSTOCK_RETENTION_S`` (requests) or
``PENSTOCK_BATCH_RETENTION_S`` (jobs).

Celery's own keys on the same server are ``streams`` and ``batches`` (lists: the queues),
``unacked``, ``unacked_index``, ``unacked_mutex``, ``_kombu.binding*`` and ``*.pidbox``. Celery
gives them no TTL.
"""

from dataclasses import dataclass
from typing import Final

#: Patterns of the keys without a TTL, for leak checks. All but the last five are Celery's own.
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
    """The keys that requests and jobs have in common: a record, a log, a lease and a channel."""

    prefix: str
    id: str

    def _key(self, name: str) -> str:
        return f"{self.prefix}:{{{self.id}}}:{name}"

    @property
    def meta(self) -> str:
        """Hash, sliding TTL. The record.

        All records have ``state``, ``epoch``, ``n`` (number of the last event), ``cancel`` (who
        asked), ``model``, ``worker``, times in ms since 1970, ``usage`` and ``error``. Requests
        also have ``attempts``, ``spent`` (usage of all attempts so far), ``open_output`` (output
        tokens in it that the attempt in progress has reported; empty: none is in progress),
        ``usage_estimated``, ``retry_budget`` (JSON: ``stalled``, attempts since the answer last
        advanced, ``kept``, characters it had then, ``last``, a digest of the last fault, by
        which a repetition is recognised, and ``reason``, the error that interrupted the last of
        them, until the next begins), ``api_retries`` (retryable errors of the API),
        ``worker_losses``, ``renewed_ms`` (last renewal of the lease), ``woken`` (wake-ups sent
        by the reaper), ``waits_for`` (why a queued request is not sent to the API yet, such as a
        rate limit) and ``wait_until_ms`` (when it is tried again), ``on_interrupt``,
        ``priority``, ``deadline_ms``, ``typed``, ``headers``, ``text_final`` (a `TextFinal`:
        when the text is final) and ``base`` (number of the first event that the log still has,
        if not 1). Jobs also have ``shards`` (of the first round), ``left`` (shards not
        collected), ``requests``, ``spool`` (address of the chunks; empty: Redis), ``headers``,
        ``retry_of`` and ``retried_by`` (the jobs before and after a retry of failed requests),
        ``too_large`` (bytes of the smallest body that was rejected as too large), ``splits``
        (number of shards that were added by splitting others), ``waiting_for_canary`` (no other
        shard is sent before the canary has its results), ``paused`` and ``alert`` (JSON:
        ``type``, ``message``, ``at_ms``). ``simulated`` is 1 if the API simulator has answered;
        a job gets it at its end. Written by the producer before it sends the wake-up, then by
        the worker that holds the lease; ``cancel`` by any client. Read by any client."""
        return self._key("meta")

    @property
    def log(self) -> str:
        """Stream, sliding TTL. One entry for each event, with the id ``<epoch>-<n>`` and one field
        ``d``: the JSON that was published. Written by the scripts, read by readers that join late
        or missed an event."""
        return self._key("log")

    @property
    def lease(self) -> str:
        """String, PX ``PENSTOCK_LEASE_MS``. ``<worker>:<epoch>`` of the worker that runs the
        request now. It renews the key; the key expires soon after the worker is lost. Written and
        read by workers."""
        return self._key("lease")

    @property
    def events(self) -> str:
        """Channel. One JSON line for each event, as in the log, and heartbeats, which are not
        logged. Published by the scripts, subscribed to by readers."""
        return self._key("events")


@dataclass(frozen=True, slots=True)
class RequestKeys(RecordKeys):
    """The keys of one streamed request; the id is also the Celery task id."""

    @property
    def request(self) -> str:
        """String, sliding TTL. The body of the Messages request as the producer sent it (JSON).
        Written once by the producer, read by the worker."""
        return self._key("request")

    @property
    def text(self) -> str:
        """String, sliding TTL. The visible text of the answer so far, for readers that join late:
        one GET. Appended to by the write script, read by any client."""
        return self._key("text")

    @property
    def typed(self) -> str:
        """Channel, only if the producer asked for it (``typed=True``). The plain text as it
        arrives, for ``redis-cli SUBSCRIBE``. Published by the write script."""
        return self._key("typed")


@dataclass(frozen=True, slots=True)
class JobKeys(RecordKeys):
    """The keys of one batch job."""

    @property
    def shards(self) -> str:
        """Hash, sliding TTL. Shard number → JSON of `penstock.batches.shard.Shard`. Written by the
        producer with the record, then by the step that holds the shard. Read by any client."""
        return self._key("shards")

    @property
    def claims(self) -> str:
        """Hash, sliding TTL. ``<shard>`` → ``<epoch> <worker>`` of its last claim, against which
        every write is checked; the worker is removed when the claim is given up. ``<shard>:due`` →
        the time in ms before which a wake-up has no effect. ``<shard>:woken`` → the wake-ups that
        the reaper has sent since the last claim. Written and read by the scripts."""
        return self._key("claims")

    def shard_lease(self, shard: int) -> str:
        """String, PX ``PENSTOCK_LEASE_MS``. ``<worker>:<epoch>`` of the worker that runs a step of
        this shard now. It renews the key and deletes it after the step; the key expires soon after
        the worker is lost. Written and read by workers."""
        return self._key(f"lease:{shard}")

    @property
    def money(self) -> str:
        """Hash, sliding TTL, only for jobs with a cost cap. Millionths of a US dollar: ``cap``,
        ``spent`` (settled), ``reserved:<shard>``. Written by the producer and the scripts; ``cap``
        also by a client that resumes the job with another cap."""
        return self._key("money")

    def chunks(self, name: str) -> str:
        """List, EX 1 h, sliding, while the producer writes, then EX ``PENSTOCK_BATCH_TTL_S``; EX
        ``PENSTOCK_BATCH_RETENTION_S`` for the results and the failed requests of a job that has
        ended. Chunks of lines, compressed with Zstandard, if the spool is Redis.

        ``requests-…`` (params of the requests, JSON) and ``ids-…`` (their position and custom_id)
        are written by the producer, or by the collect step for retries, and read by the create and
        collect steps and by clients. ``failed-…`` (index in the shard and params of the requests
        that did not succeed) is written by the collect step, and read by clients that retry them.
        ``results-…`` (JSONL as the API returned it) is written by the collect step. Both have one
        list for each claim, so that two collectors never mix. Clients read the results."""
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
        """Sorted set, no TTL. Id of every request that has not ended → when the reaper checks it
        next, in ms of Redis's clock. Written by the scripts, read by the reaper."""
        return f"{self.prefix}:live"

    @property
    def reaper(self) -> str:
        """String, PX ``PENSTOCK_LEASE_MS``. The worker whose reaper is active. Written and read by
        workers."""
        return f"{self.prefix}:reaper"

    @property
    def run(self) -> str:
        """Hash, no TTL. When Redis was interrupted, in ms of its own clock. ``id`` (run_id of the
        Redis process that was seen last) and ``since_ms`` (when it was first seen; 0 for the first
        process ever): nothing is claimed until a lease after it, because the restart may have lost
        claims. ``beat_ms`` (when a worker last wrote, by the tick of its reaper) and ``stall_ms``
        (when it was last noticed that none could write): no work is taken from a worker until a
        lease after it. Written and read by the scripts that claim and reap."""
        return f"{self.prefix}:run"

    @property
    def control(self) -> str:
        """Channel. The id of a request that is to be canceled, so that the worker that holds it
        reads the record at once. Published by the cancel script, subscribed to by workers."""
        return f"{self.prefix}:control"

    def rate_limit(self, lane: str) -> str:
        """Hash, EX 1 h, sliding. What is known about the API's rate limit for a lane (a model, with
        fast mode and the service tier if a request asks for them): ``tokens`` (requests that may be
        sent), ``stamp_ms``, ``interval_us``, ``limit``, ``closed_ms`` (no call is made before),
        ``known``. Written and read by the rate limiter's scripts for all workers."""
        return f"{self.prefix}:rate-limit:{{{lane}}}"

    def rate_limit_calls(self, lane: str) -> str:
        """Sorted set, EX 1 h, sliding. Requests that the API has not answered yet → when they count
        as lost, in ms. Written and read by the rate limiter's scripts."""
        return f"{self.rate_limit(lane)}:calls"

    def rate_limit_turns(self, lane: str) -> str:
        """Sorted set, EX 1 h, sliding. Requests that wait for the rate limit → when their turn is,
        in ms. Written and read by the rate limiter's scripts."""
        return f"{self.rate_limit(lane)}:turns"

    @property
    def jobs(self) -> str:
        """Sorted set, no TTL. Job id → time of creation in ms. Written by producers, read by
        ``batches.list()``. Both it and the reaper remove the ids whose records have expired."""
        return f"{self.prefix}:jobs"

    @property
    def spools(self) -> str:
        """Sorted set, no TTL. ``<job> <address>`` of every job whose chunks are not stored in Redis
        → the time in ms after which they can be removed if the job has no record. Written by
        producers and workers that write chunks. Read by the reaper, which removes such chunks."""
        return f"{self.prefix}:spools"

    @property
    def live_shards(self) -> str:
        """Sorted set, no TTL. ``<job>/<shard>`` of every shard that is not done → when the reaper
        checks it next, in ms of Redis's clock. Written by the scripts, read by the reaper."""
        return f"{self.prefix}:live-shards"

    @property
    def active_batches(self) -> str:
        """Hash, EX 25 h, sliding. ``<job>/<shard>`` of every batch that is (or may be) active at
        the API → ``<requests> <time in ms after which it no longer counts>``. Written and read by
        the create and poll steps, so that the deployment stays within the API's limits."""
        return f"{self.prefix}:active-batches"

    def size_lock(self, requests: int) -> str:
        """Hash, EX 26 h, sliding. The create calls with this number of requests whose outcome is
        not known. ``open:<job>/<shard>`` → nonce of the open call; no other call of this size is
        made during it, so that a batch in the API's list can be identified by its size.
        ``abandoned:<job>/<shard>`` → for an abandoned call, whose batch may still appear: creation
        time in ms of the newest batch before it, and the time in ms after which it cannot appear
        any more. Written and read by the create step."""
        return f"{self.prefix}:size-lock:{requests}"

    def batch_owner(self, batch_id: str) -> str:
        """String, EX 30 d. ``<job>/<shard>`` that owns this batch of the API, or probably owns it
        (the shard's record says which). Written by the create step, and read when it looks for a
        batch, so that it never takes the batch of another shard."""
        return f"{self.prefix}:batch-owner:{batch_id}"

    @property
    def history(self) -> str:
        """List, EX 90 d, the last 200 entries. How long batches took, JSON: ``model``,
        ``requests``, ``ms``. Written by the collect step, read by clients to estimate the
        remaining time."""
        return f"{self.prefix}:history"
