"""The gateway's own keys: who is whom, who is refused, and how fast a key may ask."""

from __future__ import annotations

import pytest

from app.api.auth import DEFAULT_TENANT, Authenticator, Key, digest
from app.errors import RateLimited, Unauthenticated

KEYS = [
    Key(digest("one"), "acme"),
    Key(digest("two"), "other", requests_per_minute=60),
]


class Clock:
    """Seconds that pass when the test says so."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def required(clock: Clock) -> Authenticator:
    return Authenticator(KEYS, required=True, clock=clock)


@pytest.mark.parametrize(
    ("authorization", "api_key"),
    [(b"Bearer one", None), (b"bearer one", None), (b"BEARER  one ", None), (None, b"one")],
)
def test_a_key_is_known_in_either_header(required, authorization, api_key):
    assert required.caller(authorization, api_key).tenant == "acme"
    assert required.caller(authorization, api_key).tenant == "acme"


@pytest.mark.parametrize(
    ("authorization", "api_key", "code"),
    [
        (None, None, "missing_api_key"),
        (b"", b"", "missing_api_key"),
        (b"Basic one", None, "missing_api_key"),
        (b"Bearer ", None, "missing_api_key"),
        (b"Bearer One", None, "invalid_api_key"),
        (None, b"one ", "invalid_api_key"),
        (b"Bearer \xff\x00", None, "invalid_api_key"),
        (b"Bearer one", b"wrong", "invalid_api_key"),
    ],
)
def test_a_stranger_is_refused_where_keys_are_required(required, authorization, api_key, code):
    with pytest.raises(Unauthenticated) as caught:
        required.caller(authorization, api_key)
    assert caught.value.status == 401
    assert caught.value.code == code
    assert "wrong" not in caught.value.message


def test_where_keys_are_optional_a_known_one_still_decides_the_tenant():
    """And any other is ignored: the vendors' clients always send something."""
    optional = Authenticator(KEYS, required=False)
    assert optional.caller(b"Bearer one", None).tenant == "acme"
    assert optional.caller(b"Bearer sk-vendor", None).tenant == DEFAULT_TENANT
    assert optional.caller(None, None).tenant == DEFAULT_TENANT
    assert Authenticator([], required=False).caller(b"Bearer x", b"y").tenant == DEFAULT_TENANT


def test_a_limit_lets_a_burst_through_and_then_one_a_second(required, clock):
    for _ in range(60):
        required.caller(None, b"two")
    with pytest.raises(RateLimited) as caught:
        required.caller(None, b"two")
    assert caught.value.status == 429
    assert caught.value.retry_after_s == pytest.approx(1.0)
    clock.now_s += 1.0
    required.caller(None, b"two")
    with pytest.raises(RateLimited):
        required.caller(None, b"two")
    clock.now_s += 3600
    for _ in range(60):
        required.caller(None, b"two")
    with pytest.raises(RateLimited):
        required.caller(None, b"two")


def test_a_limit_is_one_keys_own(required):
    for _ in range(60):
        required.caller(None, b"two")
    for _ in range(200):
        required.caller(None, b"one")
