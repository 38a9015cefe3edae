"""The requests of an ended job that did not succeed: read, and reserved for one retry.

The collect step keeps them in chunks of their own. Of a shard without results of its own, and of a
canary, all requests are kept.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Final

from penstock import json_text
from penstock.batches.results import Results, is_collected
from penstock.batches.shard import Shard
from penstock.batches.unreadable import parse_line
from penstock.clock import now_ms
from penstock.errors import InvalidRequest, NotFound
from penstock.ids import created_ms
from penstock.keys import Keys
from penstock.store import job_scripts
from penstock.store.connection import Connection

#: Milliseconds after which a retry that was reserved and has no record was given up by its program.
_GIVEN_UP_MS: Final = 3_600_000


class FailedRequests:
    """The requests of a job's shards that did not succeed, as `create` takes them.

    Raises `RecordUnreadable` if the record of a shard cannot be read: a job is retried only once.
    """

    def __init__(self, results: Results, shards: Iterable[Shard]) -> None:
        self._results = results
        self._shards = [shard for shard in shards if is_collected(shard)]

    def __bool__(self) -> bool:
        return any(shard.failed_requests or shard.keeps_all_requests for shard in self._shards)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield the requests. Raises `NotFound` if they have expired."""
        for shard in self._shards:
            if not (shard.failed_requests or shard.keeps_all_requests):
                continue
            ids = self._results.custom_ids(shard)
            for index, params in self._indexed(shard):
                request = {"custom_id": ids[index], "params": json_text.loads_unrepaired(params)}
                yield request | ({"betas": list(shard.betas)} if shard.betas else {})

    def _indexed(self, shard: Shard) -> Iterator[tuple[int, bytes]]:
        """Yield the index in its shard and the params of each request."""
        if shard.keeps_all_requests:
            succeeded = self._succeeded(shard) if shard.uniform_result is None else set()
            lines = self._results.chunk_lines(shard.request_chunk_name, shard.request_chunks)
            yield from ((index, line) for index, line in enumerate(lines) if index not in succeeded)
        else:
            for line in self._results.chunk_lines(shard.failed_requests, shard.failed_chunks):
                index, _, params = line.partition(b" ")
                yield int(index), params

    def _succeeded(self, shard: Shard) -> set[int]:
        ids = {custom_id: index for index, custom_id in enumerate(self._results.custom_ids(shard))}
        lines = (parse_line(line) for line in self._results.lines(shard))
        return {ids[line["custom_id"]] for line in lines if line["result"]["type"] == "succeeded"}


def reserve_retry(connection: Connection, shared: Keys, id: str, retry: str) -> None:
    """Note in an ended job's record that job ``retry`` sends its failed requests again.

    Raises `NotFound`, or `InvalidRequest` if another job does: a second retry would pay for them a
    second time.
    """
    keys = shared.job(id)
    owner = job_scripts.retry_reserve(keys, before="", after=retry).run(connection)
    if owner and owner != retry and _is_given_up(connection, shared, owner):
        owner = job_scripts.retry_reserve(keys, before=owner, after=retry).run(connection)
    if owner is None:  # the record has just expired
        raise NotFound(f"no record of {id}: it has expired")
    if owner != retry:
        raise _sent_by_another(connection, shared, id, owner)


def check_retry(connection: Connection, shared: Keys, id: str, retry: str) -> None:
    """Check that job ``retry`` still has what `reserve_retry` reserved.

    Raises `InvalidRequest` if another job has taken it over. Of an expired record, none can.
    """
    state, owner = connection.hmget(shared.job(id).meta, "state", "retried_by")
    if state and owner != retry.encode():
        raise _sent_by_another(connection, shared, id, (owner or b"").decode())


def release_retry(connection: Connection, shared: Keys, id: str, retry: str) -> None:
    """Undo `reserve_retry` for a job that was not recorded."""
    if not connection.exists(shared.job(retry).meta):
        job_scripts.retry_reserve(shared.job(id), before=retry, after="").run(connection)


def _is_given_up(connection: Connection, shared: Keys, retry: str) -> bool:
    recorded = connection.exists(shared.job(retry).meta)
    return not recorded and now_ms() - created_ms(retry) >= _GIVEN_UP_MS


def _sent_by_another(connection: Connection, shared: Keys, id: str, other: str) -> InvalidRequest:
    if other and connection.exists(shared.job(other).meta):
        return InvalidRequest(
            f"the failed requests of {id} were sent again as job {other}; to send those that "
            f"failed again there: penstock batch retry-failed {other}"
        )
    return InvalidRequest(
        f"another program is sending the failed requests of {id} again, or has failed to; "
        "if no job appears, try again in an hour"
    )
