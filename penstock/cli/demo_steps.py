"""What the demo shows, one method a step. All of it goes through the public client."""

import ast
import json
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from penstock.cli.text.job_progress import watch_job
from penstock.cli.text.output import (
    cost_summary,
    duration,
    outcome_counts,
    print_line,
    summary,
    write_text,
)
from penstock.client import Client
from penstock.errors import LocalProcessError
from penstock.queue import names

MODEL: Final = "claude-haiku-4-5"
QUESTION: Final = "Why is a pipe to a turbine called a penstock?"
#: What the simulator is asked to say; the real API finds its own words.
ANSWER: Final = (
    "A penstock was first the gate that pens water in: the sluice of a mill pond. "
    "Later the word moved on to the pipe behind the gate, the one that carries the water "
    "of a reservoir down to a turbine. The gate decides how much may flow, the pipe "
    "delivers it under pressure, and nothing is lost on the way – "
    "which is what this program does with requests."
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

#: Longest silence of the simulator's work that is still believable.
IDLE_TIMEOUT_S: Final = 60.0
#: Flower hears of a task a moment after it has ended.
FLOWER_TIMEOUT_S: Final = 20.0
FINAL_STATES: Final = {"SUCCESS", "FAILURE", "REVOKED"}


@dataclass(frozen=True)
class DemoSteps:
    """The demo, once its parts run."""

    client: Client
    flower_url: str
    live: bool

    def run(self) -> None:
        """All four steps."""
        self.stream()
        self.tool_use()
        self.batch()
        self.flower()

    def stream(self) -> None:
        """An answer, typed as it comes."""
        _print_heading(1, "A streamed answer, typed as its deltas come over Redis pub/sub")
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
        """The API's events themselves: a tool call, its input arriving in pieces."""
        _print_heading(2, "The same, event by event: a tool call, its input arriving in pieces")
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
        print_line(f"{'together':<22}{call}")
        print_line(f"\n{summary(stream.id, stream.end)}")

    def batch(self) -> None:
        """A batch job: create, poll, collect, finish."""
        size = LIVE_BATCH if self.live else BATCH
        _print_heading(3, f"A job of {size} requests in batches: create, poll, collect, finish")
        batches = self.client.messages.batches
        started = time.monotonic()
        requests = _questions(size, directed=not self.live)
        job = batches.create(requests=requests, shard_requests=SHARD)
        print_line(f"id {job.id}")
        # The real API may take its time, up to a day; the simulator may not.
        job = watch_job(batches, job.id, timeout=None if self.live else 3 * IDLE_TIMEOUT_S)
        took = duration((time.monotonic() - started) * 1000)
        print_line(f"\n{outcome_counts(job.request_counts)}; in {took}")
        for line in _samples(batches.results(job.id)):
            print_line(f"  {line['custom_id']:<14}{_result_line(line['result'])}")
        print_line(f"cost {cost_summary(job.cost)}")

    def flower(self) -> None:
        """The same work as Flower tells it."""
        _print_heading(4, "What Flower has seen")
        for task in sorted(self._ended_tasks(), key=lambda task: task["received"] or 0):
            print_line(f"{task['name']:<24}{task['state'].lower():<10}{_task_details(task)}")

    def _ended_tasks(self) -> list[dict[str, Any]]:
        """The tasks that Flower knows of, when it knows the end of each of ours."""
        deadline = time.monotonic() + FLOWER_TIMEOUT_S
        while True:
            tasks = _get_json(f"{self.flower_url}/api/tasks")
            ours = {task["name"] for task in tasks.values() if task["state"] in FINAL_STATES}
            if ours >= {names.STREAM, *names.BATCH_STEPS}:
                return list(tasks.values())
            if time.monotonic() > deadline:
                raise LocalProcessError(f"Flower has only heard of {sorted(ours)}")
            time.sleep(0.2)


def _user_message(text: str, directive: str = "") -> dict[str, str]:
    """A user's message; a directive tells the simulator how to answer it."""
    return {"role": "user", "content": text + directive}


def _questions(count: int, *, directed: bool) -> Iterator[dict[str, Any]]:
    """Requests; a few of them carry a directive that makes the simulator fail that line."""
    for number in range(1, count + 1):
        directive = ""
        if directed and number % 60 == 7:
            directive = " [[sim errored=overloaded_error first=1]]"  # passes when it is sent again
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
    """Two results of each kind."""
    kept: dict[str, list[Any]] = {}
    for line in results:
        kind = kept.setdefault(line["result"]["type"], [])
        if len(kind) < 2:
            kind.append(line)
    return [line for kind in sorted(kept, reverse=True) for line in kept[kind]]


def _result_line(result: dict[str, Any]) -> str:
    """A result in half a line."""
    if result["type"] == "succeeded":
        text = "".join(block.get("text", "") for block in result["message"]["content"])
        return f"succeeded  {text[:56].strip()}…"
    if result["type"] == "errored":
        return f"errored    {result['error']['error']['type']}"
    return str(result["type"])


def _task_details(task: dict[str, Any]) -> str:
    """What Flower shows of a task's result, and how often the task came back."""
    result = ast.literal_eval(task["result"] or "{}")
    facts = [f"{name} {value}" for name, value in _leaves(result) if value]
    if task["retries"]:
        facts.append(f"retries {task['retries']}")
    return ", ".join(facts)


def _leaves(result: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in result.items():
        if isinstance(value, dict):
            yield from _leaves(value)
        elif name not in ("kind", "state"):
            yield name, value


def _get_json(url: str) -> dict[str, Any]:
    # No proxy: this is our own loopback address.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5) as response:
            tasks: dict[str, Any] = json.load(response)
    except OSError as error:
        raise LocalProcessError(f"Flower does not answer: {error}") from error
    return tasks


def _print_heading(number: int, text: str) -> None:
    print_line(f"\n{number}. {text}\n", bold=True)
