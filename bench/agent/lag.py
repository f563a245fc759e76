"""From the last byte of a sealed call to the start of its tool, in process, for each dialect.

The model's bytes are fed to the real reader, the events to the real loop of an agent; the tool is a
coroutine that notes when it begins.
"""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Mapping, Sequence

from app.domain.agents import Agent
from app.domain.chat import Dialect, Json, Message, Role, TextPart
from app.domain.deadline import Deadline
from app.domain.decisions import Tier
from app.domain.events import Emit
from app.domain.model_call import ModelCall
from app.domain.models import Model
from app.domain.run_events import RunEvent
from app.domain.tools import ToolSpec
from app.pipeline.agent import AgentRun
from app.pipeline.gateway import Gateway, Turn
from app.routing.load import LoadBalancer
from app.telemetry.timeline import Timeline
from app.tools.registry import RegisteredTool, Registry
from app.wire.codecs import CODECS

RUNS = 1000
Frame = Mapping[str, object]


class _Tool:
    """Notes when it starts."""

    def __init__(self) -> None:
        self.started_ns = 0
        self.started_cpu_ns = 0
        self.taken_away = 0

    async def call(self, arguments: Json) -> object:
        """Start."""
        self.started_ns = time.perf_counter_ns()
        self.started_cpu_ns = time.thread_time_ns()
        self.taken_away = _taken_away()
        return arguments


class _Replayed:
    """A provider that feeds recorded bytes; the call is sealed by the chunk at ``seals``."""

    name = "recorded"

    def __init__(self, dialect: Dialect) -> None:
        self._codec = CODECS[dialect]
        self._calls, self._answer, self._seals = _streams(dialect)
        self.sealed_ns = 0
        self.sealed_cpu_ns = 0
        self.taken_away = 0
        self._asked = 0

    def dialects(self) -> frozenset[Dialect]:
        """None: everything is neutral."""
        return frozenset()

    async def stream(self, call: ModelCall, emit: Emit) -> None:
        """Feed the calls, then the answer, by turns."""
        reader = self._codec.reader()
        self._asked += 1
        calls = self._asked % 2 == 1
        for index, chunk in enumerate(self._calls if calls else self._answer):
            if calls and index == self._seals:
                self.taken_away = _taken_away()
                self.sealed_ns = time.perf_counter_ns()
                self.sealed_cpu_ns = time.thread_time_ns()
            for event in reader.feed(chunk):
                await emit(event)
        call.usage, call.complete = reader.usage, True

    async def count_tokens(self, _: ModelCall) -> int:
        """Count nothing."""
        return 0

    async def start(self) -> None:
        """Nothing to open."""

    async def aclose(self) -> None:
        """Nothing to close."""


async def sealed_to_started(gateway: Gateway) -> dict[str, dict[str, float]]:
    """Microseconds, p50 and p99, by dialect; the p99 of the thread's own CPU, which a busy machine does
    not stretch; and that of the runs (and their share) in which the kernel gave the CPU to nobody
    else between seal and start. ``gateway`` lends its classifier, router and the like.
    """
    found: dict[str, dict[str, float]] = {}
    for dialect in Dialect:
        provider, tool = _Replayed(dialect), _Tool()
        model = Model("m", "recorded", "m", Tier.FAST)
        gateway.models, gateway.providers = {"m": model}, {"recorded": provider}
        gateway.load = LoadBalancer(["m"])
        parameters = {"type": "object", "properties": {"id": {"type": "string"}}}
        gateway.tools = Registry(
            {"get": RegisteredTool(ToolSpec("get", parameters=parameters), tool)}
        )
        agent = Agent("a", tools=("get",), model="m")
        lags: list[float] = []
        worked: list[float] = []
        alone: list[float] = []
        for number in range(RUNS):
            turn = Turn(f"r{number}", "t", Timeline(), Deadline(None), time.time())
            question = (Message(Role.USER, (TextPart("hi"),)),)
            told: list[RunEvent] = []
            await AgentRun(agent, question, gateway, turn, told.append).run()
            lags.append((tool.started_ns - provider.sealed_ns) / 1000)
            worked.append((tool.started_cpu_ns - provider.sealed_cpu_ns) / 1000)
            if tool.taken_away == provider.taken_away:
                alone.append(lags[-1])
        lags.sort()
        alone.sort()
        worked.sort()
        found[dialect.value] = {
            "p50_us": lags[RUNS // 2],
            "p99_us": lags[int(RUNS * 0.99)],
            "cpu_p99_us": worked[int(RUNS * 0.99)],
            "alone_p99_us": alone[int(len(alone) * 0.99)],
            "alone_share": len(alone) / RUNS,
        }
    return found


def _taken_away() -> int:
    """How often the kernel has given this thread's CPU to another before it was done."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw


def _sse(frames: Sequence[Frame], *, named: bool, done: bool) -> list[bytes]:
    chunks = [
        (f"event: {frame['type']}\n" if named else "").encode()
        + b"data: %s\n\n" % json.dumps(frame).encode()
        for frame in frames
    ]
    return [*chunks, b"data: [DONE]\n\n"] if done else chunks


def _streams(dialect: Dialect) -> tuple[list[bytes], list[bytes], int]:
    """Bytes of a turn with one call, of a turn with an answer, and which chunk seals the call."""
    arguments = '{"id":"INC-1"}'
    if dialect is Dialect.CHAT:
        frame = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"}

        def choice(delta: Frame, reason: str | None = None) -> Frame:
            return {**frame, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}

        head = {"index": 0, "id": "c", "type": "function"}
        call: list[Frame] = [
            choice({"role": "assistant"}),
            choice({"tool_calls": [{**head, "function": {"name": "get", "arguments": ""}}]}),
            choice({"tool_calls": [{"index": 0, "function": {"arguments": arguments}}]}),
            choice({}, "tool_calls"),
        ]
        answer: list[Frame] = [choice({"content": "Done."}), choice({}, "stop")]
        return _sse(call, named=False, done=True), _sse(answer, named=False, done=True), 3
    if dialect is Dialect.MESSAGES:
        usage = {"input_tokens": 1, "output_tokens": 1}
        message = {"id": "m", "type": "message", "role": "assistant", "model": "m", "content": []}
        start: Frame = {"type": "message_start", "message": {**message, "usage": usage}}

        def end(reason: str) -> list[Frame]:
            delta = {"stop_reason": reason, "stop_sequence": None}
            return [
                {"type": "message_delta", "delta": delta, "usage": usage},
                {"type": "message_stop"},
            ]

        block = {"type": "tool_use", "id": "c", "name": "get", "input": {}}
        piece = {"type": "input_json_delta", "partial_json": arguments}
        call = [
            start,
            {"type": "content_block_start", "index": 0, "content_block": block},
            {"type": "content_block_delta", "index": 0, "delta": piece},
            {"type": "content_block_stop", "index": 0},
            *end("tool_use"),
        ]
        text = {"type": "text_delta", "text": "Done."}
        answer = [
            start,
            {
                "type": "content_block_start",
                "index": 0,
                "content_block": {"type": "text", "text": ""},
            },
            {"type": "content_block_delta", "index": 0, "delta": text},
            {"type": "content_block_stop", "index": 0},
            *end("end_turn"),
        ]
        return _sse(call, named=True, done=False), _sse(answer, named=True, done=False), 3
    return _responses(arguments)


def _responses(arguments: str) -> tuple[list[bytes], list[bytes], int]:
    response = {"id": "r", "object": "response", "created_at": 1, "model": "m", "output": []}
    usage = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}
    done = {
        "type": "response.completed",
        "response": {**response, "status": "completed", "usage": usage},
    }
    created = {"type": "response.created", "response": {**response, "status": "in_progress"}}
    item = {"type": "function_call", "id": "f", "call_id": "c", "name": "get", "arguments": ""}
    where = {"output_index": 0, "item_id": "f"}
    whole = {**item, "arguments": arguments, "status": "completed"}
    call: list[Frame] = [
        created,
        {"type": "response.output_item.added", "output_index": 0, "item": item},
        {"type": "response.function_call_arguments.delta", **where, "delta": arguments},
        {"type": "response.function_call_arguments.done", **where, "arguments": arguments},
        {"type": "response.output_item.done", "output_index": 0, "item": whole},
        done,
    ]
    part = {"output_index": 0, "item_id": "t", "content_index": 0}
    message = {"type": "message", "id": "t", "role": "assistant", "content": []}
    answer: list[Frame] = [
        created,
        {"type": "response.output_item.added", "output_index": 0, "item": message},
        {"type": "response.output_text.delta", **part, "delta": "Done."},
        {"type": "response.output_text.done", **part, "text": "Done."},
        done,
    ]
    return _sse(call, named=True, done=False), _sse(answer, named=True, done=False), 3
