"""What an answer says beside its text is never lost in a hit: it is told again only as it came."""

from __future__ import annotations

import json
import ssl
from uuid import uuid4

import httpx2
import pytest

from app.wire.untranslatable import has_untranslatable_content
from tests.e2e.asking import PATHS
from tests.support.gateway import configuration, running_gateway
from tests.support.tool_server import Asked, tool_server

pytestmark = pytest.mark.anyio
CITED = [{"type": "url_citation", "url_citation": {"url": "https://example.com", "title": "t"}}]


async def cite(asked: Asked) -> None:
    """A model that searches: cites unasked."""
    start = {"id": "c1", "created": 1, "model": "m"}
    if json.loads(asked.body).get("stream"):
        kind = {**start, "object": "chat.completion.chunk"}
        deltas = ({"role": "assistant", "content": "Yes."}, {"annotations": CITED}, {})
        frames = [
            {**kind, "choices": [{"index": 0, "delta": d, "finish_reason": None if d else "stop"}]}
            for d in deltas
        ]
        said = "".join(f"data: {json.dumps(frame)}\n\n" for frame in frames)
        await asked.answer(said + "data: [DONE]\n\n", kind="text/event-stream")
        return
    message = {"role": "assistant", "content": "Yes.", "annotations": CITED}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    await asked.answer({**start, "object": "chat.completion", "choices": [choice]})


async def test_citations_are_told_again_as_they_came_and_asked_for_in_another_form():
    text = f"What does the word {uuid4().hex[:10]} mean in the glossary of TCP?"
    messages = [{"role": "user", "content": text}]
    whole = {"model": "small", "messages": messages}
    streamed = {**whole, "stream": True}
    async with (
        tool_server({"/v1/chat/completions": cite}) as upstream,
        running_gateway(configuration(upstream.url)) as running,
        httpx2.AsyncClient(
            verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), base_url=running.url, timeout=60
        ) as http,
    ):
        for body, outcome in (
            (whole, "miss"), (whole, "exact"), (streamed, "miss"), (streamed, "exact"), (whole, "miss"),
        ):  # fmt: skip
            reply = await http.post(PATHS["chat"], json=body)
            assert reply.headers["x-slipstream-cache"] == outcome
            assert "https://example.com" in reply.text
        asked = len(upstream.asked)
        other = await http.post(
            PATHS["messages"], json={"model": "small", "max_tokens": 50, "messages": messages}
        )
        assert other.status_code == 200
        assert len(upstream.asked) == asked + 1


@pytest.mark.parametrize(
    ("body", "more"),
    [
        (b'{"choices":[{"message":{"content":"x","annotations":[]},"logprobs":null}]}', False),
        (b'{"choices":[{"message":{"content":"x"},"logprobs":{"content":[1]}}]}', True),
        (b'{"citations" : [ "https://a" ]}', True),
        (b'{"content":[{"type":"text","text":"\\"citations\\": [1]"}]}', False),
        (b'{"content":[{"type":"text","citations":null},{"type":"tool_use"}]}', False),
        (b'{"content":[{"type":"server_tool_use"}]}', True),
        (b'{"content":[{"type":"web_search_tool_result"}]}', True),
        (b'{"delta":{"type":"citations_delta","citation":{"a":1}}}', True),
        (b'{"output":[{"type":"function_call"},{"type":"custom_tool_call"}]}', False),
        (b'{"output":[{"type":"web_search_call"}]}', True),
        (b'{"output":[{"type":"mcp_list_tools"}]}', True),
        (b'{"type":"response.output_text.annotation.added","annotation":{"url":"u"}}', True),
        (b'{"usage":{"prompt_tokens_details":{"audio_tokens":3}}}', False),
        (b'{"message":{"content":null,"audio":{"id":"a"}}}', True),
    ],
)
def test_what_has_no_neutral_form_is_seen(body: bytes, more: bool):
    assert has_untranslatable_content((body[:9], body[9:])) is more
