"""Batch jobs of a chaos run: their requests, and what is wrong with their results or payments."""

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from random import Random
from typing import Any

import orjson

ERRORS = ("overloaded_error", "api_error", "timeout_error", "rate_limit_error")


@dataclass(frozen=True, slots=True)
class JobPlan:
    """One job: its requests, and how each of them has to end."""

    number: int
    requests: list[dict[str, Any]]
    ends: dict[str, str]  #: custom_id → type of its result
    shard_requests: int


def job_plan(rng: Random, number: int) -> JobPlan:
    """Draw a random job of a few shards; some requests succeed only when they are retried."""
    count = rng.choice((7, 20, 45))
    requests, ends = [], {}
    for line in range(count):
        custom_id = f"job{number}-{line}"
        directive, end = _draw_fault(rng)
        text = f"Line {line} of job {number}, {rng.randrange(10**12)}. [[sim deltas=3{directive}]]"
        params = {
            "model": "claude-haiku-4-5",
            "max_tokens": 64,
            "messages": [{"role": "user", "content": text}],
        }
        requests.append({"custom_id": custom_id, "params": params})
        ends[custom_id] = end
    return JobPlan(number, requests, ends, rng.choice((5, 12, 100)))


def _draw_fault(rng: Random) -> tuple[str, str]:
    """What the simulator does to a request, and how the request ends."""
    dice = rng.random()
    if dice < 0.06:
        return " expired first=1", "succeeded"
    if dice < 0.12:
        return f" errored={rng.choice(ERRORS)} first=1", "succeeded"
    if dice < 0.15:
        return " errored=invalid_request_error", "errored"
    if dice < 0.2:
        return " u2028 odd", "succeeded"
    return "", "succeeded"


def hash_of(params: dict[str, Any]) -> str:
    """The name under which the simulator counts what was paid for a request."""
    data = orjson.dumps(params, option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(data).hexdigest()[:16]


def accept_too_large(plan: JobPlan, lines: Iterable[bytes]) -> int:
    """Expect the error of requests whose batch was rejected as too large; returns their number.

    A batch with more requests is split; one request that is too large alone fails, unpaid.
    """
    found = [orjson.loads(line) for line in lines]
    rejected = [
        line["custom_id"]
        for line in found
        if line["result"]["type"] == "errored"
        and line["result"]["error"]["error"]["type"] == "request_too_large"
    ]
    plan.ends.update(dict.fromkeys(rejected, "errored"))
    return len(rejected)


def job_faults(plan: JobPlan, state: str, lines: Iterable[bytes]) -> list[str]:
    """What is wrong with the results of a job that was not canceled."""
    faults = [] if state == "done" else [f"ended {state}"]
    found = [orjson.loads(line) for line in lines]
    ids = Counter(line["custom_id"] for line in found)
    doubled = [id for id, count in ids.items() if count > 1]
    lost = [id for id in plan.ends if id not in ids]
    foreign = [id for id in ids if id not in plan.ends]
    for what, which in (("lost", lost), ("duplicate", doubled), ("unknown", foreign)):
        if which:
            faults.append(f"{what} {which[:9]}")
    for line in found:
        end, wanted = line["result"]["type"], plan.ends.get(line["custom_id"])
        if end != wanted:
            faults.append(f"{line['custom_id']} {end} for {wanted}")
    return faults


def payment_faults(plan: JobPlan, paid: dict[str, dict[str, int]]) -> list[str]:
    """What is wrong with the payments for a job's requests."""
    faults = []
    for request in plan.requests:
        wanted = int(plan.ends[request["custom_id"]] == "succeeded")
        count = sum(paid.get(hash_of(request["params"]), {}).values())
        if count != wanted:
            faults.append(f"{request['custom_id']} was paid {count} times for {wanted}")
    return faults
