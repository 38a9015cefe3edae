"""How to go on with an answer that broke off; pure.

Only visible text can be continued: the API takes back neither half a tool call nor thinking
without its signature. So what follows the last text is discarded and written anew. Models up to
the 4.5 family continue a partial assistant message (prefill); newer ones refuse that and are
asked in a further user turn.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from tasks.seam import ExactSeam, OverlapSeam, PrefillSeam
from tasks.transcript import Transcript


class OnBreak(StrEnum):
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


@dataclass(frozen=True, slots=True)
class Plan:
    """How the next attempt is made and how its events join the published ones."""

    mode: Mode
    body: dict[str, Any]  #: what is sent
    rewind: tuple[int, int] | None = None  #: block and offset to discard from, before it starts
    #: published block that the attempt's first text goes on with; None: it gets a new one
    joins: int | None = None
    first: int = 0  #: number of the attempt's first new block
    seam: ExactSeam = field(default_factory=ExactSeam)


def plan(transcript: Transcript, body: dict[str, Any], on_break: OnBreak, *, prefill: bool) -> Plan:
    """The next attempt. ``prefill``: whether the model takes one."""
    last = transcript.last_text_block()
    if last is None or on_break is OnBreak.RESTART or _is_structured(body):
        rewind = (0, 0) if transcript.blocks else None
        return Plan(Mode.RESTART if rewind else Mode.START, body, rewind)
    behind = last + 1
    rewind = (behind, 0) if len(transcript.blocks) > behind else None
    joins = last if transcript.blocks[last].open else None
    text = transcript.text
    if prefill and "thinking" not in body:
        trimmed = text.rstrip()
        seam: ExactSeam = PrefillSeam(text[len(trimmed) :])
        turn = {"role": "assistant", "content": trimmed}
        mode = Mode.PREFILL
    else:
        seam = OverlapSeam(text)
        turn = {"role": "user", "content": _GO_ON.format(text=text)}
        mode = Mode.USER_TURN
    continued = {**body, "messages": [*body["messages"], turn]}
    return Plan(mode, continued, rewind, joins, behind, seam)


def _is_structured(body: dict[str, Any]) -> bool:
    """Whether the answer must be one JSON document, which a second call cannot finish."""
    return bool((body.get("output_config") or {}).get("format"))
