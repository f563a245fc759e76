"""The exact cache in process: bounded in bytes and in time, forgetting what it is told to forget."""

from __future__ import annotations

import pytest

from app.cache.exact import CachedAnswer, ExactCache
from app.domain.chat import Dialect


class Clock:
    """Seconds that pass when the test says so."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cache(clock: Clock) -> ExactCache:
    return ExactCache(ttl_s=60, max_bytes=80_000, clock=clock)


def key_of(name: str) -> bytes:
    """A key as long as real ones."""
    return name.encode().ljust(32, b"\0")


def entry(
    name: str, size: int = 1000, *, tenant: str = "a", model: str = "m", tags: tuple[str, ...] = ()
) -> CachedAnswer:
    """An answer of ``size`` bytes."""
    return CachedAnswer(
        key=key_of(name),
        dialect=Dialect.CHAT,
        streamed=False,
        usage_shown=False,
        pieces=(b"x" * size,),
        model=model,
        tier="fast",
        tenant=tenant,
        stored_at_s=0.0,
        expires_at_s=0.0,
        request_id="r",
        tags=tags,
    )


def put(cache: ExactCache, name: str, size: int = 1000, **more) -> None:
    cache.put(key_of(name), entry(name, size, **more))


def test_what_was_put_is_found_by_key_and_by_id_until_its_time_is_over(cache, clock):
    put(cache, "one")
    assert cache.get(key_of("one")) is cache.by_id(key_of("one")[:16].hex())
    assert cache.get(key_of("two")) is None
    clock.now_s = 59.9
    assert cache.get(key_of("one")) is not None
    clock.now_s = 60.0
    assert cache.get(key_of("one")) is None
    assert (len(cache), cache.size_bytes) == (0, 0)


def test_the_least_recently_used_leave_first(cache):
    for number in range(40):
        put(cache, str(number))
    cache.get(key_of("0"))
    put(cache, "large", 9000)
    for number in range(100, 112):
        put(cache, str(number))
    assert cache.size_bytes <= 80_000
    assert cache.get(key_of("0")) is not None
    assert cache.get(key_of("1")) is None
    assert cache.by_id(key_of("1")[:16].hex()) is None


def test_a_replaced_entry_is_counted_once(cache):
    put(cache, "one", 5000)
    first = cache.size_bytes
    put(cache, "one", 5000)
    assert (len(cache), cache.size_bytes) == (1, first)


def test_an_entry_larger_than_an_eighth_of_the_room_is_not_kept(cache):
    put(cache, "huge", 10_000)
    assert cache.get(key_of("huge")) is None
    assert cache.size_bytes == 0


def test_a_shorter_life_counts_from_when_the_entry_was_stored(cache, clock):
    put(cache, "one")
    clock.now_s = 10
    assert cache.shorten(key_of("one"), 20)
    clock.now_s = 20
    assert cache.get(key_of("one")) is None
    put(cache, "two")
    assert not cache.shorten(key_of("two"), 0)
    assert cache.get(key_of("two")) is None
    assert not cache.shorten(key_of("none"), 10)


def test_a_shorter_life_never_lengthens_one(cache, clock):
    put(cache, "one")
    assert cache.shorten(key_of("one"), 10_000)
    clock.now_s = 60
    assert cache.get(key_of("one")) is None


def test_what_is_rendered_beside_an_entry_is_accounted_for(cache):
    put(cache, "one")
    before = cache.size_bytes
    kept = cache.by_id(key_of("one")[:16].hex())
    cache.add_bytes(kept, 500)
    assert cache.size_bytes == before + 500
    assert cache.remove(key_of("one")[:16].hex())
    assert cache.size_bytes == 0
    assert not cache.remove(key_of("one")[:16].hex())


@pytest.mark.parametrize(
    ("what", "left"),
    [
        ({"everything": True}, set()),
        ({"tenant": "a"}, {"b1"}),
        ({"tenant": "a", "model": "m"}, {"a2", "b1"}),
        ({"model": "m"}, {"a2"}),
        ({"tags": ["t"]}, {"a2", "b1"}),
        ({"tags": ["t", "u"]}, {"b1"}),
        ({"tenant": "b", "tags": ["t"]}, {"a1", "a2", "b1"}),
        ({}, {"a1", "a2", "b1"}),
    ],
    ids=str,
)
def test_an_invalidation_takes_all_that_matches_and_nothing_else(cache, what, left):
    put(cache, "a1", tenant="a", model="m", tags=("t",))
    put(cache, "a2", tenant="a", model="n", tags=("u", "v"))
    put(cache, "b1", tenant="b", model="m")
    assert cache.invalidate(**what) == 3 - len(left)
    assert {name for name in ("a1", "a2", "b1") if cache.get(key_of(name))} == left
