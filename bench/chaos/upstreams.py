"""Faults between the gateway and the vendors, and faults of the vendors themselves."""

from __future__ import annotations

from bench.chaos.asking import PASSED_ON, Ask, Tally, ask
from bench.chaos.experiment import Experiment, Run, allowed
from bench.chaos.lab import Lab
from bench.chaos.proxy import Fault

GONE = ("upstream_closed", "upstream_refused", "upstream_busy")
LATE = ("upstream_timeout", *GONE)
ODD = (
    "upstream_malformed",
    "upstream_protocol",
    "upstream_truncated",
    "upstream_framing",
    "upstream_oversize",
    PASSED_ON,
    *LATE,
)
TOLD = ("upstream_status", "overloaded", "overloaded_error", "server_error", "api_error")
"""The vendor's own errors: with its code in its own dialect, with ours in another."""
_TWO_ANSWERS = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}" * 2
_BOTH_LENGTHS = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n"
_BOTH_LENGTHS += b"\r\n2\r\n{}\r\n0\r\n\r\n"
_HUGE_HEAD = b"HTTP/1.1 200 OK\r\n" + b"x-filler: %s\r\n" % (b"y" * 1000) * 400
_LONG_CHUNK = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + b"0" * 200_000


def _harmed(fault: Fault, *codes: str, right: float = 0.0, count: int = 24) -> Run:
    async def run(lab: Lab, tally: Tally) -> None:
        lab.inject(fault)
        await lab.put(tally, lab.questions(count))
        allowed(tally, *codes, right=right)

    return run


def _scripted(spec: str, *codes: str, right: float = 0.0, times: int = 24) -> Run:
    """The vendor itself fails ``times`` calls; 24 questions, one after the other."""

    async def run(lab: Lab, tally: Tally) -> None:
        lab.simulator.simulator.script_faults(*[spec] * times)
        await lab.put(tally, lab.questions(24), at_once=4)
        allowed(tally, *codes, right=right)

    return run


async def _idle_connections_dropped(lab: Lab, tally: Tally) -> None:
    for _ in range(6):
        await lab.put(tally, lab.questions(12))
        lab.openai.drop()
        lab.anthropic.drop()
    allowed(tally, *GONE, right=0.95)


async def _other_deployment(lab: Lab, tally: Tally) -> None:
    await lab.openai.down()
    await lab.put(tally, lab.questions(24, model="small2"))
    await lab.put(tally, lab.questions(24, model="auto"))
    allowed(tally, *GONE, right=0.7)


async def _refused(lab: Lab, tally: Tally) -> None:
    await lab.openai.down()
    await lab.anthropic.down()
    await lab.put(tally, lab.questions(24))
    allowed(tally, *GONE)


async def _storm(lab: Lab, tally: Tally) -> None:
    """Every call fails: retries must not multiply the load."""
    lab.simulator.simulator.script_faults(*["529"] * 2000)
    await lab.put(tally, lab.questions(300), at_once=32)
    left = len(lab.simulator.simulator._scripted_faults)  # noqa: SLF001 - what was not met
    calls = 2000 - left
    tally.expect(calls <= 300 * 1.2 + 10, f"{calls} upstream calls for 300 requests")
    allowed(tally, *TOLD, *GONE)


async def _not_kept(lab: Lab, tally: Tally) -> None:
    lab.inject(Fault(cut="close", after=700))
    questions = lab.questions(12)
    await lab.put(tally, questions)
    await lab.calm()
    broken = lab.questions(24, stream=True)
    for question in broken:
        lab.simulator.simulator.script_faults("malformed-frame:3", "malformed-frame:3")
        await lab.put(tally, [question])
        lab.simulator.simulator._scripted_faults.clear()  # noqa: SLF001 - where no retry took it
    questions += broken
    await lab.calm()
    for question in questions:
        only = Ask(
            question.text,
            question.dialect,
            question.stream,
            question.model,
            (("x-slipstream-cache", "only"),),
        )
        out = await ask(lab.gateway.port, only)
        tally.outcomes.append(out)
        tally.expect(out.status == 504, f"an answer that broke off was kept: {out.status}")


async def _together(lab: Lab, tally: Tally) -> None:
    """One question of 32 clients whose one call upstream breaks off."""
    lab.inject(Fault(latency_s=0.2, cut="reset", after=900))
    question = lab.questions(1)[0]
    streamed = Ask(question.text, "chat", stream=True)
    await lab.put(tally, [streamed] * 32, at_once=32)
    allowed(tally, *GONE)
    lab.inject(Fault(latency_s=0.2))
    await lab.put(tally, [Ask(question.text + " Again?", "chat", stream=True)] * 32, at_once=32)
    tally.expect(tally.count("right") >= 32, "joined streams did not all end well")


async def _brown_out(lab: Lab, tally: Tally) -> None:
    lab.inject(Fault(latency_s=0.8, jitter_s=0.3))
    await lab.put(tally, lab.questions(60), at_once=30)
    lab.inject(Fault())
    await lab.put(tally, lab.questions(60), at_once=8)
    allowed(tally, *LATE, right=0.6)


EXPERIMENTS = (
    Experiment(
        "latency", "200 ms before each read", "all right", _harmed(Fault(latency_s=0.2), right=1)
    ),
    Experiment("jitter", "0 to 200 ms", "all right", _harmed(Fault(jitter_s=0.2), right=1)),
    Experiment("narrow", "20 kB/s", "all right", _harmed(Fault(bytes_per_s=20_000), right=1)),
    Experiment("dribble", "one byte a write", "all right", _harmed(Fault(piece_bytes=1), right=1)),
    Experiment(
        "sevens",
        "seven bytes a write",
        "all right",
        _harmed(Fault(piece_bytes=7), right=1),
        quick=True,
    ),
    Experiment("refused", "nobody listens", "502", _refused, quick=True),
    Experiment("black-hole", "accepted, then silence", "504", _harmed(Fault(cut="stall"), *LATE)),
    Experiment(
        "reset-first", "RST before any byte", "502", _harmed(Fault(cut="reset"), *GONE), quick=True
    ),
    Experiment(
        "reset-head",
        "RST within the head",
        "502",
        _harmed(Fault(cut="reset", after=40), *GONE),
        quick=True,
    ),
    Experiment(
        "reset-body",
        "RST within the body",
        "502, or an error event",
        _harmed(Fault(cut="reset", after=700), *GONE),
        quick=True,
    ),
    Experiment(
        "close-first", "FIN before any byte", "502", _harmed(Fault(cut="close"), *GONE), quick=True
    ),
    Experiment(
        "close-body",
        "FIN within the body",
        "502, or an error event",
        _harmed(Fault(cut="close", after=700), *GONE),
        quick=True,
    ),
    Experiment(
        "half-closed",
        "FIN within the body, socket kept",
        "502, or an error event",
        _harmed(Fault(cut="half_close", after=700), *GONE),
        quick=True,
    ),
    Experiment(
        "stall-body",
        "silence within the body",
        "504, or an error event",
        _harmed(Fault(cut="stall", after=700), *LATE),
    ),
    Experiment(
        "corrupt-head",
        "flipped bytes in the head",
        "502",
        _harmed(Fault(corrupt=True), *ODD),
        quick=True,
    ),
    Experiment(
        "corrupt-body",
        "flipped bytes in the body",
        "502, or an error event",
        _harmed(Fault(corrupt=True, after=400), *ODD),
        quick=True,
    ),
    Experiment(
        "not-http",
        "random words for HTTP",
        "502",
        _harmed(Fault(garbage=b"hello there\r\n\r\n"), *ODD),
        quick=True,
    ),
    Experiment(
        "two-answers",
        "two answers in one",
        "502, none is another's",
        _harmed(Fault(garbage=_TWO_ANSWERS), *ODD),
        quick=True,
    ),
    Experiment(
        "two-lengths",
        "length and chunks at once",
        "502",
        _harmed(Fault(garbage=_BOTH_LENGTHS), *ODD),
        quick=True,
    ),
    Experiment(
        "huge-head", "a head of 400 KB", "502", _harmed(Fault(garbage=_HUGE_HEAD), *ODD), quick=True
    ),
    Experiment(
        "endless-size",
        "a chunk size without an end",
        "502 or 504",
        _harmed(Fault(garbage=_LONG_CHUNK), *ODD),
    ),
    Experiment(
        "one-in-three",
        "RST on each third connection",
        "most right, by retries",
        _harmed(Fault(cut="reset", after=40, every=3), *GONE, right=0.5),
        quick=True,
    ),
    Experiment(
        "idle-dropped",
        "kept connections reset",
        "95 % right",
        _idle_connections_dropped,
        quick=True,
    ),
    Experiment(
        "one-vendor",
        "one vendor of two refuses",
        "the other answers",
        _other_deployment,
        quick=True,
    ),
    Experiment(
        "429",
        "rate limits with retry-after 1",
        "429, or right",
        _scripted("429:1", "rate_limit_exceeded", "rate_limit_error", *TOLD, *GONE),
    ),
    Experiment(
        "500-once",
        "four failures",
        "retried: most right",
        _scripted("500", *TOLD, *GONE, times=4, right=0.75),
        quick=True,
    ),
    Experiment(
        "529-storm",
        "every call says 529, 300 requests",
        "clear, <= 1.2 calls a request + 10",
        _storm,
    ),
    Experiment(
        "malformed-frame",
        "one broken event",
        "an error, never a gap",
        _scripted("malformed-frame:3", *ODD),
    ),
    Experiment("garbage", "200 and no JSON", "502", _scripted("garbage", *ODD)),
    Experiment("empty", "200 and no body", "502", _scripted("empty", *ODD)),
    Experiment(
        "truncated",
        "a body in good order without its end",
        "502, or an error event",
        _scripted("truncated:4", *ODD),
    ),
    Experiment(
        "error-event",
        "the vendor's own error in a stream",
        "the same, in the client's dialect",
        _scripted("error-event:4", *TOLD, *ODD),
    ),
    Experiment("vendor-hang", "silence before the head", "504", _scripted("hang", *LATE, times=8)),
    Experiment(
        "vendor-stall",
        "silence within a stream",
        "504, or an error event",
        _scripted("stall:4", *LATE, times=8),
    ),
    Experiment(
        "not-kept", "answers that break off", "never answered from the cache", _not_kept, quick=True
    ),
    Experiment(
        "together",
        "32 clients share a call that breaks",
        "all told, and the next all right",
        _together,
        quick=True,
    ),
    Experiment(
        "brown-out",
        "0.8 to 1.1 s, 30 at once, then calm",
        "60 % right, the rest told",
        _brown_out,
    ),
)
