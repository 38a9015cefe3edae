"""A 404 is believed once it has lasted for some minutes."""

import pytest

from penstock.batches.shard import Shard
from tasks.batches.transient_404 import TRANSIENT_MS, noted_404

NOW = 10_000_000


@pytest.mark.parametrize(
    ("first_ms", "noted"),
    [
        (0, NOW),
        (NOW, NOW),
        (NOW - TRANSIENT_MS + 1, NOW - TRANSIENT_MS + 1),
        (NOW - TRANSIENT_MS, None),
        (NOW - 3_600_000, None),
        (NOW - 3_600_001, NOW),
    ],
)
def test_a_404_is_believed_after_minutes_and_forgotten_after_an_hour(
    first_ms: int, noted: int | None
) -> None:
    shard = noted_404(Shard(number=0, not_found_ms=first_ms), NOW)
    assert (shard and shard.not_found_ms) == noted
