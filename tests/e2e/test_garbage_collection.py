"""Requests leave nothing behind that only the garbage collector can free: it would stop the loop for that."""

from __future__ import annotations

import asyncio
import gc
import json
from collections import Counter

import pytest

from app.api.eager_task import EagerTask
from app.api.native import NativeOutlet
from app.api.protocol import GatewayProtocol
from app.api.response import TurnResponse
from app.pipeline.gateway import Turn
from tests.support.gateway import Running, configuration, running_gateway
from tests.support.raw_server import PATIENCE_S

pytestmark = pytest.mark.anyio

OURS = (GatewayProtocol, NativeOutlet, EagerTask, TurnResponse, Turn)
CHAT = "/v1/chat/completions"


async def ask(gateway: Running, path: str, body: dict[str, object] | None, times: int) -> None:
    """Ask on one new connection, and read until its end."""
    port = int(gateway.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    sent = b"" if body is None else json.dumps(body, separators=(",", ":")).encode()
    verb = "GET" if body is None else "POST"
    for left in range(times, 0, -1):
        end = "" if left > 1 else "connection: close\r\n"
        head = f"{verb} {path} HTTP/1.1\r\nhost: x\r\n{end}content-length: {len(sent)}\r\n\r\n"
        writer.write(head.encode() + sent)
    answers = await asyncio.wait_for(reader.read(), PATIENCE_S)
    assert answers.count(b"HTTP/1.1 200 OK\r\n") == times, answers[:400]
    writer.close()
    await writer.wait_closed()


def question(text: str, **more: object) -> dict[str, object]:
    return {"model": "small", "messages": [{"role": "user", "content": text}], **more}


WAYS: dict[str, tuple[str, dict[str, object] | None]] = {
    "a question": (CHAT, question("What is a heron?")),
    "a question to auto": (CHAT, question("What is an egret?", model="auto")),
    "a stream": (CHAT, question("What is a stork?", stream=True)),
    "a long prompt": (CHAT, question("What is a crane? " * 9_000)),
    "another dialect": ("/v1/messages", question("What is a swan?", max_tokens=9)),
    "a scrape": ("/metrics", None),
    "a list": ("/v1/models", None),
}


@pytest.mark.parametrize("way", WAYS)
async def test_nothing_of_a_request_or_its_connection_waits_for_the_collector(upstream, way):
    path, body = WAYS[way]
    async with running_gateway(configuration(upstream.base_url)) as gateway:
        await ask(gateway, path, body, 1)
        await asyncio.sleep(0)
        gc.collect()
        earlier = [each for each in gc.get_objects() if isinstance(each, OURS)]
        before = gc.get_debug()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            for _ in range(3):
                await ask(gateway, path, body, 2)
            gc.collect()
            left = Counter(type(each).__name__ for each in gc.garbage if isinstance(each, OURS))
        finally:
            gc.set_debug(before)
            gc.garbage.clear()
            gc.enable()
            del earlier  # held until here: what other tests left alive is not of these requests
    assert not left
