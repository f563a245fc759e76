"""Decodes compressed request bodies (``content-encoding``) piece by piece as they arrive.

Clients of large prompts compress them. What comes out is bounded like any other body: the pieces are small,
each is counted before the next is made, and whoever reads stops at its limit. So a bomb costs at most one
body of the permitted size. gzip and deflate are known; others are refused by name (415), as is a chain.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterable, Iterator

from starlette.types import Message, Receive

from app.api.body_memory import Lease
from app.api.outlet import Outlet
from app.errors import BadRequest, GatewayError, UnsupportedContentEncoding

CODING = b"content-encoding"
KNOWN_CODINGS = "gzip, deflate"
_GZIP, _ZLIB, _BARE = 31, 15, -15
"""zlib's ``wbits`` for the three formats."""
_BITS = {b"gzip": _GZIP, b"x-gzip": _GZIP, b"deflate": _ZLIB}
_PIECE_BYTES = 256 << 10
"""About half a millisecond of CPU."""
_ZLIB_METHOD = 0x0F
_DEFLATED = 8


def coding_of(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """The body's content coding in lower case; None for identity."""
    said = b", ".join(value for name, value in headers if name == CODING).strip().lower()
    return None if said in {b"", b"identity"} else said


def coding_line(error: GatewayError) -> bytes:
    """The ``accept-encoding`` line of a 415."""
    return (
        b"accept-encoding: %s\r\n" % KNOWN_CODINGS.encode()
        if isinstance(error, UnsupportedContentEncoding)
        else b""
    )


def counted(
    receive: Receive, headers: Iterable[tuple[bytes, bytes]], lease: Lease, outlet: Outlet
) -> Receive:
    """``receive``, decoded, with each piece counted both compressed and decoded."""
    as_it_came, coding = lease.counting(receive, outlet), coding_of(headers)
    if coding is None:
        return as_it_came
    return lease.counting(decoding(as_it_came, coding), outlet)


def decoding(receive: Receive, coding: bytes) -> Receive:
    """``receive`` with its body decoded; raises ``UnsupportedContentEncoding``, ``BadRequest``."""
    body = _Body(coding)
    pieces: Iterator[bytes] = iter(())

    async def decoded() -> Message:
        nonlocal pieces
        while True:
            piece = body.next_of(pieces)
            if piece is not None:
                await asyncio.sleep(0)  # the loop's turn: it was up to half a millisecond
                return {"type": "http.request", "body": piece, "more_body": True}
            if body.whole:
                return {"type": "http.request", "body": b"", "more_body": False}
            message = await receive()
            if message["type"] == "http.disconnect":
                return message
            body.whole = not message.get("more_body")
            pieces = body.pieces_of(message.get("body", b""))

    return decoded


class _Body:
    """The decoder of one body."""

    def __init__(self, coding: bytes) -> None:
        self._coding = coding
        self._zip: zlib._Decompress | None = None
        self.whole = False
        """Whether the body has ended."""

    def pieces_of(self, came: bytes) -> Iterator[bytes]:
        """Decode ``came`` in bounded pieces."""
        if self._zip is None:
            self._zip = zlib.decompressobj(self._bits(came))
        while came:
            if self._zip.eof:
                raise self._broken("it goes on behind its end")
            piece = self._zip.decompress(came, _PIECE_BYTES)
            came = self._zip.unconsumed_tail or self._zip.unused_data
            if piece:
                yield piece
        if self.whole and not self._zip.eof:
            raise self._broken("it is cut off")

    def next_of(self, pieces: Iterator[bytes]) -> bytes | None:
        """The next of ``pieces``; None at the end."""
        try:
            return next(pieces, None)
        except zlib.error:
            raise self._broken("its bytes are none") from None

    def _bits(self, came: bytes) -> int:
        bits = _BITS.get(self._coding)
        if bits is None:
            shown = self._coding.decode("latin-1")[:40]
            message = (
                f"the body's content-encoding is {shown!r}: send it as it is, or as {KNOWN_CODINGS}"
            )
            raise UnsupportedContentEncoding(message, param="content-encoding")
        # Some say deflate and leave zlib's two bytes out.
        if bits == _ZLIB and came and came[0] & _ZLIB_METHOD != _DEFLATED:
            return _BARE
        return bits

    def _broken(self, why: str) -> BadRequest:
        message = (
            f"the body is not {self._coding.decode('latin-1')}, as its content-encoding says: {why}"
        )
        return BadRequest(message, code="invalid_encoding", param="content-encoding")
