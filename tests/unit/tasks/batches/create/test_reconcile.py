"""Decisions about lost create calls, alone and over thousands of simulated ones."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.submits import RULES, Play, World
from penstock.batches.shard import Shard
from tasks.api.batches import UNKNOWN_REQUESTS, ListedBatch
from tasks.batches.create import reconcile
from tasks.batches.create.reconcile import (
    CLOCK_SKEW_MS,
    NO_BATCH_STATUSES,
    Abandon,
    Adopt,
    Observation,
    Owner,
    Rules,
    SearchLater,
    WrongWorkspace,
    decide,
)

SENT = 50_000_000
SHARD = Shard(
    number=3,
    state="sending",
    requests=7,
    nonce="n" * 12,
    workspace="us",
    watermark="newest",
    watermark_ms=SENT - 5_000,
    sent_ms=SENT,
)
OURS = ListedBatch("b", SENT + 100, 7)
#: From this time on, the API creates no batch of the call, whose worker died.
OVER = SENT + RULES.upload_timeout_ms + RULES.lost_create_wait_ms
#: A batch from after this time is none of the call, whatever the clocks of the API's servers.
LATEST = OVER + RULES.list_consistency_ms + CLOCK_SKEW_MS


def observation(
    *batches: ListedBatch, at: int = SENT + 5_000, workspace: str = "us", **owners: Owner
) -> Observation:
    return Observation(workspace, batches, owners, at)


def decision_for(shard: Shard = SHARD, *batches: ListedBatch, **more: Any) -> reconcile.Decision:
    return decide(shard, observation(*batches, **more), RULES)


def test_a_batch_that_fits_is_adopted() -> None:
    assert decision_for(SHARD, OURS) == Adopt((OURS,))


@pytest.mark.parametrize(
    "other",
    [
        replace(OURS, requests=8),
        replace(OURS, id="newest"),
        replace(OURS, id="not-ours"),
        replace(OURS, created_ms=SHARD.watermark_ms - CLOCK_SKEW_MS - 1),
    ],
    ids=["another size", "the watermark", "rejected before", "from before the call"],
)
def test_a_batch_that_cannot_come_from_the_call_is_not_adopted(other: ListedBatch) -> None:
    shard = SHARD.evolve(rejected=("not-ours",))
    assert isinstance(decision_for(shard, other), SearchLater)
    assert isinstance(decision_for(shard, other, at=OVER), SearchLater)
    assert decision_for(
        shard.evolve(missed_ms=OVER), other, at=OVER + RULES.list_consistency_ms
    ) == Abandon(reconcile.with_abandoned_call(shard.evolve(missed_ms=OVER), LATEST))


def test_clock_skew_within_the_api_does_not_hide_a_batch() -> None:
    early = replace(OURS, created_ms=SHARD.watermark_ms - CLOCK_SKEW_MS)
    assert decision_for(SHARD, early) == Adopt((early,))


def test_a_batch_from_after_all_waiting_is_another_programs() -> None:
    last = replace(OURS, created_ms=LATEST)
    assert decision_for(SHARD, last, at=LATEST) == Adopt((last,))
    late = replace(OURS, created_ms=LATEST + 1)
    assert isinstance(decision_for(SHARD, late, at=LATEST + 1), SearchLater)
    shard = SHARD.evolve(missed_ms=LATEST)
    assert isinstance(decision_for(shard, late, at=LATEST + RULES.list_consistency_ms), Abandon)


@pytest.mark.parametrize(
    ("ahead_ms", "believed_ms"),
    [(0, 0), (-600_000, 0), (600_000, 600_000), (3_600_000, 3_600_000), (10**9, 3_600_000)],
)
def test_a_batch_is_not_too_new_by_a_clock_of_redis_that_is_behind(
    ahead_ms: int, believed_ms: int
) -> None:
    last = replace(OURS, created_ms=LATEST + believed_ms)
    later = replace(last, created_ms=last.created_ms + 1)
    look = Observation("us", (last, later), {}, OVER, OVER + ahead_ms)
    assert decide(SHARD, look, RULES) == Adopt((last,))


def test_a_batch_is_not_too_new_if_the_list_does_not_say_when_it_was_created() -> None:
    undated = replace(OURS, created_ms=LATEST * 2, dated=False)
    assert decision_for(SHARD, undated, at=LATEST * 2) == Adopt((undated,))


def test_a_late_batch_of_an_abandoned_call_is_adopted_within_the_same_limit() -> None:
    shard = reconcile.with_abandoned_call(SHARD, LATEST)
    again = reconcile.with_intent(shard, "m" * 12, "us", [])  # its worker dies before the call
    assert again.until_ms == LATEST
    late = replace(OURS, created_ms=LATEST + 1)
    assert reconcile.candidates(shard, [OURS, late], shard.until_ms) == (OURS,)
    assert reconcile.candidates(shard, [OURS, late]) == (OURS, late)  # of an older record


def test_the_batch_that_the_shard_owns_comes_first_then_the_oldest() -> None:
    first, second, third = (replace(OURS, id=id, created_ms=SENT + n) for n, id in enumerate("xyz"))
    assert decision_for(SHARD, third, first, second) == Adopt((first, second, third))
    assert decision_for(SHARD, third, first, second, z=Owner.THIS_SHARD) == Adopt(
        (third, first, second)
    )


def test_a_batch_of_another_shard_is_not_adopted() -> None:
    assert isinstance(decision_for(SHARD, OURS, b=Owner.OTHER_SHARD), SearchLater)
    assert isinstance(decision_for(SHARD, OURS, at=OVER, b=Owner.OTHER_SHARD), SearchLater)


def test_no_call_is_abandoned_while_another_shard_may_have_adopted_its_batch() -> None:
    shard = SHARD.evolve(missed_ms=OVER)
    decision = decision_for(shard, OURS, at=OVER * 2, b=Owner.UNCONFIRMED)
    assert isinstance(decision, SearchLater)
    assert (decision.shard.missed_ms, decision.seconds) == (0, 60.0)
    assert decision_for(shard, OURS, at=OVER * 2, b=Owner.OTHER_SHARD) == Abandon(
        reconcile.with_abandoned_call(shard, LATEST)
    )


@pytest.mark.parametrize("at", [SENT, SENT + 10**6, OVER * 2])
def test_the_list_of_another_workspace_proves_nothing(at: int) -> None:
    shard = SHARD.evolve(missed_ms=1)
    assert decision_for(shard, at=at, workspace="them") == WrongWorkspace()
    assert decision_for(shard, OURS, at=at, workspace="them") == WrongWorkspace()


def test_a_call_is_abandoned_after_the_wait_and_two_searches_some_time_apart() -> None:
    assert isinstance(decision_for(SHARD, at=OVER - 1), SearchLater)
    first = decision_for(SHARD, at=OVER)
    assert isinstance(first, SearchLater)
    assert first.shard.missed_ms == OVER
    second = decision_for(first.shard, at=OVER + RULES.list_consistency_ms - 1)
    assert isinstance(second, SearchLater)
    assert second.shard.missed_ms == OVER
    assert isinstance(decision_for(second.shard, at=OVER + RULES.list_consistency_ms), Abandon)


def test_a_call_that_is_known_to_be_over_is_abandoned_earlier() -> None:
    shard = SHARD.evolve(over_ms=SENT + 1_000)
    at = SENT + 1_000 + RULES.lost_create_wait_ms
    assert decision_for(shard, at=at - 1).shard.missed_ms == 0  # type: ignore[union-attr]
    assert decision_for(shard, at=at).shard.missed_ms == at  # type: ignore[union-attr]


def test_an_empty_search_before_the_end_of_the_wait_does_not_count() -> None:
    decision = decision_for(SHARD.evolve(missed_ms=SENT), at=OVER - 1)
    assert isinstance(decision, SearchLater)
    assert decision.shard.missed_ms == 0


@pytest.mark.parametrize(
    ("at", "seconds"),
    [
        (SENT, 5.0),
        (SENT + 100_000, 15.0),
        (SENT + 1_000_000, 60.0),
        (OVER - 500, 0.5),
        (OVER, 60.0),
    ],
)
def test_the_interval_of_searches_grows_and_ends_with_the_wait(at: int, seconds: float) -> None:
    decision = decision_for(SHARD, at=at)
    assert isinstance(decision, SearchLater)
    assert decision.seconds == seconds


def test_a_shard_with_an_abandoned_call_is_planned_again_and_keeps_its_watermark() -> None:
    shard = reconcile.with_abandoned_call(
        SHARD.evolve(over_ms=1, missed_ms=2, abandoned_nonces=("first",)), LATEST
    )
    assert (shard.state, shard.abandoned_nonces) == ("planned", ("first", SHARD.nonce))
    assert (shard.sent_ms, shard.over_ms, shard.missed_ms) == (0, 0, 0)
    assert reconcile.candidates(shard, [OURS]) == (OURS,)


def test_a_rejected_batch_is_not_a_candidate_again() -> None:
    shard = reconcile.with_rejected_batch(reconcile.with_batch(SHARD, OURS, confirmed=False))
    assert (shard.state, shard.batch_id, shard.created_ms) == ("sending", "", 0)
    assert shard.sent_ms == SENT
    assert reconcile.candidates(shard, [OURS]) == ()


def test_the_intent_has_what_identifies_the_batch() -> None:
    old = SHARD.evolve(state="planned", sent_ms=1, over_ms=1, missed_ms=1)
    batches = [ListedBatch("old", 5, 1), ListedBatch("new", 9, 1)]
    shard = reconcile.with_intent(old, "m" * 12, "us", batches)
    assert (shard.state, shard.nonce, shard.workspace) == ("sending", "m" * 12, "us")
    assert (shard.watermark, shard.watermark_ms) == ("new", 9)
    assert (shard.sent_ms, shard.over_ms, shard.missed_ms) == (0, 0, 0)
    assert reconcile.with_intent(old, "m" * 12, "us", []).watermark_ms == 0


@pytest.mark.parametrize(
    ("other", "owner"),
    [
        (None, Owner.OTHER_SHARD),
        (Shard(number=1, batch_id="b", confirmed=True), Owner.OTHER_SHARD),
        (Shard(number=1, batch_id="b"), Owner.UNCONFIRMED),
        (Shard(number=1), Owner.UNCONFIRMED),
        (Shard(number=1, rejected=("b",)), Owner.NONE),
        (Shard(number=1, batch_id="other"), Owner.NONE),
    ],
    ids=["expired", "confirmed", "adopted", "being adopted", "rejected", "has another"],
)
def test_the_owner_of_a_batch_is_read_from_its_record(other: Shard | None, owner: Owner) -> None:
    assert reconcile.owner_from_record(other, "b") is owner


def test_only_a_response_that_rules_a_batch_out_ends_the_search_for_one() -> None:
    """A timeout, a conflict or an error of a server or proxy may come after the batch was made."""
    certain = {400, 401, 402, 403, 404, 405, 407, 411, 413, 414, 415, 422, 429, 431, 451}
    assert {status for status in range(400, 600) if status in NO_BATCH_STATUSES} == certain


def test_a_batch_whose_number_of_requests_the_list_does_not_say_may_be_the_one() -> None:
    batch = replace(OURS, requests=UNKNOWN_REQUESTS)
    assert decision_for(SHARD, batch) == Adopt((batch,))


def test_a_batch_is_not_older_than_the_call_that_named_it() -> None:
    batch = replace(OURS, created_ms=0)
    named = reconcile.with_batch(SHARD, batch, confirmed=True)
    assert named.created_ms == SHARD.sent_ms - CLOCK_SKEW_MS


def test_a_batch_that_was_adopted_is_recorded_without_traces_of_the_search() -> None:
    searching = SHARD.evolve(missed_ms=9, failures=2)
    shard = reconcile.with_batch(searching, OURS, confirmed=True)
    assert (shard.state, shard.batch_id, shard.created_ms) == ("in_progress", "b", SENT + 100)
    assert (shard.confirmed, shard.missed_ms, shard.failures) == (True, 0, 0)
    again = reconcile.without_batch(shard.evolve(ended_ms=5, refetches=3))
    assert (again.state, again.batch_id, again.confirmed) == ("sending", "", False)
    assert (again.created_ms, again.ended_ms, again.missed_ms, again.refetches) == (0, 0, 0, 0)
    assert (again.sent_ms, again.nonce, again.rejected) == (SENT, SHARD.nonce, ())


def test_a_batch_of_an_earlier_call_makes_the_later_call_the_abandoned_one() -> None:
    shard = SHARD.evolve(abandoned_nonces=("first", "second"))
    changed = reconcile.with_earlier_call(shard, "first")
    assert (changed.nonce, changed.abandoned_nonces) == ("first", ("second", SHARD.nonce))


def test_a_call_that_created_no_batch_leaves_the_shard_planned() -> None:
    shard = reconcile.without_call(SHARD.evolve(over_ms=1, missed_ms=2))
    assert (shard.state, shard.sent_ms, shard.over_ms, shard.missed_ms) == ("planned", 0, 0, 0)
    assert (shard.nonce, shard.abandoned_nonces) == (SHARD.nonce, ())


def flaws(figures: dict[str, Any]) -> list[int]:
    return [figures[name] for name in ("paid_twice", "never_collected", "wrongly_used")]


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    ambiguous=st.floats(0.3, 0.6),
    committed=st.floats(0, 1),
    late=st.floats(0, 1),
    died=st.floats(0, 1),
    foreign_per_hour=st.sampled_from([60.0, 600.0]),
    api_ahead_ms=st.sampled_from([-60_000, 0, 60_000, 600_000]),
)
def test_every_search_ends_while_another_program_creates_batches_of_the_same_size(
    **world: Any,
) -> None:
    """The batches of a call's own time are each read once; later ones are none of its own."""
    calls = 5
    play = Play(World(submits=calls, sizes=1, endless=True, every_ms=60_000, torn=0.1, **world))
    figures = play.run()
    assert flaws(figures) == [0, 0, 0]
    tries = sum(1 + len(shard.abandoned_nonces) for shard in play.records.values())
    per_try = world["foreign_per_hour"] * (OVER - SENT + 300_000) / 3_600_000
    # A batch that was adopted before it ended is read as well, and adopted ones are few.
    assert figures["read"] + figures["taken_and_given_back"] < tries * (2 * per_try + 20)
    assert figures["searches"] < tries * 60


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    every_ms=st.sampled_from([500, 5_000, 60_000]),
    ambiguous=st.floats(0, 0.5),
    committed=st.floats(0, 1),
    late=st.floats(0, 1),
    died=st.floats(0, 1),
    foreign_per_hour=st.sampled_from([0.0, 20.0, 200.0]),
    sizes=st.sampled_from([1, 7, 512]),
)
def test_no_batch_is_paid_twice_lost_or_confused_whatever_happens(**world: Any) -> None:
    figures = Play(World(submits=25, torn=0.3, early_death=0.1, **world)).run()
    assert flaws(figures) == [0, 0, 0]


def test_thousands_of_shards_are_each_paid_once() -> None:
    figures = Play(World(submits=1_500, ambiguous=0.2, sizes=128, seed=4)).run()
    assert figures["ambiguous"] > 200
    assert figures["taken_and_given_back"] > 10
    assert flaws(figures) == [0, 0, 0]


def test_the_simulated_world_shows_duplicates_without_these_rules() -> None:
    world = World(submits=1_000, ambiguous=0.2, sizes=32, seed=4)
    assert flaws(Play(replace(world, resend=True)).run())[0] > 30
    hasty = Rules(upload_timeout_ms=600_000, lost_create_wait_ms=1, list_consistency_ms=60_000)
    assert flaws(Play(replace(world, rules=hasty, honest=RULES)).run())[0] > 5


def test_a_404_before_a_batch_was_created_does_not_count_for_the_batch() -> None:
    """Otherwise the first 404 of its poll would be believed."""
    found = reconcile.with_batch(SHARD.evolve(not_found_ms=1), OURS, confirmed=True)
    assert found.not_found_ms == 0
