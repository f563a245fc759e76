"""Keys on disk: shown once, kept as a digest, and changed for every reader at once."""

from __future__ import annotations

import json
import stat
import threading
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from app.cli import main
from app.domain.access import Access, Limits
from app.errors import StoreError
from app.stores.key_file import KeyFile


class Clock:
    """Unix seconds that pass when the test says so."""

    now_s = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keys(tmp_path: Path, clock: Clock) -> KeyFile:
    return KeyFile(tmp_path / "keys", clock)


ACCESS = Access(
    "",
    "acme",
    "laptop",
    models=frozenset({"auto", "small"}),
    tools=frozenset(),
    agents=None,
    admin=True,
    limits=Limits(60, None, 4, 1.5, None),
)


def test_a_key_is_shown_once_and_kept_as_its_digest(keys: KeyFile, tmp_path: Path):
    key, access = keys.create(ACCESS)
    secret = key.removeprefix(f"slip_{access.id}_")  # which may hold an underscore itself
    assert 40 <= len(secret) < len(key)
    [kept] = keys.read()
    assert kept.digest == sha256(key.encode()).digest()
    assert kept.access == replace(ACCESS, id=access.id)
    for file in (tmp_path / "keys").iterdir():
        assert key.encode() not in file.read_bytes()
        assert secret.encode() not in file.read_bytes()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700


def test_every_reader_sees_a_change_at_its_next_look(keys: KeyFile, tmp_path: Path, clock: Clock):
    """Readers are other processes, which share the mapped counter."""
    others = [KeyFile(tmp_path / "keys", clock) for _ in range(3)]
    assert [other.moved() for other in others] == [True] * 3
    assert [other.moved() for other in others] == [False] * 3
    _, access = keys.create(ACCESS)
    for other in others:
        assert other.moved()
        assert [key.access.id for key in other.read()] == [access.id]
        assert not other.moved()
    keys.revoke(access.id)
    for other in others:
        assert other.moved()
        assert other.read()[0].access.revoked


def test_a_rotated_key_has_its_rights_and_the_old_one_ends_after_the_overlap(keys, clock):
    key, access = keys.create(ACCESS)
    second, rotated = keys.rotate(access.id, 3600)
    assert second != key
    assert replace(rotated, id=access.id, family="") == access
    third, again = keys.rotate(rotated.id, 0)
    assert again.family == rotated.family == access.id
    ends = {each.access.id: each.access.expires_unix_s for each in keys.read()}
    assert ends == {access.id: clock.now_s + 3600, rotated.id: clock.now_s, again.id: None}
    assert len({key, second, third}) == 3


def test_a_rotation_never_lengthens_a_keys_life(keys, clock):
    _, access = keys.create(replace(ACCESS, expires_unix_s=clock.now_s + 60))
    _, rotated = keys.rotate(access.id, 3600)
    assert rotated.expires_unix_s == clock.now_s + 60
    assert keys.read()[0].access.expires_unix_s == clock.now_s + 60


def test_a_revoked_key_cannot_be_rotated_into_a_good_one(keys):
    _, access = keys.create(ACCESS)
    keys.revoke(access.id)
    with pytest.raises(StoreError):
        keys.rotate(access.id, 0)
    with pytest.raises(StoreError):
        keys.revoke("nobody")


def test_a_damaged_file_is_told_and_not_overwritten(keys, tmp_path):
    keys.create(ACCESS)
    path = tmp_path / "keys" / "keys.json"
    for damage in (b"{", b"[]", b'{"version":1,"keys":[{"id":1}]}', b"\xff"):
        path.write_bytes(damage)
        with pytest.raises(StoreError):
            keys.read()
        with pytest.raises(StoreError):
            keys.create(ACCESS)
        assert path.read_bytes() == damage


def test_keys_that_are_made_at_the_same_time_are_all_kept(keys, tmp_path, clock):
    writers = [KeyFile(tmp_path / "keys", clock) for _ in range(4)]
    threads = [
        threading.Thread(target=lambda file=file: [file.create(ACCESS) for _ in range(5)])
        for file in writers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({key.access.id for key in keys.read()}) == 20


def test_the_command_makes_lists_rotates_and_revokes(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLIPSTREAM_STATE__DATA_DIR", str(tmp_path / "var"))
    rights = ["--models", "auto,small", "--admin", "--expires", "90d", "--usd-per-day", "2.5"]
    assert main(["keys", "new", "--tenant", "acme", *rights]) == 0
    key = capsys.readouterr().out.splitlines()[0]
    key_id = key.split("_")[1]
    assert main(["keys", "list"]) == 0
    listed = capsys.readouterr().out
    assert key not in listed
    for said in (key_id, "acme", "good", "admin", "models=auto,small", "usd_per_day=2.5"):
        assert said in listed
    assert main(["keys", "rotate", key_id, "--overlap", "0s"]) == 0
    assert capsys.readouterr().out.startswith("slip_")
    assert main(["keys", "revoke", key_id]) == 0
    assert main(["keys", "list"]) == 0
    assert "revoked" in capsys.readouterr().out
    assert main(["keys", "revoke", "nobody"]) == 1
    assert "keys list" in capsys.readouterr().err
    stored = json.loads((tmp_path / "var" / "keys" / "keys.json").read_bytes())
    assert len(stored["keys"]) == 2


@pytest.mark.parametrize("wrong", [["--expires", "soon"], ["--usd-per-day", "-1"], ["--tenant"]])
def test_wrong_options_are_refused(wrong, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["keys", "new", *wrong])
    assert caught.value.code == 2
    capsys.readouterr()
