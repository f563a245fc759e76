"""A flood of heads that never end: how much later do good clients get their answers?

Attackers (a process of their own), the vendor (``bench/upstream.c``), good clients (``bench/loadgen.c``, an
open loop, so that a stall is charged to every request it delays) and the gateway share nothing but the
machine. Calm and flood take turns, and the ratio is of the two next to each other, so that what else the
machine does weighs on both.
"""

from __future__ import annotations

import asyncio
import json
import resource
import statistics
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from bench import machine
from bench.build import compile_instruments
from bench.chaos.lab import Gateway, gateway_of
from bench.processes import running, wait_for_line
from bench.scenarios import SCENARIOS, request_body
from bench.soak import configuration

MOST_RATIO = 2.0
_ROUNDS = 5
_SLICE_S = 4.0
_RATE = 200
_EVERY_S = 0.25
_HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nx-slow: "


async def loris(attackers: int) -> dict[str, object]:
    """p99 of good clients among so many attackers over that in calm."""
    with tempfile.TemporaryDirectory(prefix="slipstream-loris-") as folder:
        log, cpu = Path(folder) / "upstream.log", machine.cpus()[1]
        with running([str(compile_instruments().upstream)], cpu=cpu, log=log) as process:
            port = int(wait_for_line(process, log, "listening", 5.0))
            async with gateway_of(configuration(port)) as gateway:
                return await _measured(gateway, attackers, Path(folder))


async def _measured(gateway: Gateway, attackers: int, folder: Path) -> dict[str, object]:
    await _slice(gateway, folder)
    calm, flooded, wrong, held = [], [], 0, 0
    for _ in range(_ROUNDS):
        calm_us, bad = await _slice(gateway, folder)
        wrong += bad
        argv = [sys.executable, "-m", "bench.chaos.loris", str(gateway.port), str(attackers)]
        with running(argv, cpu=machine.cpus()[1], log=folder / "attack.log") as process:
            await asyncio.to_thread(
                wait_for_line, process, folder / "attack.log", "attacking", 30.0
            )
            held = gateway.sockets_of_clients()
            flooded_us, bad = await _slice(gateway, folder)
            wrong += bad
        calm.append(calm_us)
        flooded.append(flooded_us)
    ratio = statistics.median(f / c for f, c in zip(flooded, calm, strict=True))
    bad_ends = [
        said
        for holds, said in (
            (ratio <= MOST_RATIO, f"p99 {ratio:.2f} times the calm one, wanted {MOST_RATIO:g}"),
            (wrong == 0, f"{wrong} good requests failed"),
            (held >= attackers, f"{held} of {attackers} attackers held a connection"),
        )
        if not holds
    ]
    print(
        f"{attackers:,} slow heads, a byte each {_EVERY_S} s; {_RATE} good requests a second:"
        f" p99 {statistics.median(calm) / 1000:.2f} ms calm, {statistics.median(flooded) / 1000:.2f} ms"
        f" flooded, ratio {ratio:.2f} (median of {_ROUNDS}); {bad_ends or 'as promised'}"
    )
    return {"calm_us": calm, "flooded_us": flooded, "ratio": ratio, "bad": bad_ends}


async def _slice(gateway: Gateway, folder: Path) -> tuple[float, int]:
    """p99 of good clients in microseconds, and how many failed."""
    body = folder / "body.json"
    body.write_bytes(request_body(SCENARIOS["json_c50"], "small"))
    options: dict[str, object] = {
        "--port": gateway.port,
        "--path": "/v1/chat/completions",
        "--body": body,
        "--concurrency": 32,
        "--rate": _RATE,
        "--warmup-s": 0.5,
        "--duration-s": _SLICE_S,
        "--drain-s": 5,
        "--nonce": "unique",
    }
    flat = [str(part) for pair in options.items() for part in pair]
    argv = [str(compile_instruments().loadgen), *flat]
    done = await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    return float(found["total_us"]["p99"]), int(found["errors"]) + int(found["unfinished"])


async def attack(port: int, count: int) -> None:
    """Hold ``count`` connections whose heads grow by a byte now and then; a lost one is opened again."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, count + 100)), hard))
    writers: list[asyncio.StreamWriter | None] = [None] * count
    said = False
    while True:
        for number, writer in enumerate(writers):
            if writer is None or writer.is_closing():
                with suppress(OSError):
                    _, fresh = await asyncio.open_connection("127.0.0.1", port)
                    fresh.write(_HEAD)
                    writers[number] = fresh
            else:
                with suppress(OSError):
                    writer.write(b"x")
        if not said:
            print("attacking", flush=True)
            said = True
        await asyncio.sleep(_EVERY_S)


if __name__ == "__main__":
    asyncio.run(attack(int(sys.argv[1]), int(sys.argv[2])))
