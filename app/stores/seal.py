"""Encryption at rest: values are encrypted before they go to disk, Redis or Qdrant.

AES-256-GCM from ``cryptography`` with a random 96-bit nonce: safe for 2^32 values under one key. The id
of a value is authenticated with it, so that encrypted values cannot be swapped. Each configured secret
gives a key by HKDF; the first encrypts, all decrypt, so a key is rotated by putting the new one first.
Callers treat a value that cannot be decrypted as absent.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from app.errors import StoreError

_MARK = b"sl1"
_NONCE_BYTES = 12
_KEY_BYTES = 32
_ID_BYTES = 4


class Sealer:
    """A ``Seal`` with keys."""

    def __init__(self, secrets: Sequence[bytes]) -> None:
        """Seal with the first of ``secrets`` (each of at least 32 bytes of entropy), open with any."""
        derived = [_derived(secret) for secret in secrets]
        self._sealing_id, self._sealing = derived[0]
        self._opening = dict(reversed(derived))

    def seal(self, data: bytes, about: bytes) -> bytes:
        """``data`` so that only holders of the key can read it, and only as being ``about`` this."""
        nonce = os.urandom(_NONCE_BYTES)
        return _MARK + self._sealing_id + nonce + self._sealing.encrypt(nonce, data, about)

    def open(self, data: bytes, about: bytes) -> bytes:
        """What was sealed; raises ``StoreError`` for anything else, unsealed values included."""
        body = data[len(_MARK) :]
        cipher = self._opening.get(body[:_ID_BYTES]) if data.startswith(_MARK) else None
        if cipher is None:
            raise StoreError("a kept value is not sealed with a known key", code="store_sealed")
        nonce = body[_ID_BYTES : _ID_BYTES + _NONCE_BYTES]
        try:
            return cipher.decrypt(nonce, body[_ID_BYTES + _NONCE_BYTES :], about)
        except (InvalidTag, ValueError) as exc:
            raise StoreError("a kept value was changed", code="store_sealed") from exc


def _derived(secret: bytes) -> tuple[bytes, AESGCM]:
    def expand(length: int, info: bytes) -> bytes:
        return HKDF(SHA256(), length, salt=b"slipstream at rest", info=info).derive(secret)

    return expand(_ID_BYTES, b"id"), AESGCM(expand(_KEY_BYTES, b"key"))
