"""How long the API may say that it does not know a batch or its list; pure.

Users saw a 404 for batches that were seconds and minutes old, and that were there later. So a 404
is believed only once it has lasted for some minutes.
"""

from typing import Final

from penstock.batches.shard import Shard

#: Milliseconds from the first 404 in a row until it is believed.
TRANSIENT_MS: Final = 300_000

#: Milliseconds after which a 404 is not in a row with an earlier one: a retry follows within
#: minutes, so there was a call that succeeded.
_FORGOTTEN_MS: Final = 3_600_000


def noted_404(shard: Shard, now_ms: int) -> Shard | None:
    """Return the record with the time of the first 404; None: it has lasted long enough.

    >>> noted_404(Shard(number=0), 1_000_000).not_found_ms
    1000000
    """
    first_ms = shard.not_found_ms
    if not first_ms or now_ms - first_ms > _FORGOTTEN_MS:
        return shard.evolve(not_found_ms=now_ms)
    return None if now_ms - first_ms >= TRANSIENT_MS else shard
