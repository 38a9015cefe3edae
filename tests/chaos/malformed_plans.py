"""Random streams for a soak: ordinary ones, and some whose response is malformed."""

from dataclasses import replace
from random import Random

from penstock.simulator.faults.malformed_events import MALFORMED_EVENTS
from penstock.simulator.faults.malformed_headers import MALFORMED_HEADERS
from penstock.simulator.faults.malformed_responses import MALFORMED_RESPONSES
from tests.chaos import plans
from tests.chaos.plans import StreamPlan

#: Malformed events after which the answer, if it is done, is the undisturbed one.
_HARMLESS = frozenset(
    {"stray_stop", "unknown_event", "index_gap", "usage_nan", "stop_details_text"}
)
#: Malformed events after the whole text.
_AT_THE_END = ("stop_", "usage_", "end_", "no_message_delta", "no_block_stop")
_DELTAS = 24
#: Directives for blocks that ordinary chaos runs do not have.
_BLOCKS = (
    "citations",
    "redacted_thinking",
    "compaction",
    "server_tool=web_search",
    "server_tool=code_execution",
    "citations server_tool=web_fetch",
)


def random_plan(rng: Random, number: int, *, share: int) -> StreamPlan:
    """Plan a stream; one in ``share`` is malformed."""
    plan = plans.random_plan(rng, number)
    if rng.randrange(share):
        return _with_blocks(plan, rng.choice(_BLOCKS)) if rng.random() < 0.4 else plan
    return _malformed(rng, replace(plan, faults=(), cancel_after_s=None, doubled=False))


def _with_blocks(plan: StreamPlan, directive: str) -> StreamPlan:
    first, *others = plan.body["messages"]
    first = {**first, "content": f"{first['content']} [[sim {directive}]]"}
    body = {**plan.body, "messages": [first, *others]}
    return replace(plan, body=body, cited="citations" in directive)


def _malformed(rng: Random, plan: StreamPlan) -> StreamPlan:
    at = rng.choice((0, 0, 1, 6))
    times = rng.choice((0, 1))
    kind = rng.choice(("event",) * 8 + ("response",) * 4 + ("headers", "no_answer", "first_error"))
    fault, exact = _fault(rng, kind, at)
    times = 2 if kind == "first_error" else times
    calls = 3 if kind == "first_error" else 2
    if "status=502" in fault and not times:
        calls = 20  # rejections, which cost nothing: PENSTOCK_MAX_API_RETRIES
    if kind == "no_answer" and not times:
        calls = 6  # nothing distinguishes them from an outage: PENSTOCK_MAX_ATTEMPTS
    at_the_end = fault.startswith(tuple(f"malformed={name}" for name in _AT_THE_END))
    if kind == "event" and at and not times and not at_the_end:
        calls = _DELTAS // at + 3  # each call may advance
    prompt = f"Stream {plan.number}: describe water. [[sim deltas={_DELTAS} rate=40]]"
    # A quota that is spent closes its model for others, as it should.
    model = f"claude-odd-{plan.number}" if kind == "headers" else plan.body["model"]
    body = plans.body_of(model, prompt, f"[[sim {fault} times={times}]]")
    label = f"{fault} times={times}"
    return replace(plan, body=body, faults=(label,), malformed=True, exact=exact, max_calls=calls)


def _fault(rng: Random, kind: str, at: int) -> tuple[str, bool]:
    """A malformed response, and whether an answer that is done is the undisturbed one."""
    if kind == "event":
        name = rng.choice(sorted(MALFORMED_EVENTS))
        return f"malformed={name} at={at}", name in _HARMLESS
    if kind == "response":
        name = rng.choice(sorted(MALFORMED_RESPONSES))
        status = rng.choice(("", "", " status=502", " status=400"))
        return f"response={name}{status}", True
    if kind == "headers":
        return f"headers={rng.choice(sorted(MALFORMED_HEADERS))}", True
    if kind == "first_error":
        return (
            f"error_after=start error_type={rng.choice(('overloaded_error', 'rate_limit_error'))}",
            True,
        )
    silent = ("drop_headers=before", "drop_headers=inside", "slow_first=4", "eof_after=start")
    return rng.choice(silent), True
