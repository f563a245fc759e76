"""Thousands of streams whose model is silent: what each costs in memory, and whether each is answered.

The upstream is ``bench/upstream.c``, for which a waiting stream is an entry in a heap: the laboratory's
simulator, and its short timeouts, would be what is measured. Memory is the slope between the first tenth
of the streams and all of them, so that what is made once (buffers, tables) is not charged to them; the plain
quotient is told as well.
"""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bench import machine
from bench.build import compile_instruments
from bench.chaos.lab import Gateway, gateway_of
from bench.processes import ask_json, running, wait_for_line
from bench.scenarios import SCENARIOS, request_body

MOST_KIB_EACH = 25.0
_SILENT_S = 45
_TOKENS = 3
_SPARE = 200
_FILL = 12_000
_KEPT_KIB = 6
"""Of a request that has ended, in tables that are bounded by tens of thousands of entries."""
_STEADY_KIB = 512
_STEADY_FOR = 6


def configuration(upstream: int, count: int) -> dict[str, object]:
    """One model that is silent for a while; as many connections as there are streams."""
    price = {"input": 0.1, "output": 0.4}
    model = {"provider": "local", "tier": "fast", "price": price}
    silent = f"mock-t{_SILENT_S * 1000}-n{_TOKENS}"
    return {
        "providers": {
            "local": {
                "kind": "openai",
                "base_url": f"http://127.0.0.1:{upstream}/v1",
                "api_key": "none",
                "max_connections": count + _SPARE,
                "adaptive_concurrency": False,
            }
        },
        "models": [
            {"name": "small", "model": "mock-t0-n4-s100", **model},
            {"name": "silent", "model": silent, **model},
        ],
        "server": {"max_inflight_requests": count + _SPARE, "sse_comment_s": 5},
        # What is kept on purpose is full before anything is measured: a second round shows leaks alone.
        "cache": {"exact": {"max_bytes": 4 << 20}},
    }


async def idle_streams(count: int) -> dict[str, object]:
    """Hold ``count`` streams, measure, and read each to its end."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * count + 1000
    if hard < wanted:
        raise RuntimeError(
            f"{count} streams need {wanted} descriptors and the hard limit is {hard}"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    with tempfile.TemporaryDirectory(prefix="slipstream-idle-") as folder:
        log = Path(folder) / "upstream.log"
        argv = [str(compile_instruments().upstream)]
        with running(argv, cpu=machine.cpus()[1], log=log) as process:
            port = int(wait_for_line(process, log, "listening", 5.0))
            async with gateway_of(configuration(port, count)) as gateway:
                return await _measured(gateway, port, count)


async def _measured(gateway: Gateway, upstream: int, count: int) -> dict[str, object]:
    """Two rounds: what the second needs beyond the first was not given back."""
    await asyncio.to_thread(_fill, gateway)
    await _at_rest(gateway)
    once = await _round(gateway, upstream, count, 0)
    twice = await _round(gateway, upstream, count, count)
    grown_kib = twice.held_kib - once.held_kib
    each_kib = once.each_kib
    left = await gateway.metric("slipstream_in_flight")
    bad = [
        said
        for holds, said in (
            (once.in_flight == count, f"{once.in_flight:g} of {count} streams were held"),
            (once.whole == count, f"{once.whole} of {count} streams were answered whole"),
            (twice.whole == count, f"{twice.whole} of {count} in the second round"),
            (left == 0, f"{left:g} turns left over"),
            (each_kib <= MOST_KIB_EACH, f"{each_kib:.1f} KiB each, wanted {MOST_KIB_EACH:g}"),
            (
                grown_kib <= _KEPT_KIB * count,
                f"the second round held {grown_kib} KiB more than the first",
            ),
        )
        if not holds
    ]
    print(
        f"{count:,} idle streams on one worker: {each_kib:.1f} KiB each, {once.descriptors:,}"
        f" descriptors, {once.whole:,} answered whole; a second round: {twice.whole:,} whole,"
        f" {grown_kib / 1024:+.1f} MiB; {bad or 'nothing left over'}"
    )
    return {"streams": count, "kib_each": each_kib, "whole": once.whole, "bad": bad}


@dataclass(frozen=True, slots=True)
class _Round:
    """What so many streams took."""

    each_kib: float
    held_kib: int
    descriptors: int
    in_flight: float
    whole: int


async def _round(gateway: Gateway, upstream: int, count: int, number: int) -> _Round:
    first = max(1, count // 10)
    begun, before = _asked(upstream), gateway.descriptors()
    streams = await _opened(gateway.port, range(number, number + first))
    await _all_asked(upstream, begun + first)
    first_kib = _pss_kib(gateway)
    streams += await _opened(gateway.port, range(number + first, number + count))
    await _all_asked(upstream, begun + count)
    held_kib, held = _pss_kib(gateway), gateway.descriptors() - before
    in_flight = await gateway.metric("slipstream_in_flight")
    whole = await _read(streams)
    await asyncio.sleep(1)
    return _Round((held_kib - first_kib) / (count - first), held_kib, held, in_flight, whole)


def _fill(gateway: Gateway) -> None:
    """Ask enough that the cache and the ring of traces hold as much as they ever will."""
    body = gateway.folder / "fill.json"
    body.write_bytes(request_body(SCENARIOS["json_c50"], "small"))
    argv = ["--port", str(gateway.port), "--path", "/v1/chat/completions", "--body", str(body)]
    argv += [
        "--concurrency",
        "16",
        "--count",
        str(_FILL),
        "--duration-s",
        "600",
        "--nonce",
        "unique",
    ]
    subprocess.run([str(compile_instruments().loadgen), *argv], capture_output=True, check=True)


async def _at_rest(gateway: Gateway) -> None:
    """The vector process is up and has read its model: what it takes is not the streams'."""
    steady, before_kib = 0, 0
    for _ in range(60):
        await asyncio.sleep(0.5)
        now_kib = _pss_kib(gateway)
        steady = steady + 1 if abs(now_kib - before_kib) < _STEADY_KIB else 0
        before_kib = now_kib
        if steady == _STEADY_FOR:
            return


async def _opened(
    port: int, numbers: Sequence[int]
) -> list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    streams = []
    for number in numbers:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        asked = [{"role": "user", "content": f"Idle question {number}?"}]
        body = json.dumps({"model": "silent", "stream": True, "messages": asked}).encode()
        head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
        writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        streams.append((reader, writer))
    return streams


async def _read(streams: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]) -> int:
    """How many ended whole: all tokens and the dialect's own end."""
    whole = 0
    for reader, writer in streams:
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(_SILENT_S * 3):
                said = await reader.read(-1)
            whole += said.count(b"~") == 2 * _TOKENS and said.count(b"data: [DONE]") == 1
        writer.transport.abort()
    return whole


async def _all_asked(upstream: int, wanted: int) -> None:
    async with asyncio.timeout(_SILENT_S):
        while await asyncio.to_thread(_asked, upstream) < wanted:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.1)
        await asyncio.sleep(0.5)


def _asked(upstream: int) -> int:
    return int(str(ask_json(upstream, "/stats")["requests"]))


def _pss_kib(gateway: Gateway) -> int:
    return machine.pss_kib(machine.process_tree(gateway.pid))
