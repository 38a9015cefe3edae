"""Lines of results: cut out wherever a download is divided, and read in whatever form they have."""

import itertools
import json
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.shards import wire_id
from tasks.accounts import Account
from tasks.again import Outcome, judge
from tasks.result_lines import blocks, read_line, tokens_in
from tasks.sorter import Sorter

NONCE = "abcdefghij01"
quick = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])

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
messages = st.fixed_dictionaries(
    {"content": st.lists(st.fixed_dictionaries({"text": texts}), max_size=2)},
    optional={"id": texts, "model": st.sampled_from(["a", "b", "ü"]), "usage": usages},
)
results = st.one_of(
    st.fixed_dictionaries({"type": st.just("succeeded"), "message": messages}),
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
    """A line as some server may write it."""
    fields: dict[str, Any] = {"custom_id": draw(ids), "result": draw(results)}
    if draw(st.booleans()):
        fields = {"result": fields["result"], "custom_id": fields["custom_id"]}
    if draw(st.booleans()):
        fields["surprise"] = draw(texts)
    end = draw(st.sampled_from([b"", b"", b"\r", b" "]))
    if draw(st.booleans()):
        return json.dumps(fields, ensure_ascii=draw(st.booleans())).encode() + end
    return orjson.dumps(fields) + end


class OnlySlowly(Sorter):
    """The same without the short way."""

    def _quickly(self, *_: Any) -> bool:
        return False


def sorted_by(kind: type[Sorter], lines: list[bytes]) -> tuple[list[Any], Account]:
    """What is stored of the lines, and the account of them."""
    account = Account(NONCE, 8)
    sorter = kind(account, lambda o: judge(o, round=0, rounds_limit=1, resend=True))
    stored = sorter.take(b"\n".join(lines))
    assert not stored or stored.endswith(b"\n")
    return stored.split(b"\n")[:-1], account


@quick
@given(st.lists(written() | st.sampled_from([b"", b"  ", b"{", b"null", b"7"]), max_size=8))
def test_the_short_way_decides_like_the_long_one(lines: list[bytes]) -> None:
    stored, account = sorted_by(Sorter, lines)
    expected, slow = sorted_by(OnlySlowly, lines)
    assert stored == expected
    assert account.tokens() == slow.tokens()
    for name in ("seen", "strangers", "doubles", "broken", "kinds", "errors", "again", "samples"):
        assert getattr(account, name) == getattr(slow, name)


@quick
@given(st.lists(written(), max_size=8))
def test_every_stored_line_begins_alike_and_says_what_it_said(lines: list[bytes]) -> None:
    said: dict[str, Any] = {}
    for line in lines:
        fields = json.loads(line)
        said.setdefault(fields["custom_id"], fields)
    for line in sorted_by(Sorter, lines)[0]:
        assert line.startswith(b'{"custom_id":"%s-' % NONCE.encode())
        assert line[33:35] == b'",'
        assert line.endswith(b"}")
        fields = json.loads(line)
        assert fields == said[fields["custom_id"]]


@quick
@given(st.lists(written(), min_size=1, max_size=4), st.data())
def test_a_line_that_was_cut_is_never_taken_for_whole(
    lines: list[bytes], data: st.DataObject
) -> None:
    line = lines[0].rstrip()
    length = data.draw(st.integers(1, len(line) - 1))
    stored, account = sorted_by(Sorter, [line[:length]])
    assert stored == []
    assert account.broken == 1
    assert account.missing == 8


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


def test_a_line_longer_than_a_block_is_one_line() -> None:
    line = b"x" * 1000 + b"\n"
    assert list(blocks([line[at : at + 7] for at in range(0, 1001, 7)], 10)) == [line]
    assert list(blocks([])) == []


def test_large_numbers_and_lone_surrogates_survive_being_put_in_order() -> None:
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
        b'{"custom_id":"a"}',
        b'{"custom_id":"a","result":null}',
        b'{"custom_id":"a","result":{}}',
        b'{"custom_id":7,"result":{"type":"expired"}}',
        b'{"custom_id":"a","result":{"type":"succeeded"}}',
        b'{"custom_id":"a","result":{"type":"succeeded","message":null}}',
        b'{"custom_id":"a","result":{"type":"errored"}}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_result_is_told_apart(line: bytes) -> None:
    assert read_line(line) is None


def test_the_error_lies_inside_of_the_envelope() -> None:
    error = {"type": "rate_limit_error", "message": "m", "details": {"error_code": "c"}}
    result = {"type": "errored", "error": {"type": "error", "error": error}}
    found = read_line(orjson.dumps({"custom_id": "a", "result": result}))
    assert found is not None
    assert found.outcome == Outcome("errored", "rate_limit_error", "m", "c")


def test_lifetimes_of_the_cache_are_counted_when_they_are_given() -> None:
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
