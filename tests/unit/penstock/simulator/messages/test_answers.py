"""The model's answers."""

from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.simulator.faults.directives import parse
from penstock.simulator.messages import conversation
from penstock.simulator.messages.answers import Answer, compose, count_input

no_deadline = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

MODEL = "claude-haiku-4-5"


def answer(*messages: Any, mark: bool = False, **fields: Any) -> Answer:
    """The answer to a conversation; a plain string is a user message."""
    body: dict[str, Any] = {
        "model": MODEL,
        "max_tokens": 10_000,
        "messages": [{"role": "user", "content": m} if isinstance(m, str) else m for m in messages],
        **fields,
    }
    return compose(body, parse(conversation.user_texts(body)).shape, mark=mark)


def text(found: Answer) -> str:
    """The visible text of an answer."""
    return "".join(block.text for block in found.blocks if block.kind == "text")


def said(content: str) -> dict[str, Any]:
    """A prefill."""
    return {"role": "assistant", "content": content}


def test_the_same_conversation_always_has_the_same_answer() -> None:
    """It depends on the prompt and the model alone."""
    assert answer("hello") == answer("hello")
    assert text(answer("hello")) != text(answer("hello!"))
    assert text(answer("hello")) != text(answer("hello", model="claude-opus-5"))


def test_an_answer_does_not_depend_on_its_directives() -> None:
    """So a test can compare a faulty stream with the undisturbed one."""
    assert text(answer("hello [[sim disconnect_after=3 rate=9]]")) == text(answer("hello"))


@pytest.mark.parametrize("prompt", ["hello", 'hello [[sim text="Given."]]', "hello [[sim tool]]"])
def test_a_mark_begins_the_text_and_changes_nothing_else(prompt: str) -> None:
    """Whatever decides the rest of the text."""
    assert text(answer(prompt, mark=True)) == "[simulated] " + text(answer(prompt))


@no_deadline
@given(st.data())
def test_a_marked_answer_is_continued_after_any_cut(data: st.DataObject) -> None:
    """By a prefill, or by the beginning quoted in a further user message."""
    whole = text(answer("hello", mark=True))
    begun = whole[: data.draw(st.integers(1, len(whole)))].rstrip()
    assert begun + text(answer("hello", said(begun), mark=True)) == whole


def test_answers_contain_multi_byte_characters() -> None:
    """Otherwise no cut would fall inside a character."""
    together = "".join(text(answer(f"prompt {i}")) for i in range(20))
    assert {len(c.encode()) for c in together} == {1, 2, 3, 4}


@no_deadline
@given(st.integers(1, 400), st.integers(0, 40))
def test_deltas_sets_the_number_of_deltas(deltas: int, chars: int) -> None:
    """With any size of delta."""
    found = answer(f"hello [[sim deltas={deltas} chars={chars}]]")
    assert len(found.blocks[0].pieces) == deltas
    assert not chars or {len(piece) for piece in found.blocks[0].pieces} == {chars}


@no_deadline
@given(st.data())
def test_a_prefill_is_continued_with_the_exact_rest(data: st.DataObject) -> None:
    """At any cut, with trailing space removed, and after a prefill of the user's own."""
    whole = text(answer("hello"))
    end = data.draw(st.integers(1, len(whole)))
    start = data.draw(st.sampled_from(["", "{", "Once: "]))
    begun = (start + whole[:end]).rstrip()
    assert begun + text(answer("hello", said(begun))) == start + whole


@no_deadline
@given(st.data())
def test_a_quoted_beginning_is_continued_with_the_exact_rest(data: st.DataObject) -> None:
    """Wherever in the user's text the quote is."""
    whole = text(answer("hello"))
    end = data.draw(st.integers(len(whole.split()[0]), len(whole)))
    quote = f"You were cut off after <said>{whole[:end]}</said>. Go on from there."
    assert whole[:end] + text(answer("hello", quote)) == whole
    assert whole[:end] + text(answer("hello", said(whole[:end]), quote)) == whole


def test_a_beginning_quoted_in_a_second_block_is_continued() -> None:
    """A client may join consecutive user texts."""
    whole = text(answer("hello"))
    blocks = [{"type": "text", "text": "hello"}, {"type": "text", "text": f"[{whole[:20]}]"}]
    assert whole[:20] + text(answer({"role": "user", "content": blocks})) == whole


def test_overlap_repeats_the_end_of_the_quote() -> None:
    """As models do that continue without a prefill."""
    whole = text(answer("hello"))
    assert text(answer("hello [[sim overlap=7]]", f"[{whole[:30]}]")) == whole[23:]


def test_a_second_question_without_a_quote_has_a_whole_answer() -> None:
    """There is nothing to continue."""
    assert text(answer("hello", said("The whole."), "And then?")) == text(answer("hello"))


def test_the_prompt_itself_is_never_a_quoted_beginning() -> None:
    """It is what the answer answers."""
    opening = text(answer("hello")).split()[0]
    assert text(answer(opening)).endswith(".")
    assert len(text(answer(opening))) > len(opening)


def test_the_text_directive_is_the_answer() -> None:
    """In a given number of deltas."""
    found = answer('x [[sim text="Grüße, \\"Welt\\" [1]" deltas=4]]')
    assert text(found) == 'Grüße, "Welt" [1]'
    assert len(found.blocks[0].pieces) == 4


def test_max_tokens_cuts_the_answer() -> None:
    """At that many tokens, with that stop reason."""
    found = answer("hello", max_tokens=5)
    assert (found.output_tokens, found.stop_reason) == (5, "max_tokens")
    assert text(answer("hello")).startswith(text(found))


def test_an_answer_of_exactly_max_tokens_has_end_turn() -> None:
    """The limit is not lower than the usage."""
    tokens = answer("hello").output_tokens
    assert answer("hello", max_tokens=tokens).stop_reason == "end_turn"


def test_a_stop_sequence_ends_the_answer_before_it() -> None:
    """The answer names it."""
    whole = text(answer("hello"))
    found = answer("hello", stop_sequences=["never there", whole[10:14]])
    assert text(found) == whole[: whole.index(whole[10:14])]
    assert (found.stop_reason, found.stop_sequence) == ("stop_sequence", whole[10:14])


def test_a_thinking_block_comes_first_with_a_signature() -> None:
    """Also if adaptive, also if omitted."""
    found = answer("hello", thinking={"type": "adaptive"})
    assert [block.kind for block in found.blocks] == ["thinking", "text"]
    assert found.blocks[0].signature
    assert 0 < found.thinking_tokens < found.output_tokens
    assert answer("hello", thinking={"type": "adaptive", "display": "omitted"}).blocks[0].text == ""
    assert len(answer("hello", thinking={"type": "disabled"}).blocks) == 1


SCHEMA = {
    "type": "object",
    "$defs": {"unit": {"enum": ["celsius", "kelvin"]}},
    "properties": {
        "place": {"type": "string", "minLength": 3, "maxLength": 20},
        "unit": {"$ref": "#/$defs/unit"},
        "days": {"type": "integer", "minimum": 1, "maximum": 7},
        "share": {"type": ["number", "null"], "exclusiveMinimum": 0},
        "tags": {"type": "array", "items": {"type": "string"}, "minItems": 3},
        "more": {"anyOf": [{"type": "object", "properties": {"deep": {"type": "boolean"}}}]},
        "fixed": {"const": 5},
    },
    "required": ["place", "unit"],
    "additionalProperties": False,
}
TOOLS = [
    {"name": "weather", "description": "d", "input_schema": SCHEMA},
    {"name": "other", "input_schema": {"type": "object"}},
]


@no_deadline
@given(st.text())
def test_a_tools_input_is_valid_by_its_schema(prompt: str) -> None:
    """The call comes after a short text."""
    import orjson

    found = answer(prompt.replace("[[sim", ""), tools=TOOLS)
    assert [block.kind for block in found.blocks] == ["text", "tool_use"]
    assert (found.stop_reason, found.blocks[1].name) == ("tool_use", "weather")
    jsonschema.validate(orjson.loads(found.blocks[1].text), SCHEMA)


@pytest.mark.parametrize(
    ("choice", "called"),
    [
        ({"type": "auto"}, "weather"),
        ({"type": "any"}, "weather"),
        ({"type": "tool", "name": "other"}, "other"),
        ({"type": "none"}, None),
    ],
)
def test_tool_choice_decides_which_tool_is_called(
    choice: dict[str, str], called: str | None
) -> None:
    """The named tool, the first, or none."""
    blocks = answer("hello", tools=TOOLS, tool_choice=choice).blocks
    assert next((block.name for block in blocks if block.kind == "tool_use"), None) == called


def test_a_tools_result_is_answered_without_a_tool_call() -> None:
    """Otherwise the conversation would never end."""
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t"}]}
    assert answer("hello", result, tools=TOOLS).stop_reason == "end_turn"


def test_the_input_of_a_recursive_schema_is_finite() -> None:
    """Deep inside it has only what is required."""
    schema = {"type": "object", "properties": {"child": {"$ref": "#"}, "name": {"type": "string"}}}
    found = answer("hello", tools=[{"name": "tree", "input_schema": schema}])
    assert len(found.blocks[1].text) < 2000


def test_directives_force_blocks_and_stop_reasons() -> None:
    """Whatever the request asks for."""
    found = answer("hello [[sim tool thinking stop_reason=refusal u2028]]")
    assert [block.kind for block in found.blocks] == ["thinking", "text", "tool_use"]
    assert found.stop_reason == "refusal"
    assert {"\u2028", "\u0085"} <= set(text(answer("hello [[sim u2028]]")))


def test_input_tokens_depend_on_the_content_alone() -> None:
    """More text is more tokens."""
    body = {"messages": [{"role": "user", "content": "x" * 400}]}
    assert count_input(body) == count_input(body | {"max_tokens": 7})
    assert count_input(body) > 100
