"""Many short requests, one in 50 of which meets a fault: does anything grow?"""

from __future__ import annotations

import asyncio

from bench.chaos.asking import Ask, Outcome, Tally, judge
from bench.chaos.lab import Lab, laboratory

_SAMPLES = 10
_MOST_GROWTH_KIB = 16 * 1024
"""From the half to the end: by then what is meant to fill up (the exact cache apart) has."""


async def soak(count: int) -> dict[str, object]:
    """``count`` requests on eight kept connections, half of them streams; one in 50 meets a fault."""
    tally, samples = Tally(), []
    async with laboratory(redis=False) as lab:
        for part in range(_SAMPLES):
            lab.simulator.simulator.script_faults(
                *(
                    ("500", "garbage", "truncated:3")[n // 50 % 3] if n % 50 == 0 else None
                    for n in range(count // _SAMPLES)
                )
            )
            async with asyncio.TaskGroup() as group:
                for _ in range(8):
                    group.create_task(_client(lab, tally, count // _SAMPLES // 8))
            sample = {
                "requests": len(tally.outcomes),
                "rss_kib": lab.gateway.rss_kib(),
                "descriptors": lab.own_descriptors(),
                "in_flight": await lab.gateway.metric("slipstream_in_flight"),
            }
            samples.append(sample)
            print(f"{part + 1}/{_SAMPLES}", sample, flush=True)
        await lab.calm()
        left = await lab.left_over()
    grown = samples[-1]["rss_kib"] - samples[_SAMPLES // 2 - 1]["rss_kib"]
    bad = [*left, *(f"{n} {v}" for v in ("wrong", "lost") if (n := tally.count(v)))]
    if grown > _MOST_GROWTH_KIB:
        bad.append(f"{grown} KiB more in the second half")
    print(
        f"{len(tally.outcomes):,} requests: {tally.count('right'):,} right, {tally.count('error'):,}"
        f" clear errors, {tally.count('wrong')} wrong, {tally.count('lost')} lost; second half"
        f" {grown:+,.0f} KiB; {bad or 'nothing left over'}; {dict(tally.codes())}"
    )
    return {"samples": samples, "codes": dict(tally.codes()), "bad": bad}


async def _client(lab: Lab, tally: Tally, count: int) -> None:
    """Ask one after the other on a connection that is kept, a new one after an error."""
    reader, writer = await asyncio.open_connection("127.0.0.1", lab.gateway.port)
    fresh = {"x-slipstream-cache": "bypass"}
    for number in range(count):
        question = lab.questions(1, stream=number % 2 == 1, headers=tuple(fresh.items()))[0]
        if writer.is_closing():
            reader, writer = await asyncio.open_connection("127.0.0.1", lab.gateway.port)
        writer.write(question.wire(keep_alive=True))
        try:
            async with asyncio.timeout(30):
                tally.outcomes.append(await _answer(question, reader))
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as failure:
            tally.outcomes.append(Outcome("lost", 0, type(failure).__name__, 0.0))
            writer.transport.abort()
    writer.transport.abort()


async def _answer(question: Ask, reader: asyncio.StreamReader) -> Outcome:
    head = await reader.readuntil(b"\r\n\r\n")
    low = head.lower()
    if b"transfer-encoding: chunked" in low:
        body = await reader.readuntil(b"0\r\n\r\n")
    else:
        at = low.index(b"content-length: ") + 16
        body = await reader.readexactly(int(low[at : low.index(b"\r", at)]))
    return judge(question, head + body, 0.0)
