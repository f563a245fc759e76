"""A resting connection that ends under a request: an ordinary one is sent again, one that acts is not."""

from __future__ import annotations

import json
import ssl

import httpx2
import pytest

from tests.support.gateway import configuration, running_gateway
from tests.support.tool_server import Asked, tool_server

pytestmark = pytest.mark.anyio
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
ANSWER = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1,
    "status": "completed",
    "model": "m",
    "output": [
        {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "Yes.", "annotations": []}],
        }
    ],
    "usage": {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2},
}


@pytest.mark.parametrize(
    ("more", "status", "heard"),
    [({}, 200, 2), ({"previous_response_id": "resp_0"}, 502, 1), ({"store": True}, 502, 1)],
    ids=str,
)
async def test_a_request_that_acts_is_not_sent_again_on_another_connection(more, status, heard):
    seen: list[str] = []

    async def respond(asked: Asked) -> None:
        text = json.loads(asked.body)["input"]
        seen.append(text)
        if text == "acts" and seen.count(text) == 1:
            asked.writer.close()  # heard, perhaps acted upon, never answered
            return
        await asked.answer(ANSWER)

    async with (
        tool_server({"/v1/responses": respond}) as server,
        running_gateway(configuration(server.url)) as running,
        httpx2.AsyncClient(verify=NO_TLS, base_url=running.url, timeout=20) as client,
    ):
        body = {"model": "small", "input": "first"}
        assert (await client.post("/v1/responses", json=body)).status_code == 200
        reply = await client.post("/v1/responses", json={**body, "input": "acts", **more})
        assert reply.status_code == status
        assert seen.count("acts") == heard
