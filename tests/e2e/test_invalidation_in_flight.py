"""An answer whose making began before an invalidation is not kept after it, and nobody joins it."""

from __future__ import annotations

import asyncio
import json
import ssl
from dataclasses import dataclass, field
from uuid import uuid4

import httpx2
import pytest

from tests.support.gateway import configuration, running_gateway
from tests.support.tool_server import Asked, tool_server

pytestmark = pytest.mark.anyio
PLAIN = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
PATH = "/v1/chat/completions"


@dataclass(slots=True)
class HeldModel:
    """Answers each call when it is let, with the number of the call."""

    arrived: asyncio.Queue[asyncio.Event] = field(default_factory=asyncio.Queue)
    calls: int = 0

    async def answer(self, asked: Asked) -> None:
        """One answer, whole or streamed."""
        self.calls += 1
        number, let = self.calls, asyncio.Event()
        self.arrived.put_nowait(let)
        start = {"id": "c1", "created": 1, "model": "m"}
        text = f"answer {number}"
        if json.loads(asked.body).get("stream"):
            kind = {**start, "object": "chat.completion.chunk"}
            delta = {
                "index": 0,
                "delta": {"role": "assistant", "content": text},
                "finish_reason": None,
            }
            end = {"index": 0, "delta": {}, "finish_reason": "stop"}
            frames = [
                f"data: {json.dumps({**kind, 'choices': [c]})}\n\n".encode() for c in (delta, end)
            ]
            tail = b"data: [DONE]\n\n"
            length = sum(map(len, frames)) + len(tail)
            head = f"content-type: text/event-stream\r\ncontent-length: {length}\r\n\r\n"
            asked.writer.write(f"HTTP/1.1 200 OK\r\n{head}".encode() + frames[0])
            await let.wait()
            asked.writer.write(frames[1] + tail)
            await asked.writer.drain()
            return
        await let.wait()
        message = {"role": "assistant", "content": text}
        usage = {"prompt_tokens": 9, "completion_tokens": 7, "total_tokens": 16}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        await asked.answer(
            {**start, "object": "chat.completion", "choices": [choice], "usage": usage}
        )


@dataclass(slots=True)
class Scene:
    """A gateway over a model that waits."""

    http: httpx2.AsyncClient
    model: HeldModel
    group: asyncio.TaskGroup

    def asks(self, body: dict[str, object], **headers: str) -> asyncio.Task[httpx2.Response]:
        """A request under way."""
        named = {f"x-slipstream-{name}": value for name, value in headers.items()}
        return self.group.create_task(self.http.post(PATH, json=body, headers=named))

    async def began(self) -> asyncio.Event:
        """The next call that reached the model; set to have it answered."""
        return await asyncio.wait_for(self.model.arrived.get(), 20)


@pytest.fixture
async def scene():
    model = HeldModel()
    async with (
        tool_server({PATH: model.answer}) as upstream,
        running_gateway(configuration(upstream.url)) as running,
        httpx2.AsyncClient(verify=PLAIN, base_url=running.url, timeout=60) as http,
        asyncio.TaskGroup() as group,
    ):
        yield Scene(http, model, group)


def body_of(**more: object) -> dict[str, object]:
    text = f"What does the word {uuid4().hex[:10]} mean in the glossary of TCP?"
    return {"model": "small", "messages": [{"role": "user", "content": text}], **more}


FORMS = {
    "straight": ({}, {}),
    "straight, streamed": ({"stream": True}, {}),
    "general": ({}, {"tags": "docs"}),
    "general, streamed": ({"stream": True}, {"tags": "docs"}),
    "own fields": ({"seed": 7}, {}),
}


@pytest.mark.parametrize("what", [{"all": True}, {"model": "small"}], ids=str)
@pytest.mark.parametrize("form", FORMS)
async def test_what_began_before_is_not_kept(scene: Scene, form: str, what: dict[str, object]):
    more, headers = FORMS[form]
    body = body_of(**more)
    first = scene.asks(body, **headers)
    let = await scene.began()
    assert (await scene.http.post("/v1/cache/invalidate", json=what)).status_code == 200
    let.set()
    assert "answer 1" in (await first).text
    again = scene.asks(body, **headers)
    (await scene.began()).set()
    reply = await again
    assert reply.headers["x-slipstream-cache"] == "miss"
    assert "answer 2" in reply.text
    assert (await scene.asks(body, **headers)).headers["x-slipstream-cache"] == "exact"


@pytest.mark.parametrize("form", FORMS)
async def test_nobody_joins_what_began_before(scene: Scene, form: str):
    more, headers = FORMS[form]
    body = body_of(**more)
    first = scene.asks(body, **headers)
    let = await scene.began()
    assert (await scene.http.post("/v1/cache/invalidate", json={"all": True})).status_code == 200
    late = scene.asks(body, **headers)
    (await scene.began()).set()
    let.set()
    assert "answer 1" in (await first).text
    assert "answer 2" in (await late).text


async def test_what_an_invalidation_does_not_match_is_kept(scene: Scene):
    for what in ({"tags": ["other"]}, {"model": "large"}):
        body = body_of()
        first = scene.asks(body, tags="docs")
        let = await scene.began()
        assert (await scene.http.post("/v1/cache/invalidate", json=what)).status_code == 200
        let.set()
        await first
        assert (await scene.asks(body, tags="docs")).headers["x-slipstream-cache"] == "exact"


async def test_an_entry_that_is_made_anew_while_it_is_deleted_or_called_wrong_is_not_kept(
    scene: Scene,
):
    for wrong in (False, True):
        body = body_of()
        first = scene.asks(body)
        (await scene.began()).set()
        await first
        hit = await scene.asks(body)
        assert hit.headers["x-slipstream-cache"] == "exact"
        anew = scene.asks(body, cache="refresh")
        let = await scene.began()
        if wrong:
            said = {"request_id": hit.headers["x-request-id"], "verdict": "wrong"}
            assert (await scene.http.post("/v1/cache/feedback", json=said)).status_code == 200
        else:
            traced = (await scene.http.get(f"/v1/traces/{hit.headers['x-request-id']}")).json()
            gone = await scene.http.delete(f"/v1/cache/entries/{traced['cache']['entry']}")
            assert gone.status_code == 200
        let.set()
        await anew
        last = scene.asks(body)
        (await scene.began()).set()
        assert (await last).headers["x-slipstream-cache"] == "miss"


async def test_an_entry_deleted_before_it_is_kept_here_is_not_kept(scene: Scene):
    """As when another worker had it, and this one is about to."""
    body = body_of()
    first = scene.asks(body)
    (await scene.began()).set()
    await first
    hit = await scene.asks(body)
    traced = (await scene.http.get(f"/v1/traces/{hit.headers['x-request-id']}")).json()
    path = f"/v1/cache/entries/{traced['cache']['entry']}"
    assert (await scene.http.delete(path)).status_code == 200
    again = scene.asks(body)
    let = await scene.began()
    assert (await scene.http.delete(path)).status_code == 404
    let.set()
    await again
    last = scene.asks(body)
    (await scene.began()).set()
    assert (await last).headers["x-slipstream-cache"] == "miss"
