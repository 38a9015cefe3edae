"""Random streams for a chaos run: a prompt, a model, and the faults to inject."""

from dataclasses import dataclass
from random import Random
from typing import Any

MODELS = (
    "claude-haiku-4-5",
    "claude-sonnet-4-5-20250929",
    "claude-opus-4-5",
    "claude-sonnet-4-6",
    "claude-opus-5-5",
    "claude-unknown-9",
)
TOOL = {
    "name": "open_gate",
    "description": "Open a gate of the dam.",
    "input_schema": {
        "type": "object",
        "properties": {
            "gate": {"type": "string"},
            "width": {"type": "number"},
            "reasons": {"type": "array", "items": {"type": "string"}},
        },
    },
}
ERRORS = ("overloaded_error", "api_error", "rate_limit_error", "timeout_error")
INTERRUPTIONS = ("disconnect", "reset", "eof", "error", "stall", "mid_char")
REFUSALS = ("429", "529", "500", "slow_first")
CUTS = ("chunk", "crlf")


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """One stream and its faults."""

    number: int
    body: dict[str, Any]
    on_interrupt: str
    faults: tuple[str, ...]  #: kind and place, for the counts
    cancel_after_s: float | None
    doubled: bool  #: its wake-up is sent a second time
    malformed: bool = False  #: it may fail
    exact: bool = True  #: if it is done, its content is the undisturbed answer
    cited: bool = False  #: an interruption may join two text blocks, so the text is compared
    max_calls: int = 0  #: maximum calls of the API; 0: not checked


def random_plan(rng: Random, number: int, *, stall_s: float = 30.0) -> StreamPlan:
    """Plan a random stream."""
    kinds = tuple(kind for kind in ("thinking", "tool") if rng.random() < 0.25)
    deltas = rng.choice((4, 12, 30, 30, 45, 150))
    rate = rng.choice((0, 20, 40, 80))
    faults = _faults(rng, kinds, stall_s)
    shape = f"deltas={deltas} rate={rate}"
    if deltas < 45 and rng.random() < 0.3:
        shape = f"rate={rate}"  # as many deltas as the prompt gives; three if a tool is called
    overlap = rng.choice((0, 0, 0, 20, 60))
    if overlap:
        shape += f" overlap={overlap}"
    prompt = f"Stream {number} of {rng.randrange(10**9)}: describe water. [[sim {shape}]]"
    directives = " ".join(f"[[sim {text}]]" for text, _ in faults)
    on_interrupt = rng.choice(("continue",) * 8 + ("restart", "fail"))
    return StreamPlan(
        number,
        _body(rng, prompt, directives, kinds),
        on_interrupt,
        tuple(label for _, label in faults),
        rng.uniform(0, 2) if rng.random() < 0.03 else None,
        rng.random() < 0.1,
    )


def _body(rng: Random, prompt: str, directives: str, kinds: tuple[str, ...]) -> dict[str, Any]:
    body = body_of(rng.choice(MODELS), prompt, directives)
    if "thinking" in kinds:
        body["thinking"] = {"type": "enabled", "budget_tokens": 1024}
    if "tool" in kinds:
        body["tools"] = [TOOL]
    return body


def body_of(model: str, prompt: str, directives: str) -> dict[str, Any]:
    """The body of a request; an answer depends on the prompt, its faults on the directives."""
    # The faults are in a message of their own: the answer depends on the first message alone.
    messages = [{"role": "user", "content": prompt}]
    if directives:
        messages += [
            {"role": "assistant", "content": "Go on."},
            {"role": "user", "content": f"Please. {directives}"},
        ]
    return {"model": model, "max_tokens": 8192, "messages": messages}


def without_faults(body: dict[str, Any]) -> dict[str, Any]:
    """The same request without faults, whose answer is the expected one."""
    return {**body, "messages": body["messages"][:1]}


def _faults(rng: Random, kinds: tuple[str, ...], stall_s: float) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
        kind = rng.choice(INTERRUPTIONS * 2 + REFUSALS + CUTS)
        if kind in INTERRUPTIONS:
            found.append(_interruption(rng, kind, kinds, stall_s))
        else:
            found.append(_nuisance(rng, kind))
    return found


def _nuisance(rng: Random, kind: str) -> tuple[str, str]:
    if kind == "slow_first":
        return f"slow_first={rng.uniform(0.1, 0.6):.2f}", kind
    if kind == "chunk":
        return f"chunk={rng.choice((1, 3, 7, 64))} times=3", kind
    if kind == "crlf":
        return f"crlf chunk={rng.choice((1, 5, 4096))} times=3", kind
    after = f" retry_after={rng.uniform(0, 0.5):.2f}" if rng.random() < 0.5 else ""
    return f"status={kind}{after}", kind


def _interruption(
    rng: Random, kind: str, kinds: tuple[str, ...], stall_s: float
) -> tuple[str, str]:
    place, where = _place(rng, kinds)
    text = {
        "disconnect": f"disconnect_after={where}",
        "reset": f"disconnect_after={where} reset",
        "eof": f"eof_after={where}",
        "error": f"error_after={where} error_type={rng.choice(ERRORS)}",
        "stall": f"stall_after={where} stall={stall_s}",
        "mid_char": f"drop_mid_char={where}",
    }[kind]
    return text, f"{kind} at {place}"


def _place(rng: Random, kinds: tuple[str, ...]) -> tuple[str, str]:
    """A random place in the answer: its name, and the number of deltas before it."""
    places = {
        "start": "0",
        "first delta": "1",
        "middle": str(rng.randrange(2, 30)),
        "last delta": "-1",
        "after the last delta": "last",
        "before message_stop": "stop",
    }
    if "thinking" in kinds:
        places["inside thinking"] = str(rng.randrange(1, 4))
    if "tool" in kinds:
        places["inside tool_use"] = str(-rng.randrange(1, 4))
    name = rng.choice(list(places))
    return name, places[name]
