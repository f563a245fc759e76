"""What a run's user waits for beside the work itself: its first sign, its end, and what the gateway
adds.

Model and tools are servers in this process, so that both ends of every interval are read from one
clock: when the client hung up and when a tool's server saw it; when a model's stream began and
ended. The critical path is what the servers really took, not what they were told to take.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Mapping
from urllib.parse import parse_qs, urlsplit

from bench.agent.gateway import ask, configuration, gateway
from bench.agent.servers import model, tools
from bench.loopback import Answer, Request, served

WINDOWS = {
    "the model is silent": 1,
    "a call runs, the next is written": 2,
    "three calls run": 3,
    "the answer is written": 1,
}
"""When the client leaves, and how many upstream and tool exchanges are open then."""
TOOL_S = 0.1
_TOOL = "work"
LONGEST_S = 10.0
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_FRAME = {"id": "m", "object": "chat.completion.chunk", "created": 1, "model": "m"}


def _middle_and_tail(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "n": len(ordered),
        "p50_ms": ordered[len(ordered) // 2] * 1000,
        "p99_ms": ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))] * 1000,
        "worst_ms": ordered[-1] * 1000,
    }


def _run_body(run_id: str, question: str) -> bytes:
    message = {"id": "m1", "role": "user", "content": question}
    given = {"threadId": run_id, "runId": run_id, "messages": [message]}
    return json.dumps({**given, "forwardedProps": {"agent": "shapes"}}).encode()


async def _begin(url: str, body: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    head = f"POST /v1/agent HTTP/1.1\r\nhost: bench\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    return reader, writer


async def first_status(runs: int) -> dict[str, float]:
    """Milliseconds from the sending of a request to the first status frame, connecting included."""
    script = {"first_s": 0.02, "answer_s": 0.02, "fast_answer_s": 0.02, "calls": []}
    found: list[float] = []
    async with served(model) as upstream, served(tools({})) as tool_url:
        values = configuration(upstream, tool_url, tool_cache_s=0)
        async with gateway(values) as url:
            for number in range(runs + 20):
                body = _run_body(f"f{number}", f"{number} {json.dumps(script)}")
                began_s = time.perf_counter()
                reader, writer = await _begin(url, body)
                await asyncio.wait_for(reader.readuntil(b"ACTIVITY_SNAPSHOT"), LONGEST_S)
                took_s = time.perf_counter() - began_s
                await asyncio.wait_for(reader.readuntil(b"RUN_FINISHED"), LONGEST_S)
                writer.close()
                if number >= 20:  # the first are the process's own start
                    found.append(took_s)
    return _middle_and_tail(found)


async def three_tools(runs: int) -> dict[str, dict[str, float]]:
    """Milliseconds of a run with three tools at once beyond its critical path; and beside it, in the
    same rounds, of a bare client that makes the three exchanges of that path itself.
    """
    spans: list[tuple[str, float, float]] = []

    def timed(name: str, inner: Answer) -> Answer:
        async def answer(asked: Request, writer: asyncio.StreamWriter) -> None:
            began_s = time.perf_counter()
            await inner(asked, writer)
            spans.append((name, began_s, time.perf_counter()))

        return answer

    def beyond(took_s: float) -> float:
        # The last call is sealed by its turn's end: its tool follows the first model call.
        models = sum(end - began for name, began, end in spans if name == "model")
        last = max((s for s in spans if s[0] == "tool"), key=lambda span: span[1])
        return took_s - models - (last[2] - last[1])

    ours: list[float] = []
    bare: list[float] = []
    async with (
        served(timed("model", model)) as upstream,
        served(timed("tool", tools({}))) as desk,
        gateway(configuration(upstream, desk, tool_cache_s=0)) as url,
    ):
        for number in range(runs + 10):
            calls = [
                ("work", {"id": f"{number}-{i}", "ms": round(TOOL_S * 1000)}) for i in range(3)
            ]
            script = {"first_s": 0.05, "call_s": 0.02, "calls": calls}
            answer = {"answer_s": 0.05, "fast_answer_s": 0.05}
            spans.clear()
            _, took_s = await ask(url, "shapes", json.dumps(script | answer))
            if number >= 10:
                ours.append(beyond(took_s))
            spans.clear()
            took_s = await _bare(upstream, desk, script | answer)
            if number >= 10:
                bare.append(beyond(took_s))
    return {"the gateway": _middle_and_tail(ours), "a bare client": _middle_and_tail(bare)}


async def _bare(upstream: str, desk: str, script: Mapping[str, object]) -> float:
    """Seconds of a model call, one tool and a model call, by hand, each on a new connection."""
    question: list[dict[str, object]] = [{"role": "user", "content": json.dumps(script)}]
    result: dict[str, object] = {"role": "tool", "content": "{}", "tool_call_id": "c0"}
    began_s = time.perf_counter()
    for url, target, messages in (
        (upstream, "POST /v1/chat/completions", question),
        (desk, f"GET /{_TOOL}/x?ms={round(TOOL_S * 1000)}", None),
        (upstream, "POST /v1/chat/completions", [*question, result]),
    ):
        parts = urlsplit(url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        asked = {"model": "fast", "messages": messages}
        body = b"" if messages is None else json.dumps(asked).encode()
        head = f"{target} HTTP/1.1\r\nhost: b\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await reader.readuntil(b"}" if messages is None else b"[DONE]")
        writer.close()
    return time.perf_counter() - began_s


class _Hanging:
    """Model and tools that hang where the window says, and note when their peer hangs up."""

    def __init__(self) -> None:
        self.open = 0
        self.arrived = asyncio.Condition()
        self.gone_s: list[float] = []

    async def _hang(self, reader: asyncio.StreamReader) -> None:
        async with self.arrived:
            self.open += 1
            self.arrived.notify_all()
        with contextlib.suppress(ConnectionError):
            await reader.read(1)
        async with self.arrived:
            self.gone_s.append(time.perf_counter())
            self.arrived.notify_all()

    async def until(self, opened: int, gone: int) -> None:
        """Wait until so many hang, and so many have been left."""
        async with asyncio.timeout(LONGEST_S), self.arrived:
            await self.arrived.wait_for(lambda: self.open >= opened and len(self.gone_s) >= gone)

    async def peer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                lengths = [
                    line.partition(":")[2]
                    for line in head.lower().split("\r\n")
                    if line.startswith("content-length:")
                ]
                body = await reader.readexactly(int(lengths[0])) if lengths else b""
                target = head.split(" ", 2)[1]
                if not await self._answer(target, body, reader, writer):
                    return
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()

    async def _answer(
        self, target: str, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        if target.startswith(f"/{_TOOL}/"):
            if parse_qs(urlsplit(target).query).get("ms") == ["0"]:
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
                return True
            await self._hang(reader)
            return False
        messages = json.loads(body)["messages"]
        window = str(next(m["content"] for m in messages if m["role"] == "user"))
        if window == "the model is silent":
            await self._hang(reader)
            return False
        writer.write(_HEAD)
        if messages[-1]["role"] == "tool":
            _say(writer, {"content": "So far "})
            await self._hang(reader)
            return False
        quick = window == "the answer is written"
        for index in range(2 if window.startswith("a call") else 3):
            arguments = json.dumps({"id": str(index), "ms": 0 if quick else 1})
            function = {"name": "work", "arguments": arguments}
            if index == 1 and window.startswith("a call"):
                function["arguments"] = '{"id'
            call = {"index": index, "id": f"c{index}", "type": "function", "function": function}
            _say(writer, {"tool_calls": [call]})
        if window.startswith("a call"):
            await self._hang(reader)
            return False
        _say(writer, {}, "tool_calls")
        data = b"data: [DONE]\n\n"
        writer.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(data), data))
        return True


def _say(
    writer: asyncio.StreamWriter, delta: Mapping[str, object], reason: str | None = None
) -> None:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    data = b"data: %s\n\n" % json.dumps({**_FRAME, "choices": [choice]}).encode()
    writer.write(b"%x\r\n%s\r\n" % (len(data), data))


@contextlib.asynccontextmanager
async def _hanging() -> AsyncIterator[tuple[str, _Hanging]]:
    """What hangs, and its URL."""
    there = _Hanging()
    server = await asyncio.start_server(there.peer, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", there
    finally:
        server.close()


async def cancellation(rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds until the last open tool and upstream exchange is hung up: by window and by the
    way the run was ended.
    """
    found: dict[str, dict[str, float]] = {}
    async with (
        _hanging() as (address, there),
        gateway(configuration(address, address, tool_cache_s=0)) as url,
    ):
        for window, opened in WINDOWS.items():
            for way in ("client leaves", "cancel"):
                taken = []
                for number in range(rounds):
                    there.open, there.gone_s = 0, []
                    run_id = f"{len(found)}-{number}"
                    taken.append(await _one(url, window, opened, run_id, way, there))
                found[f"{window}; {way}"] = _middle_and_tail(taken)
    return found


async def _one(  # noqa: PLR0917 - one measurement, all of it named
    url: str, window: str, opened: int, run_id: str, way: str, there: _Hanging
) -> float:
    reader, writer = await _begin(url, _run_body(run_id, window))
    await there.until(opened, 0)
    if window == "the answer is written":
        await asyncio.wait_for(reader.readuntil(b"So far"), LONGEST_S)
    began_s = time.perf_counter()
    if way == "cancel":
        parts = urlsplit(url)
        _, asking = await asyncio.open_connection(parts.hostname, parts.port)
        asking.write(
            f"POST /v1/runs/{run_id}/cancel HTTP/1.1\r\nhost: b\r\ncontent-length: 0\r\n\r\n".encode()
        )
        await there.until(opened, opened)
        asking.close()
    else:
        writer.transport.abort()
        await there.until(opened, opened)
    writer.close()
    return max(there.gone_s) - began_s
