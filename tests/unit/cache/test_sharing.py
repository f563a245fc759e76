"""The rules of sharing: who is shown whose answer, and how much one user may put before the others."""

from __future__ import annotations

import asyncio
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cache.admission import refuses
from app.cache.sharing import EVERYBODY, Sharing, asker_hash

KEY = b"k" * 32


def sharing(**more: object) -> Sharing:
    return Sharing(**{"share_users": True, "rng": Random(1), **more})


@given(
    least=st.integers(1, 5),
    asked=st.lists(st.sampled_from(["ann", "bob", "cid", "dan", "eve", ""]), max_size=12),
)
def test_nobody_is_shown_anothers_answer_before_enough_users_had_their_own(least, asked):
    rules, had, owner = sharing(least_askers=least), set(), None
    for user in asked:
        admitted = rules.admits(KEY, user)
        assert admitted == (least <= 1 or owner == user or len(had) >= least)
        if not admitted:
            rules.record_answer(KEY, user)
            had.add(user)
            owner = user


def test_what_is_forgotten_makes_a_miss():
    rules = sharing(least_askers=2, most_entries=2)
    for user in ("ann", "bob"):
        rules.record_answer(KEY, user)
    assert rules.admits(KEY, "cid")
    for other in (b"a", b"b"):
        rules.record_answer(other, "ann")
    assert not rules.admits(KEY, "cid")


def test_what_the_operator_gave_is_for_everybody():
    rules = sharing(least_askers=9)
    assert not rules.admits(KEY, "ann")
    rules.admit_everybody(KEY)
    assert rules.admits(KEY, "ann")
    assert rules.admits_entry(asker_hash("ann"), (EVERYBODY,), ())


def test_users_with_agreeing_answers_vouch_for_each_others_wordings():
    rules = sharing(least_askers=2)
    ann, bob, cid = map(asker_hash, ("ann", "bob", "cid"))
    assert not rules.admits_entry(cid, (ann,), (ann, ann))
    assert rules.admits_entry(cid, (ann,), (ann, bob))
    assert rules.admits_entry(ann, (ann,), (ann,)), "one's own answer is one's own"


def test_one_user_fills_no_more_than_its_share():
    now = [0.0]
    rules = sharing(most_of_one_user=0.05, clock=lambda: now[0])
    kept = sum(rules.admit_write("t", "mallory") for _ in range(100))
    assert kept == 10
    assert rules.admit_write("t", "ann")
    assert rules.admit_write("other tenant", "mallory")
    now[0] = 3_601.0
    assert rules.admit_write("t", "mallory"), "an hour later there is room again"


@pytest.mark.anyio
async def test_a_hit_waits_a_random_time_within_the_jitter():
    waited = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    rules = Sharing(share_users=False, hit_jitter_s=0.02, rng=Random(3), sleep=sleep)
    for _ in range(50):
        await rules.jitter()
    assert 0 <= min(waited) < 0.005
    assert 0.015 < max(waited) <= 0.02
    await asyncio.sleep(0)
    none = Sharing(share_users=True, rng=Random(3), sleep=sleep)
    await none.jitter()
    assert len(waited) == 50


@pytest.mark.parametrize(
    ("text", "declines"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("I\u2019m unable to answer this.", True),
        ("As an AI, I do not have opinions.", True),
        ("Unfortunately, I do not know today's weather.", True),
        ("Paris is the capital of France.", False),
        ("A sorry sight is a thing that makes one sad.", False),
        ("You cannot divide by zero: the quotient is not defined.", False),
    ],
)
def test_an_answer_that_declines_is_known_by_its_opening(text, declines):
    assert refuses(text) is declines


def test_what_the_operator_gave_takes_up_no_more_room_than_what_users_had():
    rules = sharing(least_askers=2, most_entries=2)
    for key in (b"a", b"b", b"c"):
        rules.admit_everybody(key)
    assert [rules.admits(key, "ann") for key in (b"a", b"b", b"c")] == [False, True, True]
