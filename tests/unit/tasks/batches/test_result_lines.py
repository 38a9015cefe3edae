"""Result lines: split from a download that is cut anywhere, and parsed in any form."""

import base64
import itertools
import json
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from penstock.batches.parquet import row_of
from penstock.batches.shard import Shard
from penstock.batches.unreadable import parse_line
from penstock.batches.wire import wire_id
from tasks.batches.collect.classifier import ResultClassifier
from tasks.batches.collect.retry_policy import RetryDecision, decide
from tasks.batches.collect.tally import ResultTally
from tasks.batches.result_lines import Outcome, blocks, is_utf8, read_line, tokens_in

NONCE = "abcdefghij01"
quick = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from(
    ['"usage":{', "\u2028", "\u0085", "\r", '"}}}}', '\\"', "\x00"]
)
tokens = st.integers(0, 10**6) | st.none()
usages = st.fixed_dictionaries(
    {"input_tokens": tokens, "output_tokens": tokens},
    optional={
        "cache_creation_input_tokens": tokens,
        "cache_read_input_tokens": tokens,
        "cache_creation": st.none()
        | st.fixed_dictionaries(
            {}, optional={"ephemeral_5m_input_tokens": tokens, "ephemeral_1h_input_tokens": tokens}
        ),
        "service_tier": texts,
        "surprise": st.dictionaries(texts, tokens, max_size=2),
    },
)
shadows = st.fixed_dictionaries({"stop_sequence": st.none(), "usage": usages})
said = st.fixed_dictionaries({"text": texts})
contents = st.lists(said, max_size=2) | st.lists(
    said | st.fixed_dictionaries({"input": shadows}), max_size=2
)
odd_messages = st.fixed_dictionaries(
    {"content": st.lists(st.fixed_dictionaries({"text": texts}), max_size=2)},
    optional={"id": texts, "model": st.sampled_from(["a", "b", "ü"]), "usage": usages},
)


@st.composite
def usual_messages(draw: st.DrawFn) -> dict[str, Any]:
    """A message in the order of the API, with surprises wherever there is room."""
    named = {"id": draw(texts), "type": "message", "role": "assistant"}
    model = {"model": draw(st.sampled_from(["a", "b", "ü", 'c"', "\\"]))}
    head = {**named, **model} if draw(st.booleans()) else {**model, **named}
    tail = {"stop_reason": "end_turn", "stop_sequence": None, "usage": draw(usages)}
    message: dict[str, Any] = {**head, "content": draw(contents), **tail}
    if draw(st.booleans()):
        message["surprise"] = draw(texts | shadows)
    return message


usual_results = st.fixed_dictionaries(
    {"type": st.just("succeeded"), "message": usual_messages()},
    optional={"surprise": texts | shadows},
)
results = st.one_of(
    st.fixed_dictionaries({"type": st.just("succeeded"), "message": odd_messages}),
    usual_results,
    st.fixed_dictionaries({"type": st.sampled_from(["expired", "canceled"])}),
    st.builds(
        lambda kind, words: {
            "type": "errored",
            "error": {"type": "error", "error": {"type": kind, "message": words}},
        },
        st.sampled_from(["overloaded_error", "invalid_request_error"]),
        texts,
    ),
)
ids = st.builds(wire_id, st.sampled_from([NONCE, NONCE, NONCE, "zzzzzzzzzzzz"]), st.integers(0, 9))


@st.composite
def written(draw: st.DrawFn) -> bytes:
    """A line as a gateway may write it."""
    fields: dict[str, Any] = {"custom_id": draw(ids), "result": draw(results)}
    if draw(st.booleans()):
        fields = {"result": fields["result"], "custom_id": fields["custom_id"]}
    if draw(st.booleans()):
        fields["surprise"] = draw(texts)
    end = draw(st.sampled_from([b"", b"", b"\r", b" "]))
    if draw(st.booleans()):
        return json.dumps(fields, ensure_ascii=draw(st.booleans())).encode() + end
    return orjson.dumps(fields) + end


usual_lines = st.builds(
    lambda index, result: orjson.dumps({"custom_id": wire_id(NONCE, index), "result": result}),
    st.integers(0, 9),
    usual_results,
)
any_lines = st.lists(usual_lines | usual_lines | written(), max_size=8)


def usual_line(index: int, **surprise: Any) -> bytes:
    """A succeeded line as the API writes it."""
    usage = {"input_tokens": 3, "cache_creation": {"ephemeral_1h_input_tokens": 4}}
    message = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [{"type": "text", "text": '"usage":{'}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": usage,
    }
    result = {"type": "succeeded", "message": message, **surprise}
    return orjson.dumps({"custom_id": wire_id(NONCE, index), "result": result})


#: A field beside the message that looks like the end of one.
SIBLING = {"stop_sequence": None, "usage": {"input_tokens": 5}}


class SlowPathOnly(ResultClassifier):
    """The same without the fast path."""

    def _fast_path(self, block: bytes) -> tuple[list[bytes], list[bytes]]:
        return [], block.split(b"\n")


def sorted_by(
    kind: type[ResultClassifier], lines: list[bytes], size: int = 8
) -> tuple[list[bytes], ResultTally]:
    """The lines that are stored, and their tally. ``size``: lines in a block."""
    tally = ResultTally(NONCE, 8)
    classifier = kind(tally, lambda o: decide(o, round=0, max_retry_rounds=1, can_retry=True))
    stored: list[bytes] = []
    for first in range(0, len(lines), size):
        kept = classifier.classify(b"\n".join([*lines[first : first + size], b""]))
        assert not kept or kept.endswith(b"\n")
        stored += kept.split(b"\n")[:-1]
    return stored, tally


@quick
@example([usual_line(0, sibling=SIBLING)], b"", 1)
@example([usual_line(0) + b"\r"], b"", 1)
@example([usual_line(0), usual_line(1)[:-2]], b"", 8)
@given(any_lines, st.sampled_from([b"", b"  ", b"{", b"null", b"7"]), st.sampled_from([1, 2, 8]))
def test_the_fast_path_decides_like_the_slow_path(
    lines: list[bytes], noise: bytes, size: int
) -> None:
    lines.insert(len(lines) // 2, noise)
    stored, tally = sorted_by(ResultClassifier, lines, size)
    expected, slow = sorted_by(SlowPathOnly, lines, size)
    for name in (
        *("unknown_lines", "repeated_lines", "invalid_lines", "unreadable_lines", "missing"),
    ):
        assert getattr(tally, name) == getattr(slow, name)
    if tally.repeated_lines:
        return  # either line of a request may have been kept
    assert sorted(stored) == sorted(expected)
    assert tally.tokens() == slow.tokens()
    for name in ("seen", "kinds", "errors", "retried", "samples"):
        assert getattr(tally, name) == getattr(slow, name)


@quick
@given(any_lines)
def test_every_stored_line_begins_with_its_wire_id_and_keeps_its_content(
    lines: list[bytes],
) -> None:
    meant: dict[str, list[Any]] = {}
    for line in lines:
        fields = json.loads(line)
        meant.setdefault(fields["custom_id"], []).append(fields)
    for line in sorted_by(ResultClassifier, lines)[0]:
        assert line.startswith(b'{"custom_id":"%s-' % NONCE.encode())
        assert line[33:35] == b'",'
        assert line.endswith(b"}")
        fields = json.loads(line)
        assert fields in meant[fields["custom_id"]]


@quick
@given(usual_lines | written(), st.data())
def test_a_truncated_line_is_never_accepted(line: bytes, data: st.DataObject) -> None:
    length = data.draw(st.integers(1, len(line.rstrip()) - 1))
    stored, tally = sorted_by(ResultClassifier, [line[:length]])
    assert tally.invalid_lines + tally.unreadable_lines + tally.unknown_lines == 1
    assert tally.missing == 8 - tally.unreadable_lines
    for each in stored:  # it names its request
        kind, raw = kind_and_raw(each)
        assert kind == "unreadable_result"
        # A comma or a bracket after a brace could belong to an array of results.
        around = b" \t\r\n,]"
        assert raw.rstrip(around) == line[:length].strip().rstrip(around)


@quick
@given(st.binary(max_size=60).filter(bool), st.lists(st.integers(0, 60)), st.integers(1, 20))
def test_blocks_are_whole_lines_however_a_download_is_divided(
    body: bytes, cuts: list[int], size: int
) -> None:
    places = [0, *sorted(cuts), len(body)]
    pieces = [body[a:b] for a, b in itertools.pairwise(places)]
    made = list(blocks(pieces, size))
    assert b"".join(made) == body
    assert all(block.endswith(b"\n") for block in made[:-1])


@pytest.mark.parametrize("piece", [1, 7, 10, 64, 1000])
def test_a_download_is_split_into_blocks_of_about_the_wanted_size(piece: int) -> None:
    body = b"123456789\n" * 100
    pieces = [body[at : at + piece] for at in range(0, len(body), piece)]
    sizes = [len(block) for block in blocks(pieces, 100)]
    assert sum(sizes) == len(body)
    assert all(size >= 90 for size in sizes[:-1])
    assert max(sizes) < 100 + max(piece, 10)
    if 100 % piece == 0:
        assert sizes == 10 * [100]


def test_a_line_longer_than_a_block_stays_one_line() -> None:
    line = b"x" * 1000 + b"\n"
    assert list(blocks([line[at : at + 7] for at in range(0, 1001, 7)], 10)) == [line]
    assert list(blocks([])) == []


def test_a_line_that_is_too_long_is_cut_and_becomes_an_errored_line() -> None:
    long = b'{"custom_id":"%s","result":"' % wire_id(NONCE, 1).encode() + b"x" * 3_000_000
    body = b"a\n" + long + b"\nb\n"
    pieces = [body[at : at + 1000] for at in range(0, len(body), 1000)]
    made = list(blocks(pieces, 100, limit=2_000_000))
    assert (made[0], made[2]) == (b"a\n", b"b\n")
    assert len(made) == 3
    assert len(made[1]) < 1_100_000
    found = read_line(made[1])
    assert found is not None
    assert found.custom_id == wire_id(NONCE, 1)
    assert found.outcome.error_type == "unreadable_result"
    assert "was cut" in found.outcome.message
    assert found.stored.endswith(b'(cut: the line is too long)"}}')


def test_a_line_of_joined_results_that_is_too_long_is_split_between_them() -> None:
    lines = [b'{"custom_id":"%s"}' % wire_id(NONCE, index).encode() for index in range(100)]
    body = b"[" + b",".join(lines) + b"]"
    begin = b'{"custom_id":"%s-' % NONCE.encode()
    made = list(
        blocks([body[at : at + 7] for at in range(0, len(body), 7)], 10, begin=begin, limit=90)
    )
    assert b"".join(made).replace(b"\n", b"") == body
    assert max(map(len, made)) < 100


@quick
@given(st.binary(max_size=40) | st.text(max_size=40).map(str.encode))
def test_bytes_are_checked_to_be_utf_8_in_pieces(text: bytes) -> None:
    try:
        expected = text.decode() == text.decode()
    except UnicodeDecodeError:
        expected = False
    with pytest.MonkeyPatch.context() as small:
        small.setattr("tasks.batches.result_lines._DECODED_BYTES", 5)
        assert is_utf8(text) is expected


def test_large_numbers_and_lone_surrogates_survive_a_rewrite() -> None:
    custom_id = wire_id(NONCE, 1)
    line = (
        b'{"result": {"type":"succeeded","message":{"n":123456789012345678901234567890,'
        b'"t":"\\ud83d"}}, "custom_id": "%s"}' % custom_id.encode()
    )
    found = read_line(line)
    assert found is not None
    assert found.stored.startswith(b'{"custom_id":"abcdefghij01-000001","result":')
    assert json.loads(found.stored) == json.loads(line)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff",
        b'{"custom_id":7,"result":{"type":"expired"}}',
        b'{"custom_id":["a"],"result":{"type":"expired"}}',
        b'{"result":{"type":"expired"}}',
        b"[" * 100_000,
    ],
)
def test_a_line_that_names_no_request_is_rejected(line: bytes) -> None:
    assert read_line(line) is None


@pytest.mark.parametrize(
    ("rest", "field"),
    [
        (b"", "result is not an object"),
        (b',"result":null', "result is not an object"),
        (b',"result":[1]', "result is not an object"),
        (b',"result":{}', "result.type"),
        (b',"result":{"type":["succeeded"]}', "result.type"),
        (b',"result":{"type":"succeeded"}', "result.message"),
        (b',"result":{"type":"succeeded","message":null}', "result.message"),
        (b',"result":{"type":"succeeded","message":[{}]}', "result.message"),
        (b',"result":{"type":"errored"}', "result.error.error"),
        (b',"result":{"type":"errored","error":null}', "result.error.error"),
        (b',"result":{"type":"errored","error":{"error":[]}}', "result.error.error"),
        (b',"result":{"type":"errored","error":{"error":{"type":[]}}}', "result.error.error.type"),
        (b',"result":{"type":"succeeded","message":%s}' % (b"[" * 2000 + b"]" * 2000), "deep"),
        (b',"result":{"type":"succeeded","message":{"content":[\xff', "line 1"),
    ],
)
def test_a_line_that_names_its_request_and_is_no_result_is_errored(rest: bytes, field: str) -> None:
    custom_id = wire_id(NONCE, 3)
    line = b'{"custom_id":"%s"%s}' % (custom_id.encode(), rest)
    found = read_line(line)
    assert found is not None
    assert (found.custom_id, found.outcome.kind) == (custom_id, "errored")
    assert field in found.outcome.message
    assert kind_and_raw(found.stored) == ("unreadable_result", line)
    assert found.stored.startswith(b'{"custom_id":"%s","result":' % custom_id.encode())


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.floats()
    | st.integers(-(2**70), 2**70)
    | st.text(max_size=4)
    | st.sampled_from(["\ud83d", "succeeded", "errored", "error", "overloaded_error"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["type", "message", "error", "usage", "model", "content", "details", "text"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@quick
@given(anything, anything, st.sampled_from(["succeeded", "errored", "expired"]), anything)
def test_a_result_of_any_types_is_one_stored_line_that_every_reader_parses(
    result: Any, message: Any, kind: str, usage: Any
) -> None:
    """One line of a shard; the other one is always stored."""
    results = [result, {"type": kind, "message": message, "error": message}]
    if isinstance(message, dict):
        results.append({"type": kind, "message": {**message, "usage": usage}})
    for each in results:
        line = json.dumps({"custom_id": wire_id(NONCE, 1), "result": each}).encode()
        stored, tally = sorted_by(ResultClassifier, [usual_line(0), line])
        assert (tally.missing, tally.extra_lines) == (6, 0)
        assert len(stored) == 2 - tally.retried
        shard = Shard(
            number=0, counts=tally.counts(), usage=tally.tokens(), errors=dict(tally.errors)
        )
        assert Shard.parse(shard.encode()).counts == tally.counts()
        for one in stored:
            fields = parse_line(one)
            assert fields["custom_id"] in (wire_id(NONCE, 0), wire_id(NONCE, 1))
            row_of(one)


def kind_and_raw(stored: bytes) -> tuple[str, bytes]:
    """The error type of an errored line, and the line that it was made of."""
    result = orjson.loads(stored)["result"]
    raw = result["raw"].encode() if "raw" in result else base64.b64decode(result["raw_base64"])
    return result["error"]["error"]["type"], raw


@pytest.mark.parametrize("count", [-1, 10**9 + 1, 2**64, 10**30, "7", 1.5, True, None, [3]])
def test_a_count_of_tokens_that_cannot_be_one_is_ignored(count: Any) -> None:
    usual = {"input_tokens": 2, "output_tokens": 10**9}
    assert tokens_in([usual, {"input_tokens": count}])["input_tokens"] == 2
    assert tokens_in([usual])["output_tokens"] == 10**9


def test_the_error_is_read_from_inside_its_envelope() -> None:
    error = {"type": "rate_limit_error", "message": "m", "details": {"error_code": "c"}}
    result = {"type": "errored", "error": {"type": "error", "error": error}}
    found = read_line(orjson.dumps({"custom_id": "a", "result": result}))
    assert found is not None
    assert found.outcome == Outcome("errored", "rate_limit_error", "m", "c")


def test_tokens_written_to_the_cache_are_counted_by_lifetime_if_the_api_says_so() -> None:
    plain = {"input_tokens": 1, "output_tokens": None, "cache_read_input_tokens": "many"}
    cached = {
        "input_tokens": 2,
        "cache_creation_input_tokens": 7,
        "cache_creation": {"ephemeral_5m_input_tokens": 3, "ephemeral_1h_input_tokens": 4},
    }
    assert tokens_in([plain, None]) == {
        "input_tokens": 1,
        "output_tokens": 0,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
    }
    assert tokens_in([plain, cached]) == {
        "input_tokens": 3,
        "output_tokens": 0,
        "cache_creation_input_tokens": 7,
        "cache_read_input_tokens": 0,
        "ephemeral_5m_input_tokens": 3,
        "ephemeral_1h_input_tokens": 4,
    }


def test_a_block_of_lines_in_the_usual_form_is_stored_without_a_copy() -> None:
    """Otherwise it would go unnoticed if no line took the fast path."""
    block = b"\n".join([*map(usual_line, range(8)), b""])
    tally = ResultTally(NONCE, 8)
    assert ResultClassifier(tally, lambda _: RetryDecision(retry=True)).classify(block) is block
    assert tally.missing == 0
    assert tally.counts().succeeded == 8
    assert tally.tokens()["m"]["input_tokens"] == 24
    assert tally.tokens()["m"]["ephemeral_1h_input_tokens"] == 32
