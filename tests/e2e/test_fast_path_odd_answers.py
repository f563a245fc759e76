"""Answers that a client who asked for a stream should never get from an upstream, by both ways alike."""

from __future__ import annotations

import asyncio
import logging

import pytest

from tests.e2e.test_fast_path import ANSWER, Counted, connect, counted, house, newest, rest
from tests.e2e.test_fast_path_streams import HEAD, WHOLE, Upstream, begin, body, chunk, stream, warm
from tests.support.raw_server import Peer

pytestmark = pytest.mark.anyio
__all__ = ["counted"]

BROKEN = {
    "half an object": b"data: {nope\n\n",
    "an object that never ends": b"data: [1,\n\n",
    "a named event": b"event: x\ndata: {\n\n",
    "bytes that are no text": b"data: \xff\n\n",
    "broken, and the half of another": b"data: {nope\n\ndata: [",
    "no field": b"hello\n\n",
    "no value": b"data\n\n",
}


@pytest.mark.parametrize("broken", BROKEN)
async def test_an_event_that_is_not_json_ends_a_stream_alike_by_both_ways(
    broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    """As the first, the second, and in the midst: the failure is told, and nothing raised in a callback."""
    upstream = Upstream()
    head, *rest_of_it = WHOLE
    pieces = [HEAD, head.removeprefix(HEAD), *rest_of_it]
    async with house(upstream) as gateway:
        plain = await connect(gateway)
        tagged = await connect(gateway, b"x-slipstream-tags: a\r\n")
        for client in (plain, tagged):
            await warm(gateway, upstream, client)
        for place in (1, 2, 5):
            upstream.pieces = [*pieces[:place], chunk(BROKEN[broken]), *pieces[place:]]
            told = []
            for client in (plain, tagged):
                headers, said = await stream(client, f"odd {place} {client.more!r}")
                await rest(gateway)
                request_id = headers["x-request-id"].encode()
                told.append((headers["status"], said.replace(request_id, b"ID"), newest(gateway)))
            assert told[0] == told[1]
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_a_whole_answer_to_who_asked_for_a_stream_is_told_as_one_once(
    counted: Counted,
) -> None:
    """Each time, also when silence is filled meanwhile; and kept as what it is."""

    async def upstream(peer: Peer) -> None:
        while True:
            asked = (await peer.request()).body
            if b'"stream":true' in asked and b"whole" not in asked:
                await peer.send(*WHOLE)
            else:
                await peer.answer(ANSWER, head=b"content-type: application/json\r\n")

    async with house(upstream, server={"sse_comment_s": 0.02}) as gateway:
        plain = await connect(gateway)
        tagged = await connect(gateway, b"x-slipstream-tags: a\r\n")
        told = []
        for client in (tagged, plain):
            for number in range(3):
                await client.ask(f"warm {number} {client.more!r}")
                await stream(client, f"warm stream {number} {client.more!r}")
            handed_over = counted.handed_over
            for text in ("one", "two", "two"):
                headers = await begin(client, f"whole {text} {client.more!r}")
                assert headers["content-type"] == "text/event-stream; charset=utf-8"
                said = await body(client)
                assert said.count(b"Four.") == said.count(b"[DONE]") == 1
                await rest(gateway)
                told.append((headers["x-slipstream-cache"], said, newest(gateway)["usage"]))
                await asyncio.sleep(0.1)  # long enough for a beat, which would be a second answer
                assert not client.reader._buffer  # type: ignore[attr-defined]
            assert (await client.ask(f"whole one {client.more!r}"))[2] == ANSWER
        assert told[:3] == told[3:]
        assert counted.handed_over >= handed_over + 2
