"""Which invalidations an entry has outlived."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from app.cache.barriers import Barriers
from app.domain.invalidation import InvalidationFilter

names = st.sampled_from(["", "a", "b"])
some = st.lists(st.sampled_from(["a", "b", "c"]), max_size=2).map(tuple)
forgets = st.builds(
    InvalidationFilter,
    tenant=st.sampled_from(["t", "u"]),
    model=names,
    tags=some,
    entry_id=st.sampled_from(["", "", "", "e1", "e2"]),
)
entries = st.tuples(
    st.integers(0, 12), st.sampled_from(["t", "u"]), st.sampled_from(["a", "b"]), some,
    st.sampled_from(["e1", "e2"]),
)  # fmt: skip


def matches(what: InvalidationFilter, entry: tuple[int, str, str, tuple[str, ...], str]) -> bool:
    """What an invalidation means, spelt out."""
    _, tenant, model, tags, entry_id = entry
    if what.tenant != tenant:
        return False
    if what.entry_id:
        return what.entry_id == entry_id
    return what.model in {"", model} and (not what.tags or bool({*what.tags} & {*tags}))


@given(st.lists(forgets, max_size=12), entries)
def test_an_entry_is_held_back_by_each_later_invalidation_that_matches(said, entry):
    barriers = Barriers()
    for number, what in enumerate(said, 1):
        barriers.add(what, number)
    wanted = any(n > entry[0] and matches(what, entry) for n, what in enumerate(said, 1))
    assert barriers.blocks(*entry) == wanted


@given(st.lists(forgets, max_size=12), entries, st.integers(1, 3))
def test_a_full_table_holds_back_more_but_never_less(said, entry, most):
    small, large = Barriers(most=most), Barriers()
    for number, what in enumerate(said, 1):
        small.add(what, number)
        large.add(what, number)
    assert small.blocks(*entry) or not large.blocks(*entry)


def test_after_a_gap_everything_from_before_is_held_back():
    barriers = Barriers()
    barriers.clear(5)
    assert barriers.blocks(4, "t", "a", (), "e1")
    assert not barriers.blocks(5, "t", "a", (), "e1")
