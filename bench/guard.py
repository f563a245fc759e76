"""`make bench-guard`: what a request costs beside our own bare pass-through, as a ratio that must not grow.

Both servers stand side by side, each loaded in turn by the same few connections with questions that were
never asked before; counted is the CPU of the server's own process. A ratio within a round depends neither on
the machine nor, much, on who else uses it, so this can run where every change is tested. The limit is set to
what was measured and half as much again: noise stays below it, a doubled cost does not.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.machine import cpu_ns
from bench.processes import Server, free_port, running, wait_for_answer
from bench.scenarios import NONCE, SCENARIOS, request_body
from bench.targets.base import KEY
from bench.targets.slipstream import CONFIG

LIMIT = 1.5
"""CPU of a request with everything on, over the bare one's: 0.86 to 0.98, 2026-11-21."""
ROUNDS = 5
_CONNECTIONS = 16
_REQUESTS = 1_500
_WARM = 600
_READY_S = 60.0
_BODY = json.dumps(
    {
        "id": "c1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Yes."},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11},
    }
).encode()
_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (
    len(_BODY),
    _BODY,
)


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU of one request in a round, in microseconds, of both servers."""

    gateway_us: float
    bare_us: float

    @property
    def ratio(self) -> float:
        """How many times the bare one's."""
        return self.gateway_us / self.bare_us


class _Upstream(asyncio.Protocol):
    """Answers each request at once; a request's body comes with its head or right behind it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to read."""
        assert isinstance(transport, asyncio.Transport)
        self._transport, self._held = transport, b""

    def data_received(self, data: bytes) -> None:
        """Answer what is whole."""
        self._held += data
        while (end := self._held.find(b"\r\n\r\n")) >= 0:
            length = int(self._held[:end].lower().partition(b"content-length:")[2].split()[0])
            if len(self._held) < end + 4 + length:
                return
            self._held = self._held[end + 4 + length :]
            self._transport.write(_ANSWER)


async def measure(rounds: int = ROUNDS) -> list[Cost]:
    """Load both in turn. Raises ``NotReadyError`` when one does not start, RuntimeError for a bad answer."""
    loop = asyncio.get_running_loop()
    upstream = await loop.create_server(_Upstream, "127.0.0.1", 0)
    port = upstream.sockets[0].getsockname()[1]
    costs: list[Cost] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slipstream-guard-")))
        started = [
            await asyncio.to_thread(stack.enter_context, start(folder, port))
            for start in (_gateway, _bare)
        ]
        asked = 0
        for number in range(-1, rounds):
            used = []
            for server, model in started:
                count = _REQUESTS if number >= 0 else _WARM
                used.append(await _load(server, model, count, asked))
                asked += count
            if number >= 0:
                costs.append(Cost(*used))
    upstream.close()
    await upstream.wait_closed()
    return costs


@contextmanager
def _gateway(folder: Path, upstream: int) -> Iterator[tuple[Server, str]]:
    port, log, url = free_port(), folder / "gateway.log", f"http://127.0.0.1:{upstream}"
    argv = [sys.executable, "-m", "app", "serve", "--config", str(CONFIG), "--port", str(port)]
    env = {
        "UPSTREAM_OPENAI": f"{url}/v1",
        "UPSTREAM_ANTHROPIC": url,
        "SLIPSTREAM_DATA": str(folder / "data"),
        "SLIPSTREAM_SERVER__DRAIN_S": "0",
    }
    with _started(argv, port, log, env, "bench-json") as found:
        yield found


@contextmanager
def _bare(folder: Path, upstream: int) -> Iterator[tuple[Server, str]]:
    port, log = free_port(), folder / "bare.log"
    argv = [
        sys.executable, "-m", "uvicorn", "--factory", "bench.targets.apps.bare_wire:create_app",
        "--host", "127.0.0.1", "--port", str(port), "--no-access-log",
        "--loop", "uvloop", "--http", "httptools", "--log-level", "warning",
    ]  # fmt: skip
    env = {"BENCH_UPSTREAM": f"http://127.0.0.1:{upstream}"}
    with _started(argv, port, log, env, "m") as found:
        yield found


@contextmanager
def _started(
    argv: Sequence[str], port: int, log: Path, env: dict[str, str], model: str
) -> Iterator[tuple[Server, str]]:
    with running(argv, cpu=None, log=log, env=env) as process:
        server = Server(process, port, log)
        body = _body(model, 0)
        wait_for_answer(server, "/v1/chat/completions", body, _HEADERS, _READY_S)
        yield server, model


_HEADERS = {"Authorization": f"Bearer {KEY}"}


def _body(model: str, number: int) -> bytes:
    return request_body(SCENARIOS["json_c1"], model).replace(NONCE.encode(), b"%016d" % number)


async def _load(server: Server, model: str, count: int, base: int) -> float:
    """Microseconds of the server's CPU a request, over ``count`` of them."""
    assert server.process is not None
    pid = server.process.pid
    numbers = iter(range(base + 1, base + 1 + count))
    before_ns = cpu_ns({pid})
    async with asyncio.TaskGroup() as group:
        for _ in range(_CONNECTIONS):
            group.create_task(_ask(server.port, model, numbers))
    return (cpu_ns({pid}) - before_ns) / 1e3 / count


async def _ask(port: int, model: str, numbers: Iterator[int]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for number in numbers:
            body = _body(model, number)
            writer.write(
                b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %s\r\n"
                b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
                % (KEY.encode(), len(body), body)
            )
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200 "):
                raise RuntimeError(f"not answered: {head[:200]!r}")
            length = int(head.lower().partition(b"content-length:")[2].split()[0])
            await reader.readexactly(length)
    finally:
        writer.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and judge. 1: a request costs too much."""
    parser = argparse.ArgumentParser(prog="python -m bench.guard")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    costs = asyncio.run(measure(parser.parse_args(argv).rounds))
    ratio = statistics.median(cost.ratio for cost in costs)
    for cost in costs:
        print(f"{cost.gateway_us:7.0f} us, bare {cost.bare_us:5.0f} us: {cost.ratio:.2f}x")
    word = "PASS" if ratio <= LIMIT else "FAIL"
    print(f"{word}  CPU a request over our own bare pass-through: {ratio:.2f}x (<= {LIMIT:g}x)")
    return 0 if ratio <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
