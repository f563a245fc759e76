"""TLS between a connection and its socket, with as few calls per read and write as possible.

Theory of operation. The event loop's own TLS serves any protocol: it keeps queues, resizes buffers, reads
until there is no more, and schedules its writes, which costs more than the encryption of a token. A
``Connection`` needs less: incoming bytes go into OpenSSL's memory and are decrypted at once, outgoing ones
are encrypted and written at once, so only the socket's transport buffers.

Cutting the TCP connection cannot shorten an answer: only the peer's close_notify is an end to the connection
(``eof_received``), all else is a loss. Certificates and names are verified by the context, in the handshake.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Protocol, cast

_MAX_ENCRYPTED_BYTES = 256 * 1024
"""Encrypted in one call: an eighth of a millisecond."""


_LARGEST_RECORD_BYTES = 16 * 1024
"""Of plaintext, by the TLS specification."""


_HEAD_BYTES = 5
"""Of a record: type, version and length."""


class PlaintextReceiver(Protocol):
    """The protocol above, which gets the plaintext; otherwise as ``asyncio.Protocol``."""

    mid_record: bool
    """The last read ends within a record; set before the plaintext ahead of it is passed on."""

    def data_received(self, data: bytes) -> None:
        """Process plaintext."""

    def partial_record_pending(self) -> bool:
        """Called when all plaintext was passed on and a record has begun and not ended.

        Returns True if that record must hold no text: a session ticket in two pieces before any request.
        """

    def eof_received(self) -> bool:
        """The peer has sent its close_notify."""

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""


class TlsLayer(asyncio.Protocol):
    """Protocol of the socket below, and transport of the connection above."""

    def __init__(
        self,
        above: PlaintextReceiver,
        transport: asyncio.Transport,
        context: ssl.SSLContext,
        host: str,
    ) -> None:
        """Speak TLS over ``transport``, which is open, to ``host``, whose name is verified."""
        self._above, self._below = above, transport
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._read, self._encrypt = self._tls.read, self._tls.write
        self._handshake_done: asyncio.Future[None] | None = None
        self._is_open = False
        self._record_head = b""
        """The head of a record that has begun and not ended, as far as it has come, and ..."""
        self._record_bytes_missing = 0
        """... how much of the record is yet to come, once its head is there."""

    # ------------------------------------------------------------------ the handshake

    async def handshake(self, loop: asyncio.AbstractEventLoop) -> str | None:
        """Handshake and verify the peer; returns the negotiated protocol (ALPN).

        Raises OSError, of which ``ssl.SSLError`` is one. Cancelled: the socket is the caller's to close.
        """
        self._handshake_done = loop.create_future()
        self._below.set_protocol(self)
        self._continue_handshake()
        await self._handshake_done
        return self._tls.selected_alpn_protocol()

    def _continue_handshake(self) -> None:
        greeted = self._handshake_done
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

    def _has_data_behind_handshake(self) -> bool:
        self._continue_handshake()
        return self._is_open and self._incoming.pending > 0

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._below.write(self._outgoing.read())

    # ------------------------------------------------------------------ from below

    def data_received(  # noqa: C901 - in one piece: it is every token's way
        self, data: bytes
    ) -> None:
        """Decrypt ``data`` and pass the plaintext on in one piece."""
        incoming = self._incoming
        incoming.write(data)
        if not self._is_open and not self._has_data_behind_handshake():
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
            halves = self._ends_mid_record(data[-asked:])
        except ssl.SSLError:
            self._below.abort()
            return
        if self._outgoing.pending:  # an answer to a new key, say
            self._flush()
        if more is not None:
            plain = b"".join(more)
        if self._record_head and not halves:
            self._record_head, self._record_bytes_missing = b"", 0
        self._above.mid_record = halves
        if plain:
            self._above.data_received(plain)
        if halves and self._above.partial_record_pending():
            self._below.set_protocol(_UnsolicitedRecord(self))
        if over:
            self._above.eof_received()
            self._below.abort()

    def _ends_mid_record(self, came: bytes) -> bool:
        """Whether ``came``, all of which OpenSSL has taken, ends within a record; OpenSSL does not say."""
        at = self._record_bytes_missing
        head = b"" if at else self._record_head
        while at < len(came) or head:
            taken = came[at : at + _HEAD_BYTES - len(head)]
            head += taken
            if len(head) < _HEAD_BYTES:
                self._record_head, self._record_bytes_missing = head, 0
                return bool(head)
            at += len(taken) + int.from_bytes(head[3:], "big")
            last, head = head, b""
            self._record_head = last
        self._record_bytes_missing = at - len(came)
        return self._record_bytes_missing > 0

    def read_rest(self, data: bytes) -> bytes | None:
        """Read the rest of a record that may hold no text; returns what follows it, None if it goes on.

        It is read alone, because OpenSSL does not say which record a text came from.
        """
        above = self._above
        self._above = nobody = _TextRefuser(above, self._below)
        try:
            while data and self._record_head and not nobody.text_received:
                needed = self._record_bytes_missing or _HEAD_BYTES - len(self._record_head)
                self.data_received(data[:needed])
                data = data[needed:]
        finally:
            self._above, above.mid_record = above, nobody.mid_record
        if self._record_head or nobody.text_received:
            return None
        self._below.set_protocol(self)
        return data

    def eof_received(self) -> bool:
        """TCP ended without a close_notify: a loss, which ``connection_lost`` reports."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        greeted = self._handshake_done
        if greeted is not None and not greeted.done():
            greeted.set_exception(exc or ConnectionResetError("closed within the handshake"))
        self._is_open = False
        self._above.connection_lost(exc)

    # ------------------------------------------------------------------ from above

    def write(self, data: bytes) -> None:
        """Encrypt and send; what cannot be encrypted loses the connection."""
        if len(data) > _MAX_ENCRYPTED_BYTES:
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
            for start in range(0, len(view), _MAX_ENCRYPTED_BYTES):
                self.write(cast("bytes", view[start : start + _MAX_ENCRYPTED_BYTES]))

    def abort(self) -> None:
        """Close the socket now, without a close_notify."""
        self._below.abort()

    def get_write_buffer_size(self) -> int:
        """Bytes that the socket has not taken yet: encrypted, so a few more than were written."""
        return self._below.get_write_buffer_size()

    def pause_reading(self) -> None:
        """Stop reading from the socket."""
        self._below.pause_reading()

    def resume_reading(self) -> None:
        """Resume reading from the socket."""
        self._below.resume_reading()


class _UnsolicitedRecord(asyncio.Protocol):
    """Protocol of the socket below during a record that began before the first request.

    If it held text, that would be an answer sent before its question.
    """

    def __init__(self, layer: TlsLayer) -> None:
        """``layer`` takes over again when that record has ended."""
        self._layer = layer

    def data_received(self, data: bytes) -> None:
        """Read the rest of the record alone."""
        behind = self._layer.read_rest(data)
        if behind:
            self._layer.data_received(behind)

    def eof_received(self) -> bool:
        """As the layer's."""
        return self._layer.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """As the layer's."""
        self._layer.connection_lost(exc)


class _TextRefuser:
    """Stands in for the protocol above where no plaintext may come."""

    def __init__(self, above: PlaintextReceiver, below: asyncio.Transport) -> None:
        self._above, self._below = above, below
        self.mid_record, self.text_received = above.mid_record, False

    def data_received(self, _data: bytes) -> None:
        """Close the connection: unsolicited text."""
        self.text_received = True
        self._below.abort()

    def partial_record_pending(self) -> bool:
        """Return False: it is being handled."""
        return False

    def eof_received(self) -> bool:
        """Forward to the protocol that this stands in for."""
        return self._above.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forward to the protocol that this stands in for."""
        self._above.connection_lost(exc)
