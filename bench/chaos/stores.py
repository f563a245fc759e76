"""Faults of what stands around: Redis, the disk, descriptors, processes and time."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from dataclasses import replace

from bench.chaos.asking import Tally, exchange
from bench.chaos.experiment import Experiment, Run, allowed
from bench.chaos.lab import Lab, gateway_of
from bench.chaos.proxy import Fault
from bench.chaos.upstreams import LATE
from bench.machine import process_tree


def _redis(fault: Fault | None) -> Run:
    async def run(lab: Lab, tally: Tally) -> None:
        if lab.redis is None:
            return
        if fault is None:
            await lab.redis.down()
        else:
            lab.redis.inject(fault)
        await lab.put(tally, lab.questions(48))
        tally.expect(tally.count("right") == 48, "a fault of Redis reached clients")

    return run


async def _disk_full(lab: Lab, tally: Tally) -> None:
    """No file may grow: what a full disk does, to this one process."""
    pid = lab.gateway.pid
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        await lab.put(tally, lab.questions(120))
        tally.expect(
            await _ledger_degraded(lab, wanted=True), "/readyz says nothing of a full disk"
        )
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
    await lab.put(tally, lab.questions(12))
    tally.expect(
        not await _ledger_degraded(lab, wanted=False), "/readyz speaks of a full disk for ever"
    )
    tally.expect(tally.count("right") == 132, "a full disk reached clients")


async def _ledger_degraded(lab: Lab, *, wanted: bool) -> bool:
    """Whether ``/readyz`` names the ledger, looked at until it is as ``wanted``, for 10 s at most."""
    named = not wanted
    for _ in range(100):
        page = await exchange(
            lab.gateway.port, b"GET /readyz HTTP/1.1\r\nhost: g\r\nconnection: close\r\n\r\n"
        )
        named = b'"ledger"' in page
        if named is wanted:
            break
        await asyncio.sleep(0.1)
    return named


async def _no_descriptors(lab: Lab, tally: Tally) -> None:
    pid = lab.gateway.pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (lab.gateway.descriptors() + 6, before[1]))
    lab.inject(Fault(latency_s=0.1))
    try:
        await lab.put(tally, lab.questions(60), at_once=30)
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    allowed(tally, "overloaded", right=0.5)


async def _frozen(lab: Lab, tally: Tally) -> None:
    """The process stands still for 2 s, as in a suspended machine: clocks jump, deadlines do not lie."""
    before = await lab.gateway.metric("slipstream_event_loop_lag_seconds_sum")
    async with asyncio.TaskGroup() as group:
        group.create_task(_asked(lab, tally))
        await asyncio.sleep(0.05)
        os.kill(lab.gateway.pid, signal.SIGSTOP)
        await asyncio.sleep(2)
        os.kill(lab.gateway.pid, signal.SIGCONT)
    allowed(tally, *LATE, right=0.6)
    await asyncio.sleep(0.5)
    lag_s = await lab.gateway.metric("slipstream_event_loop_lag_seconds_sum") - before
    tally.expect(lag_s > 1, f"a stop of 2 s was measured as {lag_s:.2f} s of lag")


async def _asked(lab: Lab, tally: Tally) -> None:
    await lab.put(tally, lab.questions(60))


async def _terminated(lab: Lab, tally: Tally) -> None:
    """SIGTERM with 20 streams under way: each ends whole."""
    async with gateway_of(lab.values) as gateway:
        ours = replace(lab, gateway=gateway)
        ours.asked = lab.asked + 10_000
        lab.inject(Fault(latency_s=0.3, bytes_per_s=4000))
        async with asyncio.TaskGroup() as group:
            group.create_task(ours.put(tally, ours.questions(20, stream=True), at_once=20))
            await asyncio.sleep(0.5)
            os.kill(gateway.pid, signal.SIGTERM)
    tally.expect(tally.count("right") == 20, "streams did not end whole after SIGTERM")


async def _worker_killed(lab: Lab, tally: Tally) -> None:
    async with gateway_of(lab.values, "--workers", "2") as gateway:
        ours = replace(lab, gateway=gateway)
        ours.asked = lab.asked + 20_000
        await ours.put(tally, ours.questions(24))
        workers = sorted(process_tree(gateway.pid) - {gateway.pid})
        before = set(workers)
        os.kill(workers[-1], signal.SIGKILL)
        await asyncio.sleep(0.3)
        await ours.put(tally, ours.questions(48))
        for _ in range(100):
            if set(process_tree(gateway.pid)) - before - {gateway.pid}:
                break
            await asyncio.sleep(0.1)
        else:
            tally.expect(otherwise="no new worker within 10 s", holds=False)
    tally.expect(tally.count("right") == 72, "a killed worker reached other clients")


async def _vectors_killed(lab: Lab, tally: Tally) -> None:
    values = {**lab.values, "cache": {"semantic": {"enabled": True}}}
    async with gateway_of(values) as gateway:
        ours = replace(lab, gateway=gateway, values=values)
        ours.asked = lab.asked + 30_000
        before = 0.0
        for _ in range(200):  # until the encoder is up, nothing is looked up
            await ours.put(tally, ours.lasting(6))
            before = await gateway.metric("slipstream_semantic_answers_total", "kept")
            if before:
                break
            await asyncio.sleep(0.1)
        for pid in process_tree(gateway.pid) - {gateway.pid}:
            os.kill(pid, signal.SIGKILL)
        await ours.put(tally, ours.lasting(48))
    tally.expect(before > 0, "nothing was ever kept for hits by meaning")
    right = tally.count("right") == len(tally.outcomes)
    tally.expect(right, "the vector process's end reached clients")


EXPERIMENTS = (
    Experiment("redis-refused", "Redis is down", "all right", _redis(None), quick=True),
    Experiment(
        "redis-slow", "200 ms a reply", "all right", _redis(Fault(latency_s=0.2)), quick=True
    ),
    Experiment("redis-silent", "no reply", "all right", _redis(Fault(cut="stall")), quick=True),
    Experiment(
        "redis-reset", "RST for each reply", "all right", _redis(Fault(cut="reset")), quick=True
    ),
    Experiment(
        "redis-corrupt",
        "flipped bytes in replies",
        "all right",
        _redis(Fault(corrupt=True)),
        quick=True,
    ),
    Experiment(
        "redis-garbage",
        "no RESP at all",
        "all right",
        _redis(Fault(garbage=b"HTTP/1.1 400\r\n\r\n")),
        quick=True,
    ),
    Experiment(
        "disk-full", "no file may grow, then again", "all right; /readyz says so", _disk_full
    ),
    Experiment(
        "no-descriptors",
        "6 descriptors for 30 clients",
        "right, after a wait, or 503",
        _no_descriptors,
        quick=True,
    ),
    Experiment(
        "frozen", "the process stands still for 2 s", "right or told; lag measured", _frozen
    ),
    Experiment("sigterm", "SIGTERM with 20 streams", "20 right", _terminated),
    Experiment(
        "worker-killed",
        "SIGKILL of one worker of two",
        "later requests right, a new worker",
        _worker_killed,
    ),
    Experiment("vectors-killed", "SIGKILL of the vector process", "all right", _vectors_killed),
)
