"""Without a free descriptor clients wait, and are served or told; nobody is closed without a word."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from typing import ClassVar

import pytest

from app.api.acceptor import Acceptor, is_scarce

pytestmark = pytest.mark.anyio


class Echo(asyncio.Protocol):
    """Sends back what it gets, and ends."""

    living: ClassVar[set[asyncio.Transport]] = set()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        self.living.add(transport)

    def connection_lost(self, _: Exception | None) -> None:
        self.living.discard(self.transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(b"got " + data)
        self.transport.close()


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        made.listen(64)
        yield made


async def all_gone() -> None:
    """Every connection that was served has ended."""
    async with asyncio.timeout(10):
        while Echo.living:  # noqa: ASYNC110
            await asyncio.sleep(0)
    await asyncio.sleep(0)


async def asked(port: int, word: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(word)
    try:
        async with asyncio.timeout(10):
            return await reader.read()
    finally:
        writer.close()


async def test_whoever_comes_while_descriptors_are_scarce_is_served_when_they_are_not(listening):
    scarce = [False, True, True, True]  # the first connection's, then three looks

    def is_full(_: int) -> bool:
        return scarce.pop(0) if scarce else False

    acceptor = Acceptor(asyncio.get_running_loop(), listening, Echo, is_full, wait_s=60)
    acceptor.begin()
    port = listening.getsockname()[1]
    assert await asked(port, b"one") == b"got one"
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(asked(port, b"%d" % number)) for number in range(8)]
    assert [task.result() for task in tasks] == [b"got %d" % number for number in range(8)]
    assert not scarce
    acceptor.close()
    await acceptor.wait_closed()
    await all_gone()


async def test_whoever_waits_too_long_is_told_to_come_back(listening):
    full = [True]
    loop = asyncio.get_running_loop()
    acceptor = Acceptor(loop, listening, Echo, lambda _: full[0], wait_s=0)
    acceptor.begin()
    port = listening.getsockname()[1]
    assert await asked(port, b"one") == b"got one", "what was taken is served"
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(asked(port, b"POST / HTTP/1.1\r\n\r\n")) for _ in range(8)]
    for task in tasks:
        assert task.result().startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1\r\n" in task.result()
    full[0] = False
    async with asyncio.timeout(10):
        while await asked(port, b"two") != b"got two":
            pass
    assert acceptor.is_serving()
    acceptor.close()
    acceptor.close()
    assert not acceptor.is_serving()
    await all_gone()


def test_a_high_number_says_that_few_are_left() -> None:
    assert not is_scarce(3)
    assert is_scarce(1 << 30)
