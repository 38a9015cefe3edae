"""A body that a producer encodes is the body that the API receives from a worker."""

import asyncio
import json
from typing import Any

import anthropic
import httpx2
from hypothesis import example, given, settings
from hypothesis import strategies as st

from penstock import json_text
from penstock.validation import encode_body
from tasks.api.message_stream import open_stream

NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
NUMBERS = st.integers(-(2**80), 2**80) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | NAMES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=20,
)


def received(body: dict[str, Any]) -> Any:
    """Send a body as a producer and a worker do; returns what the API received."""
    sent: list[bytes] = []

    async def handler(request: httpx2.Request) -> httpx2.Response:
        sent.append(await request.aread())
        return httpx2.Response(200, content=b"")

    async def main() -> None:
        http = httpx2.AsyncClient(transport=httpx2.MockTransport(handler))
        api = anthropic.AsyncAnthropic(api_key="k", http_client=http, max_retries=0)
        async with api, open_stream(api, json_text.loads(encode_body(body)), {}):
            pass

    asyncio.run(main())
    return json.loads(sent[0])


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(NAMES, VALUES, max_size=4))
@example({"tools": [{"input_schema": {"maximum": 18446744073709551616}}]})
@example({"metadata": {"a": [None, 1.0, 1e300, -0.0, "null", {"": {}}]}})
def test_the_api_receives_every_value_as_it_was_given(values: dict[str, Any]) -> None:
    body = {"model": "claude-haiku-4-5", "max_tokens": 0, "messages": [], **values}
    expected = {**body, "stream": values.get("stream", True)}
    assert json.dumps(received(body), sort_keys=True) == json.dumps(expected, sort_keys=True)
