"""TLS between a connection and its socket, with as few calls a read and a write as it takes.

Theory of operation. The loops' own TLS is made for any protocol: it keeps queues, sizes buffers anew, asks
until it is told that there is no more, and schedules its writes, which cost more than the encryption of a
token. A ``Connection`` needs less: what comes is put into OpenSSL's memory and read out at once, what goes
is encrypted and written at once, so nothing ever waits here, and the socket's transport alone has a buffer.

Whoever cuts the wire cannot shorten an answer: only the peer's close_notify is an end to the connection
(``eof_received``), all else is a loss. Certificates and names are verified by the context, in the handshake.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Protocol, cast

_AT_ONCE_BYTES = 256 * 1024
"""Encrypted in one go: an eighth of a millisecond."""


_LARGEST_RECORD_BYTES = 16 * 1024
"""Of text, as the protocol has it."""


_HEAD_BYTES = 5
"""Of a record: its kind, the version, and how many bytes follow."""


class Secured(Protocol):
    """Whose plain bytes these are; as of ``asyncio.Protocol``."""

    amid: bool
    """What has come ends within a record, whose text cannot be read yet; set before the rest is handed on."""

    def data_received(self, data: bytes) -> None:
        """Plain bytes have come."""

    def half_heard(self) -> bool:
        """What has come is all handed on, but for a record that has begun and not ended.

        Yes, if that must turn out to hold no text: a ticket in two pieces, before anything was asked.
        """

    def eof_received(self) -> bool:
        """The peer has said that no more will come."""

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""


class TlsLayer(asyncio.Protocol):
    """Protocol of the socket below, and transport of the connection above."""

    def __init__(
        self, above: Secured, transport: asyncio.Transport, context: ssl.SSLContext, host: str
    ) -> None:
        """Speak TLS over ``transport``, which is open, to ``host``, whose name is verified."""
        self._above, self._below = above, transport
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._read, self._encrypt = self._tls.read, self._tls.write
        self._greeted: asyncio.Future[None] | None = None
        self._is_open = False
        self._begun = b""
        """The head of a record that has begun and not ended, as far as it has come, and ..."""
        self._missing = 0
        """... how much of the record is yet to come, once its head is there."""

    # ------------------------------------------------------------------ the handshake

    async def handshake(self, loop: asyncio.AbstractEventLoop) -> str | None:
        """Greet, and verify who answers; gives the protocol that was agreed on (ALPN).

        Raises OSError, of which ``ssl.SSLError`` is one. Cancelled: the socket is the caller's to close.
        """
        self._greeted = loop.create_future()
        self._below.set_protocol(self)
        self._greet()
        await self._greeted
        return self._tls.selected_alpn_protocol()

    def _greet(self) -> None:
        greeted = self._greeted
        if greeted is None or greeted.done():
            return
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            pass
        except (OSError, ValueError) as failure:
            greeted.set_exception(failure)
        else:
            self._is_open = True
            greeted.set_result(None)
        self._flush()  # also what tells the peer why not

    def _is_more_behind_the_greeting(self) -> bool:
        self._greet()
        return self._is_open and self._incoming.pending > 0

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._below.write(self._outgoing.read())

    # ------------------------------------------------------------------ from below

    def data_received(  # noqa: C901 - in one piece: it is every token's way
        self, data: bytes
    ) -> None:
        """Decrypt what came and hand it on, all in one piece."""
        incoming = self._incoming
        incoming.write(data)
        if not self._is_open and not self._is_more_behind_the_greeting():
            return
        asked = incoming.pending
        plain, more, over, halves = b"", None, False, False
        try:
            # A call gives one record, or as much of it as it was asked for. Most reads are one record, whose
            # text is shorter than what came; where that is no longer, its beginning had come before.
            plain = piece = self._read(asked)
            over = not plain
            while (incoming.pending or len(piece) == asked) and not over:
                if more is None:
                    more = [plain]
                asked = _LARGEST_RECORD_BYTES
                piece = self._read(asked)
                over = not piece
                more.append(piece)
        except ssl.SSLWantReadError:
            # The rest of a record is yet to come, or none of it was for us.
            halves = self._is_amid_a_record(data[-asked:])
        except ssl.SSLError:
            self._below.abort()
            return
        if self._outgoing.pending:  # an answer to a new key, say
            self._flush()
        if more is not None:
            plain = b"".join(more)
        if self._begun and not halves:
            self._begun, self._missing = b"", 0
        self._above.amid = halves
        if plain:
            self._above.data_received(plain)
        if halves and self._above.half_heard():
            self._below.set_protocol(_Unasked(self))
        if over:
            self._above.eof_received()
            self._below.abort()

    def _is_amid_a_record(self, came: bytes) -> bool:
        """Whether ``came``, which OpenSSL has taken all of, ends within a record; it keeps that to itself."""
        at = self._missing
        head = b"" if at else self._begun
        while at < len(came) or head:
            taken = came[at : at + _HEAD_BYTES - len(head)]
            head += taken
            if len(head) < _HEAD_BYTES:
                self._begun, self._missing = head, 0
                return bool(head)
            at += len(taken) + int.from_bytes(head[3:], "big")
            last, head = head, b""
            self._begun = last
        self._missing = at - len(came)
        return self._missing > 0

    def read_rest(self, data: bytes) -> bytes | None:
        """Deal with the rest of a record that may hold no text; what is behind it, None where it goes on.

        It is read by itself: OpenSSL does not say which of its records a text has come from.
        """
        above = self._above
        self._above = nobody = _Nobody(above, self._below)
        try:
            while data and self._begun and not nobody.heard:
                needed = self._missing or _HEAD_BYTES - len(self._begun)
                self.data_received(data[:needed])
                data = data[needed:]
        finally:
            self._above, above.amid = above, nobody.amid
        if self._begun or nobody.heard:
            return None
        self._below.set_protocol(self)
        return data

    def eof_received(self) -> bool:
        """The wire was cut without a word: a loss, as ``connection_lost`` will say."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        greeted = self._greeted
        if greeted is not None and not greeted.done():
            greeted.set_exception(exc or ConnectionResetError("closed within the handshake"))
        self._is_open = False
        self._above.connection_lost(exc)

    # ------------------------------------------------------------------ from above

    def write(self, data: bytes) -> None:
        """Encrypt and send; what cannot be encrypted loses the connection."""
        if len(data) > _AT_ONCE_BYTES:
            self.writelines((data,))
            return
        try:
            self._encrypt(data)
        except ssl.SSLError:
            self._below.abort()
        else:
            self._below.write(self._outgoing.read())

    def writelines(self, pieces: tuple[bytes, ...]) -> None:
        """As ``write``, one after the other."""
        for piece in pieces:
            view = memoryview(piece)
            for start in range(0, len(view), _AT_ONCE_BYTES):
                self.write(cast("bytes", view[start : start + _AT_ONCE_BYTES]))

    def abort(self) -> None:
        """Close the socket now, without a goodbye."""
        self._below.abort()

    def get_write_buffer_size(self) -> int:
        """Bytes that the socket has not taken yet: encrypted, so a few more than were written."""
        return self._below.get_write_buffer_size()

    def pause_reading(self) -> None:
        """Read no more of the socket; what it has given is handed on."""
        self._below.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        self._below.resume_reading()


class _Unasked(asyncio.Protocol):
    """Protocol of the socket below while a record is under way that began before anything was asked.

    Were it taken for what it looks like, an upstream could have said its answer before it heard the question.
    """

    def __init__(self, layer: TlsLayer) -> None:
        """``layer`` goes on once that record has ended."""
        self._layer = layer

    def data_received(self, data: bytes) -> None:
        """Have the record's rest read alone."""
        behind = self._layer.read_rest(data)
        if behind:
            self._layer.data_received(behind)

    def eof_received(self) -> bool:
        """As the layer's."""
        return self._layer.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """As the layer's."""
        self._layer.connection_lost(exc)


class _Nobody:
    """In place of whose the plain bytes are, where there may be none."""

    def __init__(self, above: Secured, below: asyncio.Transport) -> None:
        self._above, self._below = above, below
        self.amid, self.heard = above.amid, False

    def data_received(self, _data: bytes) -> None:
        """What nobody asked for ends the connection."""
        self.heard = True
        self._below.abort()

    def half_heard(self) -> bool:
        """It is known."""
        return False

    def eof_received(self) -> bool:
        """As of whom this stands for."""
        return self._above.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """As of whom this stands for."""
        self._above.connection_lost(exc)
