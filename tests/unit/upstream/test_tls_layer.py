"""However the network cuts TLS into pieces, every byte is handed on as soon as it can be read."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable
from contextlib import suppress

import pytest
import trustme

from app.upstream.tls import TlsLayer

pytestmark = pytest.mark.anyio
LARGEST_RECORD_BYTES = 16_384


class Wire(asyncio.Transport):
    """What the layer writes, until the peer takes it."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = bytearray()
        self.is_aborted = False
        self.protocol: asyncio.Protocol

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += data

    def take(self) -> bytes:
        taken = bytes(self.sent)
        self.sent.clear()
        return taken

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self.protocol = protocol

    def abort(self) -> None:
        self.is_aborted = True


class Above:
    """Whose plain bytes these are."""

    def __init__(self) -> None:
        self.came = bytearray()
        self.halves = 0
        self.mid_record = False
        self.was_amid: list[bool] = []
        self.is_at_end = False
        self.has_asked = True

    def data_received(self, data: bytes) -> None:
        assert data, "nothing is no news"
        self.came += data
        self.was_amid.append(self.mid_record)

    def partial_record_pending(self) -> bool:
        self.halves += 1
        return not self.has_asked

    def eof_received(self) -> bool:
        self.is_at_end = True
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        pass


class Peer:
    """The server's side of a connection whose pieces the test hands over."""

    def __init__(self, server: ssl.SSLContext, client: ssl.SSLContext) -> None:
        self.above, self.wire = Above(), Wire()
        self.layer = TlsLayer(self.above, self.wire, client, "localhost")
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = server.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self.tickets = b""

    async def greet(self, *, keeps_tickets: bool = False) -> None:
        """Shake hands; what comes behind that is handed over, or kept in ``tickets``."""
        async with asyncio.TaskGroup() as both:
            both.create_task(self.layer.handshake(asyncio.get_running_loop()))
            await asyncio.sleep(0)
            while sent := self.wire.take():
                self._incoming.write(sent)
                with suppress(ssl.SSLWantReadError):
                    self._tls.do_handshake()
                said = self._outgoing.read()
                if keeps_tickets and self.layer._is_open:
                    self.tickets = said
                else:
                    self.layer.data_received(said)

    def records(self, *texts: bytes) -> bytes:
        """A record of each text, as it goes over the wire."""
        for text in texts:
            self._tls.write(text)
        return self._outgoing.read()

    def goodbye(self) -> bytes:
        with suppress(ssl.SSLWantReadError):
            self._tls.unwrap()
        return self._outgoing.read()


@pytest.fixture(params=[ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=str)
async def peer(request: pytest.FixtureRequest) -> Peer:
    peer = stranger(request.param)
    await peer.greet()
    return peer


def stranger(version: ssl.TLSVersion) -> Peer:
    """One that has not greeted yet."""
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(server)
    authority.configure_trust(client)
    client.maximum_version = version
    return Peer(server, client)


def cuts(length: int) -> Iterable[int]:
    """Every place of a short text; of a long one those near its ends and near a record's."""
    if length < 2_000:
        return range(1, length)
    near = (0, LARGEST_RECORD_BYTES, length // 2, length)
    return sorted({at + by for at in near for by in range(-40, 41) if 0 < at + by < length})


@pytest.mark.parametrize("size", [1, 700, LARGEST_RECORD_BYTES, 40_000])
async def test_a_record_may_be_cut_anywhere(peer: Peer, size: int):
    """A whole record is handed on once its last byte is there, however few came with that."""
    text = (bytes(range(256)) * (size // 256 + 1))[:size]
    first = peer.records(text)
    peer.layer.data_received(first)
    assert peer.above.came == text
    for at in cuts(len(first)):
        peer.above.came.clear()
        sent = peer.records(text)  # a new one each time, for records are numbered
        peer.layer.data_received(sent[:at])
        peer.layer.data_received(sent[at:])
        assert peer.above.came == text, f"cut at {at}"


async def test_records_may_come_a_byte_at_a_time(peer: Peer):
    for byte in peer.records(b"one", b"two" * 500, b"three"):
        peer.layer.data_received(bytes((byte,)))
    assert peer.above.came == b"one" + b"two" * 500 + b"three"


async def test_what_comes_before_the_goodbye_is_handed_on_before_the_end(peer: Peer):
    sent = peer.records(b"x" * 9_000, b"last") + peer.goodbye()
    peer.layer.data_received(sent[:-3])
    assert (peer.above.came, peer.above.is_at_end) == (b"x" * 9_000 + b"last", False)
    peer.layer.data_received(sent[-3:])
    assert peer.above.is_at_end


async def test_half_a_record_at_the_end_is_told_to_whoever_has_no_use_for_it(peer: Peer):
    """Not a whole one without text (a ticket, a new key), and not half of one whose beginning is no news."""
    first, second = peer.records(b"answer"), peer.records(b"unasked")
    for at in range(1, len(second)):
        peer.above.halves = 0
        peer.layer.data_received(first + second[:at])
        assert peer.above.halves == 1, f"cut at {at}"
        peer.layer.data_received(second[at:])
        assert peer.above.halves == 1
        first, second = peer.records(b"answer"), peer.records(b"unasked")
    peer.layer.data_received(first)
    peer.layer.data_received(second)
    assert peer.above.halves == 1
    for byte in peer.records(b"a byte at a time"):
        peer.layer.data_received(bytes((byte,)))
    peer.above.halves = 0
    peer.layer.data_received(peer.records(b"and whole ones", b"behind that"))
    assert peer.above.halves == 0


async def test_half_a_record_is_known_before_the_text_in_front_of_it_is_handed_on(peer: Peer):
    """Whoever has had its answer must not be taken for one at rest."""
    first, second = peer.records(b"answer"), peer.records(b"unasked")
    for at in range(1, len(second)):
        peer.layer.data_received(first + second[:at])
        peer.layer.data_received(second[at:])
        first, second = peer.records(b"answer"), peer.records(b"unasked")
    assert peer.above.was_amid == [True, False] * (len(second) - 1)


@pytest.mark.parametrize("at", [1, 4, 5, 6, 20, -1])
@pytest.mark.parametrize("by_bytes", [False, True], ids=["at once", "by bytes"])
async def test_text_of_a_record_that_began_before_anything_was_asked_ends_the_connection(
    peer: Peer, at: int, by_bytes: bool
):
    """An answer to no question; nothing of it, nor of what follows, is handed on."""
    said, more = peer.records(b"HTTP/1.1 200 OK"), peer.records(b"and more")
    peer.above.has_asked = False
    peer.layer.data_received(said[:at])
    assert peer.above.halves == 1
    peer.above.has_asked = True
    rest = said[at:] + more
    for piece in [rest[at : at + 1] for at in range(len(rest))] if by_bytes else [rest]:
        if not peer.wire.is_aborted:
            peer.wire.protocol.data_received(piece)
    assert peer.wire.is_aborted
    assert not peer.above.came


async def test_a_ticket_may_come_in_pieces_before_anything_was_asked():
    """It holds no text, and what comes in the same read behind it is the answer."""
    length = 400
    for at in [*range(1, 12), length, -1]:
        peer = stranger(ssl.TLSVersion.TLSv1_3)
        await peer.greet(keeps_tickets=True)
        assert len(peer.tickets) > length
        peer.above.has_asked = False
        peer.layer.data_received(peer.tickets[:at])
        peer.above.has_asked = True
        peer.wire.protocol.data_received(peer.tickets[at:] + peer.records(b"one", b"two"))
        peer.wire.protocol.data_received(peer.records(b"three"))
        assert (bytes(peer.above.came), peer.wire.is_aborted) == (b"onetwothree", False)
        assert peer.wire.protocol is peer.layer
