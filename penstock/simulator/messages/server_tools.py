"""What the API's own tools add to an answer: calls, results and citations, all made up."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from penstock.simulator.faults.directives import SERVER_TOOLS, Shape
from penstock.simulator.messages import conversation
from penstock.simulator.messages.block import Block
from penstock.simulator.messages.conversation import Body
from penstock.simulator.messages.prose import seeded, split_randomly

SEARCH, FETCH, CODE = SERVER_TOOLS

_URL = "https://example.com/penstock"
_TITLE = "Penstocks"
_PAGE = "A penstock is a sluice that controls the flow of water."
_CONTAINER_LIFE = timedelta(minutes=30)


def chosen(body: Body, shape: Shape) -> str:
    """The server tool that the answer uses, or an empty string.

    A request that brings a tool's result, or the beginning of an answer, uses none again.
    """
    if shape.server_tool:
        return shape.server_tool
    if (body.get("tool_choice") or {}).get("type") == "none" or conversation.brings_tool_result(
        body
    ):
        return ""
    kinds = [str(tool.get("type", "")) for tool in body.get("tools") or []]
    return next(
        (name for name in SERVER_TOOLS for kind in kinds if kind.startswith(f"{name}_2")), ""
    )


def blocks(name: str, prompt: str, model: str) -> Iterator[Block]:
    """Yield the call of a server tool, whose input is streamed, and its whole result."""
    rng = seeded("server tool", name, model, prompt)
    id = f"srvtoolu_01{rng.getrandbits(88):022x}"
    arguments = orjson.dumps(_INPUTS[name]).decode()
    pieces = ("", *split_randomly(rng, arguments))
    yield Block(kind="server_tool_use", pieces=pieces, name=name, id=id)
    result = {"type": f"{name}_tool_result", "tool_use_id": id, "content": _RESULTS[name]}
    yield Block(kind=f"{name}_tool_result", whole=result)


def usage(name: str) -> dict[str, int] | None:
    """The usage of server tools; None for an answer without one."""
    if not name:
        return None
    return {"web_search_requests": int(name == SEARCH), "web_fetch_requests": int(name == FETCH)}


def citations(body: Body, shape: Shape) -> list[dict[str, Any]]:
    """The citations of an answer: of the first document that allows them, or of a search."""
    for place, document in enumerate(conversation.documents(body)):
        if (document.get("citations") or {}).get("enabled"):
            return [_of_document(place, document)]
    if not shape.citations:
        return []
    return [
        {
            "type": "web_search_result_location",
            "cited_text": _PAGE[:start],
            "encrypted_index": f"index{start}",
            "title": _TITLE,
            "url": _URL,
        }
        for start in (10, 20)
    ]


def container_id(name: str, body: Body, model: str) -> str:
    """The container in which a server tool runs code: the request's, or a new one."""
    if name != CODE:
        return ""
    asked = body.get("container")
    asked = asked.get("id") if isinstance(asked, dict) else asked
    rng = seeded("container", model, conversation.first_user_text(body))
    return asked if isinstance(asked, str) else f"container_01{rng.getrandbits(88):022x}"


def container(id: str) -> dict[str, Any]:
    """A container as the API describes it at the end of an answer."""
    expires = datetime.now(UTC) + _CONTAINER_LIFE
    return {"id": id, "expires_at": expires.strftime("%Y-%m-%dT%H:%M:%SZ"), "skills": None}


def _of_document(place: int, document: dict[str, Any]) -> dict[str, Any]:
    source = document.get("source")
    text = source.get("data") if isinstance(source, dict) and source.get("type") == "text" else ""
    cited = str(text)[:40]
    return {
        "type": "char_location",
        "cited_text": cited,
        "document_index": place,
        "document_title": document.get("title"),
        "start_char_index": 0,
        "end_char_index": len(cited),
        "file_id": None,
    }


_INPUTS: dict[str, dict[str, Any]] = {
    SEARCH: {"query": "penstock"},
    FETCH: {"url": _URL},
    CODE: {"code": "print(6 * 7)"},
}
_RESULTS: dict[str, Any] = {
    SEARCH: [
        {
            "type": "web_search_result",
            "url": _URL,
            "title": _TITLE,
            "encrypted_content": "encrypted",
            "page_age": "2 days",
        }
    ],
    FETCH: {
        "type": "web_fetch_result",
        "url": _URL,
        "retrieved_at": "2026-11-30T00:00:00Z",
        "content": {
            "type": "document",
            "source": {"type": "text", "media_type": "text/plain", "data": _PAGE},
            "title": _TITLE,
            "citations": None,
        },
    },
    CODE: {
        "type": "code_execution_result",
        "stdout": "42\n",
        "stderr": "",
        "return_code": 0,
        "content": [],
    },
}
