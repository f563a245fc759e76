"""Faults of what a request needs beside the models: tools, the Qdrant server, the clock, the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.chaos.asking import Ask, Tally
from bench.chaos.blocking import BLOCKED_S
from bench.chaos.experiment import Experiment, Run, allowed
from bench.chaos.lab import Lab, gateway_of
from bench.chaos.proxy import CALM, Fault, FaultProxy
from bench.chaos.servers import answering, qdrant
from bench.loopback import port_of, served

_LIBRARIES = (
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
)
_DAY_S = 86_400


def _tickets(lab: Lab, count: int) -> list[Ask]:
    """Questions to the agent, each about a ticket of its own, whole and streamed in turn."""
    asked = []
    for _ in range(count):
        lab.asked += 1
        ticket = f"INC-{lab.asked}"
        text = f"What is the state of ticket {ticket}?"
        asked.append(Ask(text, "chat", bool(lab.asked % 2), "agent/desk", ticket=ticket))
    return asked


def _tool(fault: Fault | None, *, right: float = 0.0, told: bool = False) -> Run:
    """Two dozen tickets while the tool's connections are harmed; then it must work again."""

    async def run(lab: Lab, tally: Tally) -> None:
        if fault is None:
            await lab.tools.down()
        else:
            lab.tools.inject(fault)
        await lab.put(tally, _tickets(lab, 24), at_once=12)
        allowed(tally, "tool_told", right=right)
        if told:
            tally.expect(tally.count("error") == 24, "a fault of the tool was not told")
        lab.tools.inject(CALM)
        await lab.tools.up()
        after = Tally()
        await lab.put(after, _tickets(lab, 6))
        tally.expect(after.count("right") == 6, f"the tool is not used again: {after.codes()}")

    return run


def _qdrant(lab: Lab) -> dict[str, object]:
    return {**lab.values, "cache": {"semantic": {"enabled": True}}}


async def _qdrant_faults(lab: Lab, tally: Tally, faults: Sequence[Fault | None]) -> None:
    async with (
        served(answering(qdrant)) as server,
        FaultProxy(port_of(server), seed=5) as proxy,
    ):
        values = _qdrant(lab)
        state = values.get("state", {})
        assert isinstance(state, dict)
        values["state"] = {**state, "qdrant_url": f"http://127.0.0.1:{proxy.port}"}
        async with gateway_of(values) as gateway:
            ours = replace(lab, gateway=gateway, values=values, asked=lab.asked + 40_000)
            for fault in faults:
                # The encoder has yet to come up, or the store rests after the fault before.
                await _until_asked(ours, tally, proxy, 6)
                if fault is None:
                    await proxy.down()
                else:
                    proxy.inject(fault)
                # What is learned from an answer is learned behind it, and not from every one.
                times = 1 if fault is None else 20
                reached = await _until_asked(ours, tally, proxy, 36, at_most=times)
                tally.expect(reached or fault is None, "the Qdrant server was not asked")
                proxy.inject(CALM)
                await proxy.up()
            tally.amiss += await ours.left_over()
    wrong = len(tally.outcomes) - tally.count("right")
    tally.expect(wrong == 0, f"a fault of the Qdrant server reached {wrong} clients")


async def _until_asked(
    lab: Lab, tally: Tally, proxy: FaultProxy, questions: int, *, at_most: int = 200
) -> bool:
    """Ask so many questions at a time until the server behind ``proxy`` hears of it; whether it did."""
    asked = proxy.accepted
    for _ in range(at_most):
        await lab.put(tally, lab.lasting(questions))
        if proxy.accepted > asked:
            return True
        await asyncio.sleep(0.1)
    return False


def _harmed_qdrant(*faults: Fault | None) -> Run:
    async def run(lab: Lab, tally: Tally) -> None:
        await _qdrant_faults(lab, tally, faults)

    return run


def faketime() -> str | None:
    """The library that tells a process another wall clock (Debian package libfaketime)."""
    return next((path for path in _LIBRARIES if Path(path).exists()), None)


async def _clock_jumps(lab: Lab, tally: Tally) -> None:
    """A day ahead, two days back, an hour ahead: with streams under way, and with answers kept before."""
    library = faketime()
    if library is None:
        return
    with TemporaryDirectory(prefix="slipstream-chaos-") as folder:
        clock = Path(folder) / "clock"
        clock.write_text("+0\n", encoding="ascii")
        env = {
            "LD_PRELOAD": library,
            "FAKETIME_TIMESTAMP_FILE": str(clock),
            "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }
        async with gateway_of(lab.values, env=env) as gateway:
            ours = replace(lab, gateway=gateway, asked=lab.asked + 50_000)
            kept = ours.questions(24)
            await ours.put(tally, kept)
            for offset_s in (_DAY_S, -_DAY_S, 3600):
                lab.inject(Fault(latency_s=0.1))
                async with asyncio.TaskGroup() as group:
                    group.create_task(ours.put(tally, ours.questions(24), at_once=24))
                    await asyncio.sleep(0.15)
                    clock.write_text(f"{offset_s:+}\n", encoding="ascii")
                lab.inject(CALM)
                await ours.put(tally, kept)
                told_s = await gateway.metric("process_start_time_seconds")
                tally.expect(told_s > 0, "no metrics after a jump")
            tally.amiss += await ours.left_over()
    right = tally.count("right")
    tally.expect(
        right == len(tally.outcomes), f"{len(tally.outcomes) - right} not right: a jump hurt"
    )


async def _blocked(lab: Lab, tally: Tally) -> None:
    """A tool of the operator's own blocks the event loop: it is noticed and measured; nothing breaks."""
    lag = "slipstream_event_loop_lag_seconds_sum"
    before_s, stalls = await lab.gateway.metric(lag), await lab.gateway.metric(_STALLS)
    began_s = time.monotonic()
    asked = Ask("Please block the loop now.", "chat", model="agent/blocker", ticket="loop")
    async with asyncio.TaskGroup() as group:
        group.create_task(lab.put(tally, [asked]))
        await asyncio.sleep(0.1)
        group.create_task(lab.put(tally, lab.questions(24), at_once=24))
    took_s = time.monotonic() - began_s
    await asyncio.sleep(1.0)
    lag_s = await lab.gateway.metric(lag) - before_s
    tally.expect(took_s >= BLOCKED_S, "the loop was not blocked at all")
    tally.expect(lag_s > BLOCKED_S / 2, f"{BLOCKED_S} s of block were measured as {lag_s:.2f} s")
    seen = await lab.gateway.metric(_STALLS) - stalls
    tally.expect(seen >= 1, "the watchdog did not notice")
    tally.expect(tally.count("right") == 25, "a blocked loop harmed requests")


_STALLS = "slipstream_event_loop_stalls_total"
_SLOW = Fault(latency_s=3.0)
EXPERIMENTS = (
    Experiment("tool-slow", "200 ms a read", "all right", _tool(Fault(latency_s=0.2), right=1)),
    Experiment("tool-silent", "no answer", "told after 1 s", _tool(Fault(cut="stall"), told=True)),
    Experiment(
        "tool-drip",
        "40 bytes a second",
        "told after 1 s",
        _tool(Fault(bytes_per_s=40, piece_bytes=4), told=True),
    ),
    Experiment("tool-gone", "nobody listens", "told", _tool(None, told=True), quick=True),
    Experiment(
        "tool-reset",
        "RST within the answer",
        "told",
        _tool(Fault(cut="reset", after=60), told=True),
        quick=True,
    ),
    Experiment(
        "tool-half-closed",
        "FIN within the answer, socket kept",
        "told",
        _tool(Fault(cut="half_close", after=90), told=True),
        quick=True,
    ),
    Experiment(
        "tool-corrupt",
        "flipped bytes in the answer",
        "told, or right by a repeat",
        _tool(Fault(corrupt=True, after=70)),
        quick=True,
    ),
    Experiment(
        "tool-not-http",
        "random words for HTTP",
        "told",
        _tool(Fault(garbage=b"hello there\r\n\r\n"), told=True),
        quick=True,
    ),
    Experiment("qdrant-slow", "3 s a reply", "all right", _harmed_qdrant(_SLOW)),
    Experiment(
        "qdrant-gone", "refused, then RST", "all right", _harmed_qdrant(None, Fault(cut="reset"))
    ),
    Experiment(
        "qdrant-corrupt",
        "flipped bytes, half-closed, no HTTP",
        "all right",
        _harmed_qdrant(
            Fault(corrupt=True, after=60),
            Fault(cut="half_close", after=60),
            Fault(garbage=b"hello there\r\n\r\n"),
        ),
    ),
    Experiment("clock-jumps", "+1 day, -2 days, +1 day of wall clock", "all right", _clock_jumps),
    Experiment("loop-blocked", "a tool blocks the loop for 1.5 s", "noticed; all right", _blocked),
)
