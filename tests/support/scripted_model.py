"""A model that says exactly what a test wants, over a real socket, chunk by chunk (OpenAI Chat dialect).

Each answer is a coroutine that is handed the request's body and a way to say deltas; it may wait for
events between two of them, so a test can hold the stream open in mid-call.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from tests.support.tool_server import Asked, tool_server

HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
    b"transfer-encoding: chunked\r\nconnection: close\r\n\r\n"
)


@dataclass(slots=True)
class Speaking:
    """One answer under way."""

    asked: Asked
    body: dict[str, object]

    async def delta(self, **delta: object) -> None:
        """Say one chunk with this ``delta``."""
        await self._chunk({"index": 0, "delta": delta, "finish_reason": None})

    async def text(self, text: str) -> None:
        """Say text."""
        await self.delta(content=text)

    async def call(self, index: int, name: str, arguments: str, call_id: str | None = None) -> None:
        """Call a tool, its arguments in two pieces; sealed by what comes next."""
        half = len(arguments) // 2
        first = {"index": index, "id": call_id or f"c{index}", "type": "function"}
        await self.delta(
            tool_calls=[{**first, "function": {"name": name, "arguments": arguments[:half]}}]
        )
        await self.delta(tool_calls=[{"index": index, "function": {"arguments": arguments[half:]}}])

    async def finish(self, reason: str = "stop", usage: tuple[int, int] = (10, 5)) -> None:
        """End the answer."""
        await self._chunk({"index": 0, "delta": {}, "finish_reason": reason})
        prompt, completion = usage
        told = {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }
        await self._data(json.dumps({**_FRAME, "choices": [], "usage": told}))
        await self._data("[DONE]")
        self.asked.writer.write(b"0\r\n\r\n")
        await self.asked.writer.drain()
        self.asked.writer.close()

    async def _chunk(self, choice: dict[str, object]) -> None:
        await self._data(json.dumps({**_FRAME, "choices": [choice]}))

    async def _data(self, data: str) -> None:
        raw = f"data: {data}\n\n".encode()
        self.asked.writer.write(b"%x\r\n%s\r\n" % (len(raw), raw))
        await self.asked.writer.drain()


_FRAME = {"id": "x1", "object": "chat.completion.chunk", "created": 1, "model": "scripted"}
Script = Callable[[Speaking], Awaitable[None]]


@dataclass(slots=True)
class ScriptedModel:
    """The upstream at ``url``; answers with ``scripts`` in order, the last one again and again."""

    url: str
    scripts: list[Script]
    bodies: list[dict[str, object]] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)


@contextlib.asynccontextmanager
async def scripted_model(*scripts: Script) -> AsyncIterator[ScriptedModel]:
    """Serve ``scripts``."""
    found = ScriptedModel("", list(scripts))

    async def answer(asked: Asked) -> None:
        body = json.loads(asked.body)
        found.bodies.append(body)
        found.asked.append(asked)
        script = found.scripts[min(len(found.bodies), len(found.scripts)) - 1]
        asked.writer.write(HEAD)
        await script(Speaking(asked, body))

    async with tool_server({"/v1/chat/completions": answer}) as server:
        found.url = server.url
        yield found
