"""What all tests share: a scrubbed environment, Penstock's fixtures, and the check for leaks."""

import fnmatch
import os
import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import settings

from penstock.errors import PenstockError
from penstock.keys import PERMANENT
from penstock.local.embedded_redis import EmbeddedRedis
from penstock.local.server_choice import find_server

pytest_plugins = ["penstock.testing"]

# A test fails for what it finds, not for the time that a loaded machine takes for an example.
settings.register_profile("without_deadline", deadline=None)
settings.load_profile("without_deadline")

# The developer's own settings would leak into every process that a test starts.
for name in [name for name in os.environ if name.startswith(("PENSTOCK_", "ANTHROPIC_"))]:
    if name != "PENSTOCK_REDIS_SERVER":
        del os.environ[name]

# A `penstock up` of a test, or of the developer, must not be found by the commands of other tests.
_runtime = tempfile.TemporaryDirectory(prefix="penstock-tests-")
os.environ["XDG_RUNTIME_DIR"] = _runtime.name


#: One call for the keys of all earlier tests, which are thousands by the end of a session.
WITHOUT_LIFETIME = """
local found, cursor = {}, '0'
repeat
  local page = redis.call('SCAN', cursor, 'COUNT', 1000)
  cursor = page[1]
  for _, key in ipairs(page[2]) do
    if redis.call('TTL', key) == -1 then
      found[#found + 1] = key
    end
  end
until cursor == '0'
return found
"""


def pytest_report_header() -> list[str]:
    """Say which Redis server the tests run against, and why not against another one."""
    try:
        server = find_server()
    except PenstockError as error:
        return [f"redis: {error}"]
    return [f"redis: {server}", *(f"redis: skipped {each}" for each in server.skipped)]


@pytest.fixture(autouse=True)
def no_key_lives_for_ever(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every key has a lifetime, or is listed as permanent where keys are documented."""
    yield
    if "penstock_redis" not in request.fixturenames:
        return
    server: EmbeddedRedis = request.getfixturevalue("penstock_redis")
    leaked = keys_without_lifetime(server)
    assert not leaked, f"keys without a TTL that are not listed as permanent: {leaked}"


def keys_without_lifetime(server: EmbeddedRedis) -> list[str]:
    """The keys that would stay for ever, other than those that may."""
    import redis

    with redis.Redis.from_url(server.url, decode_responses=True) as connection:
        keys: list[str] = connection.eval(WITHOUT_LIFETIME, 0)
    return [key for key in keys if not any(fnmatch.fnmatch(key, each) for each in PERMANENT)]
