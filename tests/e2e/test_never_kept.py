"""What must never be kept: an answer that was refused, filtered, cut, broken off or failed is asked anew."""

from __future__ import annotations

import json

import pytest

from tests.contract.test_settings_act import CHAT, chat_answer, gateway_over, question
from tests.support.tool_server import Asked

pytestmark = pytest.mark.anyio


def chunks(*deltas: dict, finish: str | None = "stop", done: bool = True) -> bytes:
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    lines = [{**head, "choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    if finish is not None:
        lines.append({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    text = "".join(f"data: {json.dumps(line)}\n\n" for line in lines)
    return (text + ("data: [DONE]\n\n" if done else "")).encode()


SAID = {"role": "assistant", "content": "A beginning of some length"}
ERROR = b'data: {"error": {"message": "boom", "type": "server_error"}}\n\n'
BAD = {
    "refusal": (False, 200, chat_answer(None, refusal="I will not say.").encode()),
    "filtered": (False, 200, chat_answer("So", finish="content_filter").encode()),
    "cut": (False, 200, chat_answer("The first half of", finish="length").encode()),
    "error": (False, 500, b'{"error": {"message": "no", "type": "server_error"}}'),
    "not found": (False, 404, b'{"error": {"message": "no", "type": "invalid_request_error"}}'),
    "not JSON": (False, 200, b"<html>busy</html>"),
    "empty": (False, 200, b""),
    "streamed refusal": (True, 200, chunks({"role": "assistant"}, {"refusal": "No."})),
    "streamed filter": (True, 200, chunks(SAID, finish="content_filter")),
    "streamed cut": (True, 200, chunks(SAID, finish="length")),
    "broken off": (True, 200, chunks(SAID, finish=None, done=False)),
    "error inside": (True, 200, chunks(SAID, finish=None, done=False) + ERROR),
}


@pytest.mark.parametrize("what", BAD)
async def test_the_next_asker_gets_an_answer_of_its_own(what):
    stream, status, body = BAD[what]
    asked_now = 0

    async def say(asked: Asked, _: dict) -> None:
        nonlocal asked_now
        asked_now += 1
        kind = "text/event-stream" if stream else "application/json"
        await asked.answer(body, status, kind)

    routing = {"escalate": False}
    provider = {"retries": 0}
    async with gateway_over(say, routing=routing, provider=provider) as (client, _, running):
        for _ in range(2):
            answer = await client.post(CHAT, json=question(stream=stream))
            assert answer.headers.get("x-slipstream-cache") != "exact"
        assert asked_now == 2
        # A refusal inside a stream that ends well is known for one when somebody asks again.
        exact = running.context.edge.gateway.exact
        assert exact is not None
        assert len(exact) == 0 or what == "streamed refusal"
