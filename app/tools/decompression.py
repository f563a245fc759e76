"""Compressed response bodies, decompressed in bounded pieces: a small body may unfold to gigabytes."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from app.errors import ToolError

_UNCODED = frozenset({"", "identity"})
_WINDOW_BITS = {
    "gzip": 16 + zlib.MAX_WBITS,
    "x-gzip": 16 + zlib.MAX_WBITS,
    "deflate": zlib.MAX_WBITS,
}


class Decompressor:
    """A compressed body, which may consist of several members one behind the other."""

    __slots__ = ("_bits", "_member")

    def __init__(self, bits: int) -> None:
        """``bits`` as zlib's ``wbits``."""
        self._bits, self._member = bits, zlib.decompressobj(bits)

    @property
    def complete(self) -> bool:
        """Whether the body could end here."""
        return self._member.eof

    def __call__(self, data: bytes, max_piece_bytes: int) -> Iterator[bytes]:
        """Decompress ``data``, each piece at most ``max_piece_bytes`` long; stop iterating to stop the work.

        Raises ``zlib.error`` for what is not compressed so.
        """
        while data:
            if self._member.eof:
                self._member = zlib.decompressobj(self._bits)
            yield self._member.decompress(data, max_piece_bytes)
            data = self._member.unused_data or self._member.unconsumed_tail


def decompressor_for(content_encoding: str) -> Decompressor | None:
    """What decompresses a body of that content-encoding; None where it is not compressed.

    Raises ``ToolError`` for an encoding that is never asked for.
    """
    coding = content_encoding.strip().lower()
    if coding in _UNCODED:
        return None
    if coding not in _WINDOW_BITS:
        message = "answered in a compression that it was not asked for"
        raise ToolError(message, code="tool_not_data")
    return Decompressor(_WINDOW_BITS[coding])
