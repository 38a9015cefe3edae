"""A program that submits many requests once, and prints what that cost.

``sdk``: one ``messages.batches.create``, as one writes it by hand. ``penstock``: the ``create`` of
our client with the same requests. The cost of making the requests is not counted, unless they are
``--lazy``.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import orjson

from benchmarks.rig import MODEL
from benchmarks.usage import cpu_s, forget_peak, memory_mb, peak_memory_mb
from penstock import Client
from penstock.local.stack import SIMULATOR_KEY
from penstock.simulator.messages.prose import prose, seeded

_TEXTS: Final = 2_000


def texts(size: int) -> list[str]:
    """Prompts that make a request of about ``size`` bytes."""
    room = size - 160
    made = (prose(seeded("submit", str(place)), size) for place in range(_TEXTS))
    return [text.encode()[:room].decode(errors="ignore") for text in made]


def requests_of(count: int, prompts: list[str]) -> Iterator[dict[str, Any]]:
    """Make requests as a program would, each of objects of its own."""
    for number in range(count):
        prompt = f"{number} {prompts[number % _TEXTS]}"
        yield {
            "custom_id": f"row-{number:08d}",
            "params": {
                "model": MODEL,
                "max_tokens": 1024,
                "messages": [{"role": "user", "content": prompt}],
            },
        }


def measured(what: Callable[[], object]) -> dict[str, Any]:
    """Measure time, CPU and memory of a function in this process."""
    own = os.getpid()
    forget_peak(own)
    memory, cpu, start = memory_mb(own), cpu_s(own), time.perf_counter()
    what()
    return {
        "seconds": round(time.perf_counter() - start, 3),
        "cpu_s": round(cpu_s(own) - cpu, 2),
        "extra_peak_mb": round(peak_memory_mb(own) - memory, 1),
    }


def by_sdk(url: str, requests: Iterable[Any], first: Any) -> dict[str, Any]:
    """Measure the SDK's create call."""
    import anthropic

    with anthropic.Anthropic(base_url=url, api_key=SIMULATOR_KEY, max_retries=0) as api:
        api.messages.batches.create(requests=[first])
        return measured(lambda: api.messages.batches.create(requests=requests))


def by_penstock(url: str, requests: Iterable[Any], first: Any) -> dict[str, Any]:
    """Measure our create call."""
    jobs: list[str] = []
    with Client(url) as client:
        batches = client.messages.batches
        batches.create(requests=[first])
        figures = measured(lambda: jobs.append(batches.create(requests=requests).id))
    return {**figures, "job": jobs[0]}


def main() -> None:
    """Submit and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("way", choices=("sdk", "penstock"))
    parser.add_argument("url", help="address of the API, or of Redis")
    parser.add_argument("--requests", type=int, required=True)
    parser.add_argument("--bytes", type=int, required=True)
    parser.add_argument("--lazy", action="store_true", help="make the requests while they are read")
    asked = parser.parse_args()
    prompts = texts(asked.bytes)
    requests: Iterable[Any] = requests_of(asked.requests, prompts)
    if not asked.lazy:
        requests = list(requests)
    submit = by_sdk if asked.way == "sdk" else by_penstock
    (first,) = requests_of(1, prompts)  # pays for imports and connections
    print(orjson.dumps(submit(asked.url, requests, first)).decode(), flush=True)


if __name__ == "__main__":
    main()
