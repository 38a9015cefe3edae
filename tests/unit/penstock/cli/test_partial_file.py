"""A file that gets its name when it is complete and can be resumed before that."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.cli.command_error import CommandError
from penstock.cli.partial_file import open_partial, partial_path


class Interrupted(Exception):
    pass


def written(path: Path, *lines: bytes, resume: bool = False, fail: bool = False) -> None:
    with open_partial(path, resume=resume) as file:
        for line in lines:
            file.write(line)
        if fail:
            raise Interrupted


def test_the_file_gets_its_name_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    with open_partial(path, resume=False) as file:
        file.write(b"1")
        file.flush()
        assert not path.exists()
        assert partial_path(path).read_bytes() == b"1\n"
    assert path.read_bytes() == b"1\n"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_file_is_kept_and_resumed(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    with pytest.raises(Interrupted):
        written(path, b"1", b"2", fail=True)
    assert not path.exists()
    with open_partial(path, resume=True) as file:
        assert (file.lines, file.last_line) == (2, b"2")
        file.write(b"3")
        assert file.lines == 3
    assert path.read_bytes() == b"1\n2\n3\n"


def test_an_empty_incomplete_file_is_removed(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        written(tmp_path / "x.jsonl", fail=True)
    assert list(tmp_path.iterdir()) == []


def test_without_resume_the_file_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    with pytest.raises(Interrupted):
        written(path, b"1", b"2", fail=True)
    written(path, b"other")
    assert path.read_bytes() == b"other\n"


@given(st.lists(st.binary(max_size=20).filter(lambda line: b"\n" not in line)), st.binary())
def test_an_incomplete_last_line_is_removed(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], cut: bytes
) -> None:
    cut = cut.replace(b"\n", b"")
    path = tmp_path_factory.mktemp("cut") / "x.jsonl"
    partial_path(path).write_bytes(b"".join(line + b"\n" for line in lines) + cut)
    with open_partial(path, resume=True) as file:
        assert file.lines == len(lines)
        assert file.last_line == (lines[-1] if lines else b"")
        file.write(b"next")
    assert path.read_bytes() == b"".join(line + b"\n" for line in [*lines, b"next"])


def test_a_second_writer_of_the_same_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    with open_partial(path, resume=False) as file:
        file.write(b"1")
        for resume in (True, False):
            with pytest.raises(CommandError, match=r"x\.jsonl\.part is being written by another"):
                written(path, b"2", resume=resume)
    assert path.read_bytes() == b"1\n"
