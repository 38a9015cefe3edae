"""The steps of the demo, one method each; all of them use the public client."""

import ast
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from penstock.cli.text.job_progress import watch_job
from penstock.cli.text.output import (
    cost_summary,
    duration,
    outcome_counts,
    print_line,
    quantity,
    summary,
    write_text,
)
from penstock.client import Client
from penstock.errors import LocalProcessError
from penstock.queue import names

MODEL: Final = "claude-haiku-4-5"
QUESTION: Final = "Why is a pipe to a turbine called a penstock?"
#: The text that the simulator answers with; the real API writes its own.
ANSWER: Final = (
    "A penstock was originally the gate that pens in water: the sluice of a mill pond. "
    "Later the word came to mean the pipe below the gate, which carries the water of a "
    "reservoir down to a turbine. The gate controls the flow, the pipe delivers it under "
    "pressure, and nothing is lost on the way – which is what this program does with requests."
)
WEATHER: Final = "Look up the weather for my days in Switzerland."
TOOL: Final = {
    "name": "get_weather",
    "description": "The weather at a place.",
    "input_schema": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "enum": ["Genève", "Lugano", "Zürich"]},
            "days": {"type": "integer", "minimum": 1, "maximum": 5},
            "hourly": {"type": "boolean"},
        },
        "required": ["city", "days", "hourly"],
    },
}
BATCH: Final = 300
SHARD: Final = 100
LIVE_BATCH: Final = 3

#: Seconds without an event after which the demo has failed.
IDLE_TIMEOUT_S: Final = 60.0
#: Seconds to wait until Flower has recorded the end of every task.
FLOWER_TIMEOUT_S: Final = 20.0
FINAL_STATES: Final = {"SUCCESS", "FAILURE", "REVOKED"}
#: The state of a duplicate wake-up: another task has done, or does, the same step.
SKIPPED: Final = "SKIPPED"
#: Shown for a step of a shard without a batch: the canary, which also has none, is not used here.
SHARED: Final = "its requests are in a shared batch"


@dataclass(frozen=True)
class DemoSteps:
    """The demo of a deployment that is already running."""

    client: Client
    flower_tasks: Callable[[], dict[str, Any]]  #: returns the tasks that Flower has seen
    live: bool

    def run(self) -> None:
        """Run all four steps."""
        self.stream()
        self.tool_use()
        self.batch()
        self.flower()

    def stream(self) -> None:
        """Print a streamed answer as it arrives."""
        _print_heading(1, "Stream: an answer, printed as its deltas arrive over Redis pub/sub")
        print_line(f"> {QUESTION}\n")
        with self.client.messages.stream(
            model=MODEL,
            max_tokens=300,
            messages=[
                _user_message(QUESTION, "" if self.live else f" [[sim text={json.dumps(ANSWER)}]]")
            ],
            timeout=IDLE_TIMEOUT_S,
        ) as stream:
            for text in stream.text_stream:
                write_text(text)
        assert stream.end is not None
        print_line(f"\n\n{summary(stream.id, stream.end)}")

    def tool_use(self) -> None:
        """Print the API's own events for a tool call whose input arrives in pieces."""
        _print_heading(2, "Tool call: the API's own events, with the input arriving in pieces")
        print_line(f"> {WEATHER}\n")
        with self.client.messages.stream(
            model=MODEL,
            max_tokens=300,
            messages=[_user_message(WEATHER)],
            tools=[TOOL],
            tool_choice={"type": "tool", "name": TOOL["name"]},
            timeout=IDLE_TIMEOUT_S,
        ) as stream:
            pieces = []
            for event in stream:
                if event.type == "content_block_start" and event.content_block.type == "tool_use":
                    print_line(f"{event.type:<22}tool_use {event.content_block.name}")
                elif event.type == "content_block_delta" and event.delta.type == "input_json_delta":
                    pieces.append(event.delta.partial_json)
                    print_line(f"{event.delta.type:<22}{event.delta.partial_json or '(empty)'}")
        assert stream.end is not None
        call = json.dumps(json.loads("".join(pieces)), ensure_ascii=False)
        print_line(f"{'complete input':<22}{call}")
        print_line(f"\n{summary(stream.id, stream.end)}")

    def batch(self) -> None:
        """Run a batch job: create, poll, collect, finish."""
        size = LIVE_BATCH if self.live else BATCH
        _print_heading(3, f"Batch job: {size} requests through create, poll, collect and finish")
        batches = self.client.messages.batches
        started = time.monotonic()
        requests = _questions(size, directed=not self.live)
        job = batches.create(requests=requests, shard_requests=SHARD)
        print_line(f"id {job.id}")
        # The real API may take up to 24 hours; the simulator ends a batch within seconds.
        job = watch_job(batches, job.id, timeout=None if self.live else 3 * IDLE_TIMEOUT_S)
        took = duration((time.monotonic() - started) * 1000)
        print_line(f"\n{outcome_counts(job.request_counts)} in {took}")
        for line in _samples(batches.results(job.id)):
            print_line(f"  {line['custom_id']:<14}{_result_line(line['result'])}")
        print_line(f"cost {cost_summary(job.cost)}")

    def flower(self) -> None:
        """Print the tasks of the previous steps as Flower shows them."""
        _print_heading(4, "Flower: the Celery tasks that did this work")
        tasks = sorted(self._ended_tasks(), key=lambda task: task["received"] or 0)
        worked = [task for task in tasks if task["state"] != SKIPPED]
        for task in worked:
            print_line(f"{task['name']:<24}{task['state'].lower():<10}{_task_details(task)}")
        if skipped := len(tasks) - len(worked):
            print_line(f"skipped {quantity(skipped, 'duplicate task')}, which called nothing")

    def _ended_tasks(self) -> list[dict[str, Any]]:
        """Return the tasks in Flower once it has recorded the end of every step."""
        deadline = time.monotonic() + FLOWER_TIMEOUT_S
        while True:
            tasks = self.flower_tasks()
            ended = {task["name"] for task in tasks.values() if task["state"] in FINAL_STATES}
            if ended >= {names.STREAM, *names.BATCH_STEPS}:
                return list(tasks.values())
            if time.monotonic() > deadline:
                raise LocalProcessError(f"Flower has recorded the end of only {sorted(ended)}")
            time.sleep(0.2)


def _user_message(text: str, directive: str = "") -> dict[str, str]:
    """Return a user message; ``directive`` is an instruction to the simulator."""
    return {"role": "user", "content": text + directive}


def _questions(count: int, *, directed: bool) -> Iterator[dict[str, Any]]:
    """Yield requests; if ``directed``, the simulator fails some of them."""
    for number in range(1, count + 1):
        directive = ""
        if directed and number % 60 == 7:
            directive = " [[sim errored=overloaded_error first=1]]"  # succeeds when retried
        elif directed and number % 75 == 11:
            directive = " [[sim expired first=1]]"
        elif directed and number % 100 == 42:
            directive = " [[sim errored=invalid_request_error]]"
        asked = _user_message(f"Describe turbine no. {number} in one sentence.", directive)
        yield {
            "custom_id": f"turbine-{number:03}",
            "params": {"model": MODEL, "max_tokens": 60, "messages": [asked]},
        }


def _samples(results: Iterator[Any]) -> list[Any]:
    """Return two results of each type."""
    kept: dict[str, list[Any]] = {}
    for line in results:
        kind = kept.setdefault(line["result"]["type"], [])
        if len(kind) < 2:
            kind.append(line)
    return [line for kind in sorted(kept, reverse=True) for line in kept[kind]]


def _result_line(result: dict[str, Any]) -> str:
    """Format the type and the beginning of a result."""
    if result["type"] == "succeeded":
        text = "".join(block.get("text", "") for block in result["message"]["content"])
        return f"succeeded  {text[:56].strip()}…"
    if result["type"] == "errored":
        return f"errored    {result['error']['error']['type']}"
    return str(result["type"])


def _task_details(task: dict[str, Any]) -> str:
    """Format the result of a task and its number of retries, as Flower reports them."""
    result = ast.literal_eval(task["result"] or "{}")
    details = [_detail(name, value) for name, value in _leaves(result) if value]
    if task["name"] in names.BATCH_STEPS[:-1] and not result.get("batch_id"):
        details.append(SHARED)
    if task["retries"]:
        details.append(f"retries {task['retries']}")
    return ", ".join(details)


def _detail(name: str, value: Any) -> str:
    """Format a fact; one that is only true or absent is its name."""
    return name if value is True else f"{name} {value}"


def _leaves(result: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in result.items():
        if isinstance(value, dict):
            yield from _leaves(value)
        elif name not in ("kind", "state"):
            yield name, value


def _print_heading(number: int, text: str) -> None:
    print_line(f"\n{number}. {text}\n", bold=True)
