"""The gateway's own keys: who is whom, who is refused, and who may administer."""

from __future__ import annotations

import pytest

from app.api.auth import DEFAULT_TENANT, Authenticator, digest
from app.domain.access import Access, Key
from app.errors import Forbidden, StoreError, Unauthenticated

KEYS = [
    Key(digest("one"), Access("1", "acme")),
    Key(digest("two"), Access("2", "other", admin=True)),
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
    return Authenticator(KEYS, required=True, wall_clock=clock)


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


class Source:
    """A store of keys that a test changes."""

    def __init__(self, *keys: Key) -> None:
        self.keys, self.changed, self.broken = list(keys), True, False

    def moved(self) -> bool:
        changed, self.changed = self.changed, False
        return changed

    def read(self) -> list[Key]:
        if self.broken:
            raise StoreError("damaged")
        return self.keys


def test_a_stored_key_that_is_revoked_is_refused_by_the_next_request():
    """Also where keys are optional: it does not turn into a stranger."""
    good = Key(digest("three"), Access("3", "acme"))
    source = Source(good)
    auth = Authenticator([], required=False, source=source)
    assert auth.caller(None, b"three").tenant == "acme"
    source.keys, source.changed = [Key(good.digest, Access("3", "acme", revoked=True))], True
    with pytest.raises(Unauthenticated) as caught:
        auth.caller(None, b"three")
    assert caught.value.code == "revoked_api_key"
    source.keys, source.changed = [], True
    assert auth.caller(None, b"three").tenant == DEFAULT_TENANT


def test_a_key_is_refused_from_the_instant_of_its_end(clock):
    access = Access("3", "acme", expires_unix_s=clock.now_s + 10)
    auth = Authenticator([Key(digest("three"), access)], required=True, wall_clock=clock)
    assert auth.caller(None, b"three").tenant == "acme"
    clock.now_s += 10
    with pytest.raises(Unauthenticated) as caught:
        auth.caller(None, b"three")
    assert caught.value.code == "expired_api_key"


def test_keys_that_cannot_be_read_open_nothing_and_are_told():
    told: list[str | None] = []
    source = Source(Key(digest("three"), Access("3", "acme", admin=True)))
    auth = Authenticator([], required=False, source=source, on_source=told.append)
    assert auth.caller(None, b"three").tenant == "acme"
    source.broken = source.changed = True
    stranger = auth.caller(None, b"three")
    assert stranger.tenant == DEFAULT_TENANT
    with pytest.raises(Unauthenticated):
        auth.admin(stranger)
    assert told == [None, "damaged"]


def test_admin_rights_are_asked_for_as_soon_as_any_key_exists():
    open_house = Authenticator([], required=False)
    assert open_house.admin(open_house.caller(None, None)).tenant == DEFAULT_TENANT
    auth = Authenticator(KEYS, required=False)
    with pytest.raises(Unauthenticated):
        auth.admin(auth.caller(None, None))
    with pytest.raises(Forbidden):
        auth.admin(auth.caller(None, b"one"))
    assert auth.admin(auth.caller(None, b"two")).tenant == "other"
    source = Source()
    stored = Authenticator([], required=False, source=source)
    assert stored.admin(stored.caller(None, None)).tenant == DEFAULT_TENANT
    source.keys, source.changed = [KEYS[0]], True
    with pytest.raises(Unauthenticated):
        stored.admin(stored.caller(None, None))
