"""The prompt cache's rules, on a clock that the test turns."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.providers.simulator.prompt_cache import (
    FIVE_MINUTES_S,
    ONE_HOUR_S,
    CacheRules,
    Mark,
    PromptBlock,
    PromptCache,
)


class Clock:
    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def cache(clock):
    return PromptCache(clock)


def row(*names, tokens=1_000):
    return [PromptBlock(name.encode(), tokens) for name in names]


def rules(*positions, ttl_s=FIVE_MINUTES_S, minimum=1_000, look_back=20):
    return CacheRules([Mark(p, ttl_s) for p in positions], minimum, look_back)


def ask(cache, blocks, how, scope="a"):
    use = cache.look_up(scope, blocks, how)
    cache.commit(use)
    return use.read_tokens, use.all_written_tokens, use.uncached_tokens


def test_the_first_request_writes_and_the_second_reads(cache):
    assert ask(cache, row("s", "q1"), rules(0)) == (0, 1_000, 1_000)
    assert ask(cache, row("s", "q2"), rules(0)) == (1_000, 0, 1_000)


def test_nothing_is_readable_before_the_commit(cache):
    first = cache.look_up("a", row("s"), rules(0))
    assert cache.look_up("a", row("s"), rules(0)).read_tokens == 0
    cache.commit(first)
    assert cache.look_up("a", row("s"), rules(0)).read_tokens == 1_000


def test_without_a_mark_nothing_is_cached(cache):
    assert ask(cache, row("s", "q"), rules()) == (0, 0, 2_000)
    assert len(cache) == 0


def test_a_prefix_below_the_minimum_is_silently_not_cached(cache):
    short = row("s", tokens=999)
    assert ask(cache, short, rules(0)) == (0, 0, 999)
    assert ask(cache, short, rules(0)) == (0, 0, 999)


def test_a_changed_block_loses_all_behind_it(cache):
    ask(cache, row("t", "s", "m"), rules(0, 1, 2))
    assert ask(cache, row("t", "X", "m"), rules(0, 1, 2)) == (1_000, 2_000, 0)


def test_an_entry_dies_at_its_lifetime_unless_it_is_read(cache, clock):
    ask(cache, row("s"), rules(0))
    clock.now_s = 299
    assert ask(cache, row("s"), rules(0))[0] == 1_000
    clock.now_s = 299 + 299
    assert ask(cache, row("s"), rules(0))[0] == 1_000
    clock.now_s += 300
    assert ask(cache, row("s"), rules(0)) == (0, 1_000, 0)


def test_an_hour_outlives_five_minutes_and_is_billed_apart(cache, clock):
    blocks = row("s", "m")
    marks = CacheRules([Mark(0, ONE_HOUR_S), Mark(1, FIVE_MINUTES_S)], 1_000, 20)
    use = cache.look_up("a", blocks, marks)
    assert use.written_tokens == {ONE_HOUR_S: 1_000, FIVE_MINUTES_S: 1_000}
    cache.commit(use)
    clock.now_s = 1_800
    assert ask(cache, blocks, marks) == (1_000, 1_000, 0)


def test_look_back_finds_an_earlier_write_within_twenty_positions(cache):
    names = [f"b{i}" for i in range(40)]
    ask(cache, row(*names[:10]), rules(9))
    # The mark at 28 sees positions 28 down to 9; the one at 29 no longer does.
    assert ask(PromptCacheCopy(cache), row(*names[:29]), rules(28))[0] == 10_000
    assert ask(PromptCacheCopy(cache), row(*names[:30]), rules(29))[0] == 0
    assert ask(PromptCacheCopy(cache), row(*names[:30]), rules(9, 29))[0] == 10_000
    assert ask(PromptCacheCopy(cache), row(*names), rules(39, look_back=None))[0] == 10_000


class PromptCacheCopy:
    """Looks, and leaves the cache as it was."""

    def __init__(self, cache):
        self.look_up = cache.look_up

    def commit(self, use):
        pass


def test_scopes_do_not_share(cache):
    ask(cache, row("s"), rules(0), scope="tenant a")
    assert ask(cache, row("s"), rules(0), scope="tenant b") == (0, 1_000, 0)


def test_the_oldest_unread_entries_go_first(clock):
    cache = PromptCache(clock, max_entries=2)
    ask(cache, row("a"), rules(0))
    ask(cache, row("b"), rules(0))
    ask(cache, row("a"), rules(0))
    ask(cache, row("c"), rules(0))
    assert ask(cache, row("a"), rules(0))[0] == 1_000
    assert ask(cache, row("b"), rules(0))[0] == 0


NAMES = st.lists(st.sampled_from("abcd"), min_size=1, max_size=8)


@given(
    st.lists(
        st.tuples(NAMES, st.sets(st.integers(0, 7), max_size=4), st.integers(0, 400)), max_size=12
    )
)
def test_the_parts_always_make_the_whole_and_reads_were_written(requests):
    clock = Clock()
    cache = PromptCache(clock)
    written = set()
    for names, positions, pause_s in requests:
        clock.now_s += pause_s
        blocks = row(*names, tokens=600)
        marks = rules(*sorted(p for p in positions if p < len(names)))
        use = cache.look_up("a", blocks, marks)
        assert use.total_tokens == 600 * len(names)
        assert min(use.read_tokens, use.uncached_tokens, use.all_written_tokens) >= 0
        read = tuple(names[: use.read_tokens // 600])
        assert not read or read in written
        cache.commit(use)
        written |= {tuple(names[: m.position + 1]) for m in marks.marks}


@given(NAMES, st.sets(st.integers(0, 7), min_size=1, max_size=4))
def test_asking_again_at_once_reads_all_that_was_cached(names, positions):
    cache = PromptCache(Clock())
    marks = rules(*sorted({min(p, len(names) - 1) for p in positions}))
    blocks = row(*names)
    first = cache.look_up("a", blocks, marks)
    cache.commit(first)
    again = cache.look_up("a", blocks, marks)
    assert again.read_tokens == first.all_written_tokens
    assert again.all_written_tokens == 0
    assert again.uncached_tokens == first.uncached_tokens
