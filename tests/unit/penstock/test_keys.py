"""Keys: one hash tag per record, nothing shared between records or kinds."""

import fnmatch

import pytest

from penstock.keys import PERMANENT, JobKeys, Keys, RequestKeys
from penstock.queue.names import QUEUES

ID = "0190a5b0-0000-7000-8000-000000000001"
OTHER = "0190a5b0-0000-7000-8000-000000000002"


def names_of(keys: RequestKeys | JobKeys) -> list[str]:
    found = [keys.meta, keys.log, keys.lease, keys.events]
    if isinstance(keys, RequestKeys):
        return [*found, keys.request, keys.text, keys.typed]
    leases = [keys.shard_lease(shard) for shard in (0, 1, 11)]
    chunks = [keys.chunks(name) for name in ("requests-0", "ids-0", "results-0-1", "results-0-11")]
    return [*found, keys.shards, keys.claims, keys.money, *leases, *chunks]


@pytest.mark.parametrize("kind", ["request", "job"])
def test_all_keys_of_a_record_share_one_hash_tag_and_differ(kind: str) -> None:
    names = names_of(getattr(Keys("p"), kind)(ID))
    assert all(name.startswith(f"p:{{{ID}}}:") for name in names)
    assert all(name.count("{") == name.count("}") == 1 for name in names)
    assert len(set(names)) == len(names)


def test_two_records_and_two_prefixes_share_no_key() -> None:
    sets = [set(names_of(Keys(prefix).request(id))) for prefix in ("a", "b") for id in (ID, OTHER)]
    assert len(set.union(*sets)) == sum(len(names) for names in sets)


def test_the_keys_are_spelled_as_they_are_documented() -> None:
    keys = Keys().request(ID)
    assert keys.meta == f"penstock:{{{ID}}}:meta"
    assert keys.log == f"penstock:{{{ID}}}:log"
    assert keys.text == f"penstock:{{{ID}}}:text"
    assert keys.events == f"penstock:{{{ID}}}:events"
    assert keys.request == f"penstock:{{{ID}}}:request"
    assert Keys().jobs == "penstock:jobs"


def test_every_key_has_a_docstring() -> None:
    """The module is the documentation: a key without a docstring would be undocumented."""
    for kind in (RequestKeys, JobKeys, Keys):
        for name, member in vars(kind).items():
            if isinstance(member, property) or (callable(member) and not name.startswith("_")):
                assert member.__doc__, f"{kind.__name__}.{name}"


@pytest.mark.parametrize("prefix", ["penstock", "a.b:c"])
def test_no_key_of_a_record_is_permanent(prefix: str) -> None:
    """The leak check excuses the names in PERMANENT; a record's keys must not fall under them."""
    names = [*names_of(Keys(prefix).request(ID)), *names_of(Keys(prefix).job(ID))]
    excused = [n for n in names if any(fnmatch.fnmatch(n, pattern) for pattern in PERMANENT)]
    assert not excused


def test_keys_that_all_records_share_differ() -> None:
    keys = Keys("p")
    shared = [
        keys.live,
        keys.live_shards,
        keys.jobs,
        keys.active_batches,
        keys.history,
        keys.spools,
    ]
    shared += [
        keys.reaper,
        keys.control,
        keys.size_lock(5),
        keys.size_lock(50),
        keys.batch_owner("b"),
        keys.rate_limit("m"),
    ]
    assert len(set(shared)) == len(shared)
    assert all(name.startswith("p:") for name in shared)


def test_every_permanent_key_is_listed() -> None:
    for name in (*QUEUES, "unacked", "unacked_index", "_kombu.binding.streams", Keys("x").jobs):
        assert any(fnmatch.fnmatch(name, pattern) for pattern in PERMANENT), name
