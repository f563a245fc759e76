"""Round-trip signed reasoning blocks through the Responses dialect.

Anthropic requires its signed blocks back in a tool loop. Responses clients return ``encrypted_content``
unread, so the signature is stored there, with a prefix that distinguishes it from OpenAI's ciphertext.
"""

from __future__ import annotations

_SIGNED = "slipstream.signed."
_REDACTED = "slipstream.redacted."


def seal_signature(signature: str) -> str | None:
    """``encrypted_content`` for a block with this signature; None without one."""
    return _SIGNED + signature if signature else None


def seal_redacted(data: str) -> str:
    """``encrypted_content`` for redacted reasoning."""
    return _REDACTED + data


def open_seal(content: object) -> tuple[str, str]:
    """The signature and the redacted data in ``encrypted_content``; "" where it is not ours."""
    if not isinstance(content, str):
        return "", ""
    if content.startswith(_SIGNED):
        return content[len(_SIGNED) :], ""
    if content.startswith(_REDACTED):
        return "", content[len(_REDACTED) :]
    return "", ""
