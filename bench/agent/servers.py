"""The other sides of an agent's run, on real sockets: a model with a scripted clock, tools with
given latencies.

The model reads its script from the user's message (a JSON object), so one server plays every task:
when the first token comes, how long each call takes to write, and how long the answer. Its clock is
absolute: what the machine adds does not add up. A tool takes as long as it is said to, or as the
call's own ``ms`` says.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from urllib.parse import parse_qs, urlsplit

from bench.loopback import Answer, Request, send_json

_FRAME = {"id": "m", "object": "chat.completion.chunk", "created": 1, "model": "scripted"}
_STREAM = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)


def tools(latencies_s: Mapping[str, float]) -> Answer:
    """Answer ``/<tool>/…`` after the tool's latency, or after ``?ms=``."""

    async def answer(asked: Request, writer: asyncio.StreamWriter) -> None:
        parts = urlsplit(asked.target)
        given_ms = parse_qs(parts.query).get("ms")
        name = parts.path.split("/")[1]
        await asyncio.sleep(float(given_ms[0]) / 1000 if given_ms else latencies_s[name])
        await send_json(json.dumps({"path": parts.path, "state": "fine"}).encode(), writer)

    return answer


async def model(asked: Request, writer: asyncio.StreamWriter) -> None:
    """Play the script in the last user message: call its tools, or answer once their results are there."""
    request = json.loads(asked.body)
    messages = request["messages"]
    question = next(m["content"] for m in reversed(messages) if m["role"] == "user")
    script = json.loads(question[question.index("{") :])
    clock = _Clock(writer)
    writer.write(_STREAM)
    fast = request["model"] == "fast"
    if messages[-1]["role"] == "tool" or not script["calls"]:
        answer_s = script["fast_answer_s"] if fast else script["answer_s"]
        await clock.at(answer_s * 0.3)
        await clock.say({"content": "The state of all of them is fine"})
        await clock.at(answer_s)
        await clock.say({"content": ", and that is what was found."})
        await clock.end("stop")
        return
    await clock.at(script["first_s"])
    for index, (name, arguments) in enumerate(script["calls"]):
        text = json.dumps(arguments)
        began = {"index": index, "id": f"c{index}", "type": "function"}
        await clock.say({"tool_calls": [{**began, "function": {"name": name, "arguments": ""}}]})
        await clock.at(script["first_s"] + (index + 1) * script["call_s"])
        await clock.say({"tool_calls": [{"index": index, "function": {"arguments": text}}]})
    await clock.end("tool_calls")


class _Clock:
    """Says things at instants after the request came."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._loop = asyncio.get_running_loop()
        self._zero_s = self._loop.time()

    async def at(self, seconds: float) -> None:
        """Wait until ``seconds`` after the request."""
        await asyncio.sleep(max(0.0, self._zero_s + seconds - self._loop.time()))

    async def say(self, delta: dict[str, object]) -> None:
        """Send one chunk."""
        await self._send({**_FRAME, "choices": [{"index": 0, "delta": delta}]})

    async def end(self, reason: str) -> None:
        """Send the finish, the usage and the terminator."""
        last = {"index": 0, "delta": {}, "finish_reason": reason}
        usage = {"prompt_tokens": 200, "completion_tokens": 60, "total_tokens": 260}
        await self._send({**_FRAME, "choices": [last]})
        await self._send({**_FRAME, "choices": [], "usage": usage})
        self._raw(b"data: [DONE]\n\n")
        self._writer.write(b"0\r\n\r\n")
        await self._writer.drain()

    async def _send(self, frame: dict[str, object]) -> None:
        self._raw(b"data: %s\n\n" % json.dumps(frame).encode())
        await self._writer.drain()

    def _raw(self, data: bytes) -> None:
        self._writer.write(b"%x\r\n%s\r\n" % (len(data), data))
