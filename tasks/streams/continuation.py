"""Plans how an interrupted answer is resumed. Pure.

Only visible text can be continued: the API accepts neither half a tool call nor thinking without
its signature. Everything after the last text is therefore discarded and generated again. Models up
to the 4.5 family continue a partial assistant message (prefill); newer ones refuse that and are
asked in a further user turn. They may repeat text they have written, so an answer that is still too
short for a repetition to be recognised is restarted.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from penstock.streams.final_text import TextFinal, has_final_start, text_final
from tasks.streams.overlap import PassThrough, WhitespaceFilter, filter_after
from tasks.streams.partial_message import PartialMessage


class OnInterrupt(StrEnum):
    """What the producer wants done with an interrupted answer."""

    CONTINUE = "continue"  #: continue after what was received
    RESTART = "restart"  #: discard it and start again
    FAIL = "fail"  #: end with an error; what was received is kept


class Mode(StrEnum):
    """How an attempt relates to what readers have."""

    START = "start"  #: nothing was published
    PREFILL = "prefill"  #: continues a partial assistant message
    USER_TURN = "user_turn"  #: continues because a further user turn asks for it
    RESTART = "restart"  #: everything published was discarded


_CONTINUE_TURN: Final = (
    "Your answer to this was cut off by a technical fault. What you had written is:\n"
    "<previous_response>{text}</previous_response>\n"
    "Go on from exactly the place where it ends, as if it had not been cut: your next characters "
    "are appended to it as they are. Do not repeat any of it, do not introduce it, do not comment."
)

#: Bytes of text per token, estimated high: the tokens written so far are then underestimated, and
#: no answer ends earlier than it would have without the interruption.
_BYTES_PER_TOKEN: Final = 4


@dataclass(frozen=True, slots=True)
class AttemptPlan:
    """How the next attempt is made, and how its events join the published ones."""

    mode: Mode
    body: dict[str, Any]  #: body of the API call
    rewind: tuple[int, int] | None = None  #: block and offset to discard from, before it begins
    #: published block that the attempt's first text continues; None: it starts a new block
    continues: int | None = None
    first_index: int = 0  #: index of the attempt's first new block
    text_filter: PassThrough = field(default_factory=PassThrough)


def plan_attempt(
    message: PartialMessage, body: dict[str, Any], on_interrupt: OnInterrupt, *, prefill: bool
) -> AttemptPlan:
    """Plan the next attempt, given what has been published.

    ``prefill``: whether the model accepts a partial assistant message.
    """
    last = message.last_text_block()
    text = message.text
    prefill = prefill and "thinking" not in body
    restart = text_final(body, on_interrupt) is TextFinal.AT_END
    if last is None or restart or not (prefill or has_final_start(text)):
        rewind = (0, 0) if message.blocks else None
        return AttemptPlan(Mode.RESTART if rewind else Mode.START, body, rewind)
    next_index = last + 1
    rewind = (next_index, 0) if message.blocks.end > next_index else None
    continues = last if message.blocks[last].open else None
    if prefill:
        trimmed = text.rstrip()
        text_filter: PassThrough = WhitespaceFilter(text[len(trimmed) :])
        turn = {"role": "assistant", "content": trimmed}
        mode = Mode.PREFILL
    else:
        text_filter = filter_after(text)
        turn = {"role": "user", "content": _CONTINUE_TURN.format(text=text)}
        mode = Mode.USER_TURN
    messages = [*body["messages"], turn]
    continued = {**body, "messages": messages, "max_tokens": _tokens_left(body, text)}
    return AttemptPlan(mode, continued, rewind, continues, next_index, text_filter)


def _tokens_left(body: dict[str, Any], text: str) -> int:
    """Return what remains of ``max_tokens`` after this text.

    Estimated, because the API does not report the output tokens of an interrupted call. Each call
    thinks again, so its thinking budget always has to fit.
    """
    limit: int = body["max_tokens"]
    thoughts: int = (body.get("thinking") or {}).get("budget_tokens") or 0
    left = limit - len(text.encode()) // _BYTES_PER_TOKEN
    return min(limit, max(left, thoughts + 1))
