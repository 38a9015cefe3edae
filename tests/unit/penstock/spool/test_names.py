"""The names of chunks, and the spools that a record may name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import ConfigurationError
from penstock.settings import ClientSettings
from penstock.spool.names import is_chunk_name, is_chunk_suffix, permitted_spool

GIVEN = ["requests-0", "ids-12-1764537283000", "results-3-17", "failed-0-1-split", "ids-0-1-shared"]


@pytest.mark.parametrize("name", GIVEN)
def test_every_name_of_chunks_that_a_step_gives_is_valid(name: str) -> None:
    assert is_chunk_name(name)
    assert is_chunk_suffix(name.partition("-")[2])


@given(st.sampled_from(GIVEN), st.text(min_size=1, max_size=4), st.integers(0, 20))
def test_a_chunk_name_has_no_character_that_a_path_or_a_key_interprets(
    name: str, inserted: str, at: int
) -> None:
    changed = name[:at] + inserted + name[at:]
    if is_chunk_name(changed):
        assert set(changed) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
        assert len(changed) <= 64


@pytest.mark.parametrize(
    "name",
    [
        "",
        "requests-",
        "requests-..",
        "requests-0/..",
        "requests-0\n",
        "results-0\0",
        "ids-٣",
        "other-0",
        "requests-0-1-../x",
        "requests-" + "1" * 19,
        "requests-0-1-split-2",
        "/etc",
    ],
)
def test_other_names_of_chunks_are_refused(name: str) -> None:
    assert not is_chunk_name(name)


def test_a_record_may_name_the_spools_of_the_settings_and_no_other() -> None:
    settings = ClientSettings(spool_url="s3://b/new", former_spool_urls=("file:///srv/old/",))
    assert permitted_spool("", settings) == ""
    assert permitted_spool("s3://b/new/", settings) == "s3://b/new"
    assert permitted_spool("file:///srv/old", settings) == "file:///srv/old/"
    for other in (
        "s3://b",
        "s3://b/newer",
        "file:///srv/old/../x",
        "http://127.0.0.1/",
        "S3://B/new",
    ):
        with pytest.raises(ConfigurationError, match="PENSTOCK_FORMER_SPOOL_URLS"):
            permitted_spool(other, settings)


def test_a_long_address_in_a_record_is_cut_in_the_message() -> None:
    with pytest.raises(ConfigurationError) as caught:
        permitted_spool("s3://" + "x" * 10_000 + "\n", ClientSettings())
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)
