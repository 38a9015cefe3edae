"""How long a shard waits for what all shards of its job wait for; pure."""

from typing import Final

#: Shards of a job that may all ask again after the usual time; with more, each asks less often.
_SHARDS: Final = 100

#: Maximum seconds of a prolonged wait: a fraction of the broker's visibility timeout.
_MAX_WAIT_S: Final = 400.0


def scaled_wait_s(seconds: float, shards_left: int) -> float:
    """Return the seconds until a shard asks again for a slot or for money under the cost cap.

    ``seconds`` is the usual wait, ``shards_left`` the shards of the job that are not collected: if
    thousands of them asked that often, the workers would do little else.

    >>> scaled_wait_s(20.0, 50), scaled_wait_s(20.0, 500), scaled_wait_s(20.0, 1_000_000)
    (20.0, 100.0, 400.0)
    """
    return min(seconds * max(1.0, shards_left / _SHARDS), max(seconds, _MAX_WAIT_S))
