"""A key that an upstream tells back reaches nobody: by status or in a stream, by either way to a model."""

from __future__ import annotations

import json

import httpx2
import pytest

from tests.support.gateway import configuration, running_gateway
from tests.support.tool_server import Asked, tool_server

pytestmark = pytest.mark.anyio
KEY, HEADER = "sk-vendor-5f1c/9b7de2a84c63", "org-secret-90210"
CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"
CHUNK = {
    "id": "c",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "delta": {"content": "Hi"}}],
}
USAGE = {"input_tokens": 1, "output_tokens": 1}
MESSAGE = {"id": "m", "type": "message", "role": "assistant", "model": "m", "content": []}
START = {"type": "message_start", "message": {**MESSAGE, "stop_reason": None, "usage": USAGE}}


def stream_of(path: str, said: str, *, begun: bool) -> bytes:
    """A stream that breaks off with an error that says ``said``."""
    told = {"message": said, "type": "server_error", "code": "broken"}
    if path.endswith("completions"):
        events: list[dict[str, object]] = [CHUNK, {"error": told}]
    elif path.endswith("messages"):
        events = [START, {"type": "error", "error": {"type": "api_error", "message": said}}]
    else:
        created = {"type": "response.created", "response": {"id": "r", "output": []}}
        failed = {"status": "failed", "id": "r", "error": {"code": "server_error", "message": said}}
        events = [created, {"type": "response.failed", "response": failed}]
    kept = events if begun else events[1:]
    # One vendor's library spells a slash with a backslash before it, which is JSON too.
    lines = [json.dumps(event).replace("/", "\\/") for event in kept]
    return "".join(f"data: {line}\n\n" for line in lines).encode()


@pytest.mark.parametrize("transport", ["wire", "sdk"])
@pytest.mark.parametrize("how", ["status", "first", "later"])
async def test_a_key_that_is_told_back_reaches_nobody(transport: str, how: str, caplog) -> None:
    async def tell(asked: Asked) -> None:
        sent = asked.headers.get("authorization") or asked.headers.get("x-api-key") or ""
        assert KEY in sent
        said = f"no, not for {sent} of {asked.headers.get('x-org')}"
        if how == "status":
            await asked.answer({"error": {"message": said, "type": "server_error"}}, 401)
            return
        body = stream_of(asked.target.partition("?")[0], said, begun=how == "later")
        await asked.answer(body, 200, "text/event-stream")

    async with tool_server(dict.fromkeys((CHAT, MESSAGES, RESPONSES), tell)) as upstream:
        values = configuration(upstream.url)
        for provider in values["providers"].values():
            provider |= {"transport": transport, "api_key": KEY, "headers": {"x-org": HEADER}}
        async with (
            running_gateway(values) as gateway,
            httpx2.AsyncClient(base_url=gateway.url, timeout=20) as http,
        ):
            for path in (CHAT, MESSAGES, RESPONSES):
                for model in ("small", "large"):
                    body = {"model": model, "stream": True, "max_tokens": 9}
                    talk = [{"role": "user", "content": f"{how} {path}?"}]
                    body |= {"input": talk} if path == RESPONSES else {"messages": talk}
                    if path == RESPONSES:
                        body.pop("max_tokens")
                    answer = await http.post(path, json=body)
                    for secret in (KEY, KEY.replace("/", "\\/"), HEADER):
                        assert secret not in answer.text, (path, model)
                        assert secret not in caplog.text
                    assert "redacted" in answer.text, (path, model, answer.text)
