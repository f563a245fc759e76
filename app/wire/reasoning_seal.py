"""Carry a signed reasoning block through the Responses dialect and back.

Anthropic demands its signed blocks back in a tool loop. A Responses client keeps
``encrypted_content`` and sends it back unread, so the signature travels in there, behind a mark
that tells it from OpenAI's own ciphertext.
"""

from __future__ import annotations

_SIGNED = "slipstream.signed."
_REDACTED = "slipstream.redacted."


def seal_signature(signature: str) -> str | None:
    """``encrypted_content`` for a block with this signature; None without one."""
    return _SIGNED + signature if signature else None


def seal_redacted(data: str) -> str:
    """``encrypted_content`` for reasoning that only its vendor can read."""
    return _REDACTED + data


def open_seal(content: object) -> tuple[str, str]:
    """The signature and the redacted data in ``encrypted_content``; "" for what is not ours."""
    if not isinstance(content, str):
        return "", ""
    if content.startswith(_SIGNED):
        return content[len(_SIGNED) :], ""
    if content.startswith(_REDACTED):
        return "", content[len(_REDACTED) :]
    return "", ""
