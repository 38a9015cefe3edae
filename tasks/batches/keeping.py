"""Keeps the chunks of a job that takes its time from expiring."""

from penstock.clock import now_ms
from tasks.batches.claimed_shard import ClaimedShard

#: They are kept anew when this share of their lifetime has passed.
_SHARE = 10


def keep_chunks(work: ClaimedShard) -> None:
    """Renew the lifetime of all chunks of the job, if that is due."""
    ttl_s = work.settings.batch_ttl_s
    created_ms, kept_ms = work.job.fields("created_ms", "kept_ms")
    if now_ms() - int(kept_ms or created_ms or 0) < ttl_s * 1000 // _SHARE:
        return
    store = work.job.store()
    for shard in work.job.shards():
        store.keep(shard.chunk_names, ttl_s)
    work.write(kept_ms=now_ms())
