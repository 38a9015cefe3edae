"""``penstock cancel --queued``: the requests that wait, and no others."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from click.testing import CliRunner, Result

from penstock.cli import cli
from penstock.client import Client
from penstock.local.embedded_redis import EmbeddedRedis
from penstock.states import State
from penstock.store import request_scripts
from penstock.streams import records

BODY: dict[str, Any] = {
    "model": "claude-haiku-4-5",
    "max_tokens": 100,
    "messages": [{"role": "user", "content": "Hello"}],
}

Cancel = Callable[..., Result]


@pytest.fixture
def client() -> Iterator[Client]:
    """A client of a private Redis that has no worker."""
    with EmbeddedRedis() as server, Client(server.url) as client:
        yield client


@pytest.fixture
def cancel(client: Client) -> Cancel:
    """Runs ``penstock cancel`` against that Redis."""
    runner = CliRunner(env={"PENSTOCK_REDIS_URL": client.settings.redis_url.get_secret_value()})
    return lambda *args: runner.invoke(cli, ["cancel", *args])


def claim(client: Client, id: str) -> None:
    """Claim a request, as a worker does."""
    keys = client.settings.keys
    claim = request_scripts.claim(keys.request(id), keys, worker="w", lease_ms=60_000)
    claim.run(client._redis)


def state(client: Client, id: str) -> State:
    return client.messages.request(id).state


def test_without_a_confirmation_the_number_is_shown_and_nothing_is_canceled(
    client: Client, cancel: Cancel
) -> None:
    ids = [client.messages.enqueue(**BODY).id for _ in range(3)]
    shown = cancel("--queued")
    assert shown.exit_code == 1
    assert shown.stderr == "penstock: this cancels 3 queued requests; to confirm, add --yes\n"
    assert {state(client, id) for id in ids} == {State.QUEUED}


def test_all_queued_requests_are_canceled_but_no_running_one_and_no_job(
    client: Client, cancel: Cancel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "READ_AT_ONCE", 2)  # several pages
    waiting = [client.messages.enqueue(**BODY, priority=n).id for n in range(5)]
    running = client.messages.enqueue(**BODY).id
    job = client.messages.batches.create(requests=[{"custom_id": "one", "params": BODY}])
    claim(client, running)
    done = cancel("--queued", "--yes")
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr == "canceled 5 queued requests\n"
    assert {state(client, id) for id in waiting} == {State.CANCELED}
    assert client.messages.request(waiting[0]).record().cancel == "command line"
    record = client.messages.request(running).record()
    assert (record.state, record.cancel) == (State.RUNNING, "")
    assert client.messages.batches.retrieve(job.id).state is State.QUEUED
    assert cancel("--queued").stderr == "canceled 0 queued requests\n"


def test_a_request_that_is_claimed_after_it_was_listed_is_left_running(
    client: Client, cancel: Cancel, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken, waiting = (client.messages.enqueue(**BODY).id for _ in range(2))
    listed = records.RequestRecords.waiting

    def list_and_claim(self: records.RequestRecords) -> list[str]:
        ids = listed(self)
        claim(client, taken)
        return ids

    monkeypatch.setattr(records.RequestRecords, "waiting", list_and_claim)
    done = cancel("--queued", "--yes")
    assert done.stderr == (
        "canceled 1 queued request; 1 of 2 had been claimed or had ended by then\n"
    )
    assert (state(client, taken), state(client, waiting)) == (State.RUNNING, State.CANCELED)


@pytest.mark.parametrize("args", [[], ["01a2069e-6cb7-7b7e-bef3-32eebfc03309", "--queued"]])
def test_either_an_id_or_queued_is_required(cancel: Cancel, args: list[str]) -> None:
    assert cancel(*args).exit_code == 2
