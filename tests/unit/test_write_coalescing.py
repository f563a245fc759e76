"""Frames of one breath leave in one write, in their order, and a slow client is waited for."""

from __future__ import annotations

import asyncio

import pytest

from app.api.write_coalescing import WriteCoalescer, take_held

pytestmark = pytest.mark.anyio


class Client:
    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.slow = False

    def try_write(self, data: bytes, force: bool) -> bool:
        assert not force
        if not self.slow:
            self.writes.append(data)
        return not self.slow


async def test_what_is_said_in_one_breath_is_one_write_and_what_comes_later_another() -> None:
    client = Client()
    joined = WriteCoalescer(client)
    assert joined.add(b"a") == joined.add(b"b") == b""
    assert client.writes == []
    await asyncio.sleep(0)
    assert client.writes == [b"ab"]
    joined.add(b"c")
    await asyncio.sleep(0)
    assert client.writes == [b"ab", b"c"]


async def test_the_end_takes_what_is_held_with_it_and_nothing_is_written_twice() -> None:
    client = Client()
    joined = WriteCoalescer(client)
    joined.add(b"a")
    assert take_held(joined) + b"end" == b"aend"
    await asyncio.sleep(0)
    assert client.writes == []
    assert take_held(None) == b""


async def test_a_slow_client_gets_everything_in_order_from_who_can_wait() -> None:
    client = Client()
    joined = WriteCoalescer(client)
    client.slow = True
    joined.add(b"a")
    await asyncio.sleep(0)
    assert joined.add(b"b") == b"ab"  # the caller writes, and waits
    assert joined.add(b"c") == b"c"
    assert take_held(joined) == b""


async def test_much_is_not_held() -> None:
    joined = WriteCoalescer(Client())
    assert joined.add(b"a") == b""
    assert len(joined.add(b"b" * 20_000)) == 20_001
