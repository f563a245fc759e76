"""The gateway's own API keys in a file under ``data_dir``; every worker sees a change at once.

A key is 32 random bytes, shown once and stored as its SHA-256. A slow password hash would add nothing: it
guards secrets that can be guessed, and 256 bits of entropy cannot, while every request, a stranger's too,
would pay for it.

The file is replaced whole (written aside, synced, renamed) under a lock, so that a reader sees the old
keys or the new ones. Then a counter in a second file of eight bytes is raised, which the workers hold
mapped in memory: looking whether it moved costs them no system call, so they look before each request,
and a revoked key is refused by the very next one on every worker of the machine. Machines that share no
folder share no keys.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import msgspec

from app.domain.access import UNLIMITED, Access, Key, Limits
from app.errors import StoreError

PREFIX = "slip"
"""The prefix of every key, by which scanners for leaked secrets recognise one."""
_SECRET_BYTES = 32
_ID_BYTES = 5
_EPOCH_BYTES = 8
_PRIVATE = 0o600
_PRIVATE_FOLDER = 0o700


class _Entry(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A key as stored."""

    id: str
    sha256: str
    tenant: str
    created_unix_s: float
    name: str = ""
    family: str = ""
    models: tuple[str, ...] | None = None
    tools: tuple[str, ...] | None = None
    agents: tuple[str, ...] | None = None
    admin: bool = False
    expires_unix_s: float | None = None
    revoked_unix_s: float | None = None
    limits: Limits = UNLIMITED


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    version: int
    keys: tuple[_Entry, ...]


class KeyFile:
    """The keys of one ``data_dir``. Any number of processes may read and write it."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        """Use ``folder``, made if need be, for nobody but this user; raises ``StoreError``."""
        self._folder, self._clock = folder, clock
        self._path, self._epoch_path = folder / "keys.json", folder / "epoch"
        try:
            folder.mkdir(mode=_PRIVATE_FOLDER, parents=True, exist_ok=True)
            descriptor = os.open(self._epoch_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _PRIVATE)
            try:
                if os.fstat(descriptor).st_size < _EPOCH_BYTES:
                    os.ftruncate(descriptor, _EPOCH_BYTES)
                self._epoch = mmap.mmap(descriptor, _EPOCH_BYTES)
            finally:
                os.close(descriptor)
        except OSError as exc:
            message = f"the folder of the keys cannot be used: {folder}: {exc.strerror}"
            raise StoreError(message, code="key_store") from exc
        self._seen = b""

    def moved(self) -> bool:
        """Whether keys changed since the last call; True the first time."""
        now = self._epoch[:_EPOCH_BYTES]
        if now == self._seen:
            return False
        self._seen = now
        return True

    def read(self) -> list[Key]:
        """All keys, revoked and expired ones included; raises ``StoreError`` where the file is damaged."""
        return [_to_key(entry) for entry in self._entries()]

    def create(self, access: Access) -> tuple[str, Access]:
        """Create a key for ``access`` and return it, this once; its id is chosen here."""
        with self._writing() as entries:
            key, entry = self._generate(access)
            entries.append(entry)
        return key, _to_key(entry).access

    def revoke(self, key_id: str) -> Access:
        """Refuse the key from the next request on; revoking twice is revoking once."""
        with self._writing() as entries:
            index = _index(entries, key_id)
            entry = entries[index]
            if entry.revoked_unix_s is None:
                entry = msgspec.structs.replace(entry, revoked_unix_s=self._clock())
            entries[index] = entry
        return _to_key(entry).access

    def rotate(self, key_id: str, overlap_s: float) -> tuple[str, Access]:
        """Create a key with the same rights; the old one works for ``overlap_s`` more seconds at most."""
        now_s = self._clock()
        with self._writing() as entries:
            index = _index(entries, key_id)
            old = entries[index]
            if old.revoked_unix_s is not None:
                raise StoreError(f"the key {key_id} is revoked: make a new one", code="key_store")
            until_s = now_s + overlap_s
            if old.expires_unix_s is not None:
                until_s = min(until_s, old.expires_unix_s)
            access = _to_key(old).access
            key, entry = self._generate(replace(access, family=access.usage_key))
            entries[index] = msgspec.structs.replace(old, expires_unix_s=until_s)
            entries.append(entry)
        return key, _to_key(entry).access

    def close(self) -> None:
        """Unmap the counter."""
        self._epoch.close()

    def _generate(self, access: Access) -> tuple[str, _Entry]:
        key_id = secrets.token_hex(_ID_BYTES)
        key = f"{PREFIX}_{key_id}_{secrets.token_urlsafe(_SECRET_BYTES)}"
        entry = _Entry(
            id=key_id,
            sha256=sha256(key.encode()).hexdigest(),
            tenant=access.tenant,
            created_unix_s=self._clock(),
            name=access.name,
            family=access.family,
            models=_sorted(access.models),
            tools=_sorted(access.tools),
            agents=_sorted(access.agents),
            admin=access.admin,
            expires_unix_s=access.expires_unix_s,
            limits=access.limits,
        )
        return key, entry

    def _entries(self) -> list[_Entry]:
        try:
            raw = self._path.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as exc:
            message = f"the keys cannot be read: {self._path}: {exc.strerror}"
            raise StoreError(message, code="key_store") from exc
        try:
            return list(msgspec.json.decode(raw, type=_File).keys)
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            message = f"the file of the keys is damaged: {self._path}: {exc}"
            raise StoreError(message, code="key_store") from exc

    @contextmanager
    def _writing(self) -> Iterator[list[_Entry]]:
        """The entries to change; written, and told to all workers, when the block ends well."""
        try:
            lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _PRIVATE)
        except OSError as exc:
            message = f"the keys cannot be changed: {self._folder}: {exc.strerror}"
            raise StoreError(message, code="key_store") from exc
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            entries = self._entries()
            yield entries
            self._write(entries)
        finally:
            os.close(lock)

    def _write(self, entries: Sequence[_Entry]) -> None:
        aside = self._path.with_suffix(".new")
        body = msgspec.json.format(msgspec.json.encode(_File(1, tuple(entries))), indent=1)
        try:
            descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _PRIVATE)
            with os.fdopen(descriptor, "wb") as file:
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(self._path)
        except OSError as exc:
            message = f"the keys cannot be written: {self._path}: {exc.strerror}"
            raise StoreError(message, code="key_store") from exc
        number = int.from_bytes(self._epoch[:_EPOCH_BYTES], "little")
        raised = (number + 1) % (1 << (8 * _EPOCH_BYTES))
        self._epoch[:_EPOCH_BYTES] = raised.to_bytes(_EPOCH_BYTES, "little")


def _to_key(entry: _Entry) -> Key:
    access = Access(
        id=entry.id,
        tenant=entry.tenant,
        name=entry.name,
        family=entry.family,
        models=_names(entry.models),
        tools=_names(entry.tools),
        agents=_names(entry.agents),
        admin=entry.admin,
        expires_unix_s=entry.expires_unix_s,
        revoked=entry.revoked_unix_s is not None,
        limits=entry.limits,
    )
    return Key(bytes.fromhex(entry.sha256), access, entry.created_unix_s)


def _index(entries: Sequence[_Entry], key_id: str) -> int:
    for index, entry in enumerate(entries):
        if entry.id == key_id:
            return index
    message = f"there is no key {key_id[:80]!r}: `slipstream keys list` shows the ids"
    raise StoreError(message, code="key_store")


def _sorted(names: frozenset[str] | None) -> tuple[str, ...] | None:
    return None if names is None else tuple(sorted(names))


def _names(names: tuple[str, ...] | None) -> frozenset[str] | None:
    return None if names is None else frozenset(names)
