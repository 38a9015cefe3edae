"""How to go on with an answer that broke off; pure.

Only visible text can be continued: the API takes back neither half a tool call nor thinking
without its signature. So what follows the last text is discarded and written anew. Models up to
the 4.5 family continue a partial assistant message (prefill); newer ones refuse that and are
asked in a further user turn. Those may say again what they said, so what is too short to be
recognised is asked for anew.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from tasks.streams.overlap import OverlapFilter, PassThrough, WhitespaceFilter, is_distinctive
from tasks.streams.partial_message import PartialMessage


class OnInterrupt(StrEnum):
    """What a producer wants done when an answer breaks off."""

    CONTINUE = "continue"  #: go on behind what was received
    RESTART = "restart"  #: discard it and ask anew
    FAIL = "fail"  #: end with an error; what was received is kept


class Mode(StrEnum):
    """How an attempt relates to what readers have."""

    START = "start"  #: nothing was published
    PREFILL = "prefill"  #: goes on with a partial assistant message
    USER_TURN = "user_turn"  #: goes on because a user turn asks for it
    RESTART = "restart"  #: everything published was discarded


_GO_ON: Final = (
    "Your answer to this was cut off by a technical fault. What you had written is:\n"
    "<previous_response>{text}</previous_response>\n"
    "Go on from exactly the place where it ends, as if it had not been cut: your next characters "
    "are appended to it as they are. Do not repeat any of it, do not introduce it, do not comment."
)

#: Bytes of text in a token, rather too many: what was written counts for less than it was, so that
#: no answer ends before it would have without the break.
_BYTES_PER_TOKEN: Final = 4


@dataclass(frozen=True, slots=True)
class AttemptPlan:
    """How the next attempt is made and how its events join the published ones."""

    mode: Mode
    body: dict[str, Any]  #: what is sent
    rewind: tuple[int, int] | None = None  #: block and offset to discard from, before it starts
    #: published block that the attempt's first text goes on with; None: it gets a new one
    continues: int | None = None
    first_index: int = 0  #: number of the attempt's first new block
    text_filter: PassThrough = field(default_factory=PassThrough)


def plan_attempt(
    answer: PartialMessage, body: dict[str, Any], on_interrupt: OnInterrupt, *, prefill: bool
) -> AttemptPlan:
    """The next attempt. ``prefill``: whether the model takes one."""
    last = answer.last_text_block()
    text = answer.text
    prefill = prefill and "thinking" not in body
    lost = on_interrupt is OnInterrupt.RESTART or _is_structured(body)
    if last is None or lost or not (prefill or is_distinctive(text)):
        rewind = (0, 0) if answer.blocks else None
        return AttemptPlan(Mode.RESTART if rewind else Mode.START, body, rewind)
    behind = last + 1
    rewind = (behind, 0) if answer.blocks.end > behind else None
    continues = last if answer.blocks[last].open else None
    if prefill:
        trimmed = text.rstrip()
        text_filter: PassThrough = WhitespaceFilter(text[len(trimmed) :])
        turn = {"role": "assistant", "content": trimmed}
        mode = Mode.PREFILL
    else:
        text_filter = OverlapFilter(text)
        turn = {"role": "user", "content": _GO_ON.format(text=text)}
        mode = Mode.USER_TURN
    messages = [*body["messages"], turn]
    continued = {**body, "messages": messages, "max_tokens": _tokens_left(body, text)}
    return AttemptPlan(mode, continued, rewind, continues, behind, text_filter)


def _tokens_left(body: dict[str, Any], text: str) -> int:
    """What ``max_tokens`` leaves behind this text. Of a call that broke off the API never says
    how many it wrote. Thoughts come again with each call, and must fit in as they did."""
    limit: int = body["max_tokens"]
    thoughts: int = (body.get("thinking") or {}).get("budget_tokens") or 0
    left = limit - len(text.encode()) // _BYTES_PER_TOKEN
    return min(limit, max(left, thoughts + 1))


def _is_structured(body: dict[str, Any]) -> bool:
    """Whether the answer must be one JSON document, which a second call cannot finish."""
    return bool((body.get("output_config") or {}).get("format"))
