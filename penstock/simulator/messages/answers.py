"""The model's answer: a pure function of conversation, model and directives."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import orjson

from penstock.simulator import request_json
from penstock.simulator.faults.directives import Shape, strip
from penstock.simulator.mark import TEXT
from penstock.simulator.messages import conversation, server_tools
from penstock.simulator.messages.block import Block
from penstock.simulator.messages.conversation import Body
from penstock.simulator.messages.prose import cut, piece_sizes, prose, seeded, split_randomly
from penstock.simulator.messages.tool_inputs import tool_input

#: Every character that some reader takes for the end of a line or a string.
_ODD_TEXT = '\0\x0b\x0c\x1c\r \r\n\n\x85\u2028\u2029\ufeff"\\\x7f\ufffd{}'

#: Maximum characters of one token. An ordinary delta is one token.
_TOKEN_CHARS = 16


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A whole answer, before any fault."""

    model: str
    blocks: tuple[Block, ...]
    stop_reason: str
    stop_sequence: str | None
    input_tokens: int
    output_tokens: int
    thinking_tokens: int = 0
    tier: str = "standard"  #: the service tier that served it
    speed: str | None = None  #: as requested
    server_tool: str = ""  #: the server tool that was used
    container: str = ""  #: id of the container that code was executed in
    manages_context: bool = False  #: the request asked for context management

    @property
    def compacted(self) -> bool:
        """Whether the conversation was compacted before it was answered."""
        return any(block.kind == "compaction" for block in self.blocks)


def compose(body: Body, shape: Shape, *, deltas: int = 0, mark: bool = False) -> Answer:
    """Answer a valid request.

    ``deltas``: text deltas unless a directive says so. ``mark``: begin the text with a mark.
    """
    model = str(body.get("model"))
    prompt = strip(conversation.first_user_text(body))
    shape = replace(shape, deltas=shape.deltas or deltas)
    tool = _chosen_tool(body, shape)
    whole = _text_pieces(prompt, model, shape, tool)
    if mark and not shape.stamp:
        whole = [TEXT, *whole]
    rest = _remaining(whole, body, shape)
    new = _remaining(whole, body, replace(shape, overlap=0)) if shape.overlap else rest
    pieces, stop_sequence = _cut_at_stop_sequence(rest, body.get("stop_sequences"))
    # An answer that is continued has already done what comes before its text, except for thinking.
    begun = sum(map(len, new)) < sum(map(len, whole))
    server_tool = "" if begun else server_tools.chosen(body, shape)
    blocks: list[Block] = []
    if not begun:
        blocks += _compaction(body, shape, prompt, model)
    blocks += _thinking(body, shape, prompt, model)
    if shape.redacted_thinking and not begun:
        blocks.append(_redacted_thinking(prompt, model))
    if server_tool:
        blocks += server_tools.blocks(server_tool, prompt, model)
    thirds = _thirds(len(whole), rest=len(rest), new=len(new))
    blocks += _text_blocks(pieces, thirds, body, shape)
    if tool and stop_sequence is None:
        blocks.append(_tool_use(tool, prompt, model))
    blocks, tokens, fits = _cut_at_max_tokens(blocks, int(body.get("max_tokens") or 0))
    reason = "tool_use" if tool else "end_turn"
    reason = "stop_sequence" if stop_sequence is not None else reason
    return Answer(
        model=model,
        blocks=tuple(blocks),
        stop_reason=shape.stop_reason or (reason if fits else "max_tokens"),
        stop_sequence=stop_sequence if fits else None,
        input_tokens=count_input(body),
        output_tokens=tokens,
        thinking_tokens=sum(token_count(b.pieces) for b in blocks if b.kind == "thinking"),
        tier=shape.tier,
        speed=body.get("speed"),
        server_tool=server_tool,
        container=server_tools.container_id(server_tool, body, model),
        manages_context="context_management" in body or shape.compaction,
    )


def count_input(body: Body) -> int:
    """A cheap and stable number of input tokens."""
    counted = {key: body.get(key) for key in ("system", "messages", "tools")}
    return len(request_json.dumps(counted)) // 4 + 1


def token_count(pieces: Iterable[str]) -> int:
    """The tokens of some pieces; each piece is at least one."""
    return sum(_tokens(piece) for piece in pieces)


def _tokens(piece: str) -> int:
    return -(-len(piece) // _TOKEN_CHARS) or 1


def _text_pieces(prompt: str, model: str, shape: Shape, tool: dict[str, Any] | None) -> list[str]:
    """The full text that answers the prompt, as the pieces of its deltas."""
    rng = seeded("text", model, prompt)
    count = shape.deltas or (3 if tool else rng.randrange(24, 65))
    if shape.stamp:
        return [""] * count
    if shape.text is not None:
        return _split_given_text(shape.text, shape, rng)
    lengths = [shape.chars] * count if shape.chars else piece_sizes(rng, count)
    text = f"Calling {tool['name']}…" if tool and not shape.deltas else prose(rng, sum(lengths))
    if shape.u2028:
        # Line ends for some readers, ordinary characters in JSON and SSE.
        text = text.replace(" ", "\u2028", 1).replace(" ", "\u0085", 1)
    if shape.odd:
        lengths.append(len(_ODD_TEXT))
        text += _ODD_TEXT
    return list(cut(text, lengths))


def _split_given_text(text: str, shape: Shape, rng: Random) -> list[str]:
    """Split a text that a directive gave."""
    if shape.chars:
        return list(cut(text, [shape.chars] * (len(text) // shape.chars + 1)))
    if shape.deltas:
        count = min(shape.deltas, len(text))
        ends = [len(text) * (i + 1) // count for i in range(count)]
        return [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    return split_randomly(rng, text)


def _remaining(pieces: list[str], body: Body, shape: Shape) -> list[str]:
    """Leave out what the conversation already contains of the answer."""
    text = "".join(pieces)
    said = conversation.prefill(body)
    if said is not None:
        start = _prefilled_length(said, text)
    else:
        quoted = max(
            (_quoted_length(each, text) for each in conversation.last_turn_texts(body)), default=0
        )
        start = max(0, quoted - shape.overlap) if quoted else 0
    return _drop_start(pieces, start)


def _drop_start(pieces: list[str], start: int) -> list[str]:
    """Leave out the first ``start`` characters, and keep the remaining pieces."""
    if not start:
        return pieces
    kept = []
    for piece in pieces:
        if start < len(piece) or not piece:
            kept.append(piece[start:])
        start = max(0, start - len(piece))
    return kept


def _prefilled_length(said: str, text: str) -> int:
    """How much of the beginning of ``text`` is at the end of ``said``.

    A user's own prefill comes before the text, so that beginning need not be at the start of
    ``said``.
    """
    start = said.find(text[:1]) if text else -1
    while start >= 0:
        if text.startswith(said[start:]):
            return len(said) - start
        start = said.find(text[:1], start + 1)
    return 0


def _quoted_length(quote: str, text: str) -> int:
    """Length of the longest beginning of ``text``, of a word or more, in ``quote``."""
    word = text.split(" ", 1)[0]
    longest, start = 0, quote.find(word) if word else -1
    while start >= 0:
        low, high = len(word), min(len(text), len(quote) - start)
        while low < high:
            middle = (low + high + 1) // 2
            same = quote.startswith(text[:middle], start)
            low, high = (middle, high) if same else (low, middle - 1)
        longest = max(longest, low)
        start = quote.find(word, start + 1)
    return longest


def _cut_at_stop_sequence(
    pieces: list[str], sequences: Sequence[str] | None
) -> tuple[list[str], str | None]:
    """End the pieces before the first stop sequence; returns which one it was."""
    text = "".join(pieces)
    found = [(text.find(each), each) for each in sequences or () if each and each in text]
    if not found:
        return pieces, None
    end, sequence = min(found)
    lengths = [len(piece) for piece in pieces]
    return list(cut(text[:end], lengths)), sequence


def _thirds(total: int, *, rest: int, new: int) -> list[int]:
    """The third of the answer to which each of its last ``rest`` pieces belongs.

    They are the same in a continuation, so that both calls together make the undisturbed answer.
    Only the last ``new`` pieces are new; what is repeated is in the block that is continued.
    """
    continued = total - new
    return [min(max(place, continued) * 3 // total, 2) for place in range(total - rest, total)]


def _text_blocks(pieces: list[str], thirds: list[int], body: Body, shape: Shape) -> Iterator[Block]:
    """The text as one block or, with citations, as three of which the second is cited.

    ``thirds``: which of the three each piece belongs to.
    """
    citations = server_tools.citations(body, shape)
    if not citations or shape.stamp:
        if pieces:
            yield Block(kind="text", pieces=tuple(pieces), stamped=shape.stamp)
        return
    for third in range(3):
        found = tuple(piece for piece, of in zip(pieces, thirds, strict=False) if of == third)
        if found:
            cited = tuple(citations) if third == 1 else ()
            yield Block(kind="text", pieces=found, citations=cited)


def _compaction(body: Body, shape: Shape, prompt: str, model: str) -> Iterable[Block]:
    if shape.compaction or conversation.asks_for_compaction(body):
        rng = seeded("compaction", model, prompt)
        opaque = f"{rng.getrandbits(256):064x}"
        yield Block(kind="compaction", pieces=(prose(rng, 200),), signature=opaque)


def _redacted_thinking(prompt: str, model: str) -> Block:
    data = f"{seeded('redacted', model, prompt).getrandbits(512):0128x}"
    return Block(kind="redacted_thinking", whole={"type": "redacted_thinking", "data": data})


def _thinking(body: Body, shape: Shape, prompt: str, model: str) -> Iterable[Block]:
    asked = body.get("thinking")
    asked = asked if isinstance(asked, dict) else {}
    if not shape.thinking and asked.get("type") not in ("enabled", "adaptive"):
        return
    rng = seeded("thinking", model, prompt)
    lengths = piece_sizes(rng, rng.randrange(4, 10))
    thought = list(cut(prose(rng, sum(lengths)), lengths))
    if asked.get("display") == "omitted":
        thought = []
    yield Block(kind="thinking", pieces=tuple(thought), signature=f"sig{rng.getrandbits(256):064x}")


def _chosen_tool(body: Body, shape: Shape) -> dict[str, Any] | None:
    """The tool to call, or None."""
    choice = body.get("tool_choice") or {}
    own: list[dict[str, Any]] = [
        t for t in body.get("tools") or [] if "name" in t and "input_schema" in t
    ]
    if shape.tool and not own:
        return {"name": "lookup", "input_schema": {"properties": {"query": {"type": "string"}}}}
    if not own or choice.get("type") == "none" or conversation.brings_tool_result(body):
        return None
    return next((tool for tool in own if tool["name"] == choice.get("name")), own[0])


def _tool_use(tool: dict[str, Any], prompt: str, model: str) -> Block:
    rng = seeded("tool", model, prompt, tool["name"])
    arguments = orjson.dumps(tool_input(tool["input_schema"], rng)).decode()
    # The API's first delta of a tool's input is always empty.
    pieces = ("", *split_randomly(rng, arguments))
    return Block(
        kind="tool_use", pieces=pieces, name=tool["name"], id=f"toolu_01{rng.getrandbits(88):022x}"
    )


def _cut_at_max_tokens(blocks: list[Block], limit: int) -> tuple[list[Block], int, bool]:
    """Cut the blocks at ``limit`` tokens: blocks, tokens and whether all fitted."""
    used = 0
    if not limit:  # a call that only fills the prompt cache
        return [], 0, False
    for place, block in enumerate(blocks):
        for count, piece in enumerate(block.pieces):
            cost = _tokens(piece)
            if used + cost > limit:
                part = piece[: (limit - used) * _TOKEN_CHARS]
                pieces = (*block.pieces[:count], *([part] if part else []))
                cut_block = replace(block, pieces=pieces, complete=False)
                return [*blocks[:place], *([cut_block] if pieces else [])], limit, False
            used += cost
    return blocks, used, True
