"""Clients that leave, dawdle, lie or attack."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import statistics
import time

from bench.chaos.asking import Ask, Outcome, Tally, ask, exchange, judge
from bench.chaos.experiment import Experiment, Run
from bench.chaos.lab import Lab
from bench.chaos.proxy import Fault

_CHAT = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
_SECOND = b"GET /v1/models HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
_SMUGGLED = (
    _CHAT + b"content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" + _SECOND,
    _CHAT + b"transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n0\r\n\r\n" + _SECOND,
    _CHAT + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n" + _SECOND,
    _CHAT + b"content-length: 4\r\ncontent-length: 5\r\n\r\n{}{}" + _SECOND,
    _CHAT + b"content-length: +2\r\n\r\n{}" + _SECOND,
    _CHAT + b"content-length: -1\r\n\r\n{}" + _SECOND,
    _CHAT + b"content-length : 2\r\n\r\n{}" + _SECOND,
    _CHAT + b"x-a: b\r\n content-length: 2\r\n\r\n{}" + _SECOND,
    _CHAT + b"transfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n" + _SECOND,
    _CHAT + b"transfer-encoding: chunked\r\n\r\n-1\r\n{}\r\n0\r\n\r\n" + _SECOND,
    _CHAT + b"transfer-encoding: chunked\r\n\r\n2\r\n{}XX0\r\n\r\n" + _SECOND,
    b"GET /v1/models HTTP/1.1\nhost: x\n\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
    b"\x00" * 256,
)
_BAD_JSON = (
    b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b'{"model": 1}', b'{"model": "small"}',
    b'{"model":"small","messages":"x"}', b'{"model":"small","messages":[{"role":1}]}',
    b"[" * 50_000, b'{"model":"small","messages":[],"max_tokens":1e999}',
    b'{"model":"small","messages":[{"role":"user","content":"\\ud800"}]}',
)  # fmt: skip


def _leaves(after_s: float, *, reset: bool, stream: bool) -> Run:
    async def run(lab: Lab, tally: Tally) -> None:
        lab.inject(Fault(latency_s=0.4))
        writers = []
        for question in lab.questions(24, stream=stream):
            _, writer = await asyncio.open_connection("127.0.0.1", lab.gateway.port)
            writer.write(question.wire())
            writers.append(writer)
        await asyncio.sleep(after_s)
        for writer in writers:
            if reset:
                found = writer.get_extra_info("socket")
                found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            writer.transport.abort()
        await lab.put(tally, lab.questions(12))
        tally.expect(tally.count("right") == 12, "those who stayed were not all answered")

    return run


async def _unread(lab: Lab, tally: Tally) -> None:
    """Clients that ask and never read, while others are answered."""
    writers = []
    for question in lab.questions(100, stream=True):
        opened = socket.socket()
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        opened.setblocking(False)  # noqa: FBT003 - the socket's own signature
        await asyncio.get_running_loop().sock_connect(opened, ("127.0.0.1", lab.gateway.port))
        await asyncio.get_running_loop().sock_sendall(opened, question.wire(keep_alive=True))
        writers.append(opened)
    await lab.put(tally, lab.questions(60))
    for opened in writers:
        opened.close()
    tally.expect(tally.count("right") == 60, "others were not all answered")


async def _raw(lab: Lab, sent: bytes) -> bytes:
    try:
        async with asyncio.timeout(15):
            return await exchange(lab.gateway.port, sent)
    except (OSError, TimeoutError):
        return b""


async def _smuggling(lab: Lab, tally: Tally) -> None:
    for sent in _SMUGGLED:
        got = await _raw(lab, sent)
        served = got.count(b"HTTP/1.1 200")
        answers = got.count(b"HTTP/1.1 ")
        tally.expect(served == 0, f"served: {sent[80:140]!r}")
        tally.expect(answers <= 1, f"{answers} answers to {sent[80:140]!r}")
        status = int(got[9:12]) if got else 0
        refused = not got or 400 <= status < 500
        tally.outcomes.append(Outcome("error" if refused else "wrong", status, "refused", 0.0))


async def _bad_json(lab: Lab, tally: Tally) -> None:
    for path in (b"chat/completions", b"responses", b"messages"):
        for body in _BAD_JSON:
            head = b"POST /v1/%b HTTP/1.1\r\nhost: x\r\nconnection: close\r\n" % path
            head += b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
            out = judge(Ask("?"), await _raw(lab, head + body), 0.0)
            tally.outcomes.append(out)
            if not 400 <= out.status < 500:
                tally.expect(otherwise=f"{out.status} for {path!r} {body[:40]!r}", holds=False)


def _too_large(sent: bytes, status: int) -> Run:
    async def run(lab: Lab, tally: Tally) -> None:
        for _ in range(5):
            got = await _raw(lab, sent)
            # A reset may overtake the answer where the client goes on to send.
            told = not got or got.startswith(b"HTTP/1.1 %d" % status)
            tally.outcomes.append(
                Outcome("error" if told else "wrong", status if got else 0, "too large", 0.0)
            )
        tally.expect(all(o.verdict == "error" for o in tally.outcomes), "taken, or told otherwise")

    return run


async def _pipelined(lab: Lab, tally: Tally) -> None:
    questions = lab.questions(20, dialect="chat", stream=False, model="small")
    sent = b"".join(q.wire(keep_alive=True) for q in questions[:-1]) + questions[-1].wire()
    got = await _raw(lab, sent)
    answers = got.split(b"HTTP/1.1 ")[1:]
    tally.expect(len(answers) == 20, f"{len(answers)} answers to 20 pipelined requests")
    for question, answer in zip(questions, answers, strict=False):
        tally.outcomes.append(judge(question, b"HTTP/1.1 " + answer, 0.0))
    tally.expect(tally.count("right") == 20, "pipelined answers are not all right, in order")


async def _flood(lab: Lab, tally: Tally) -> None:
    """A thousand connections that say nothing and go."""
    for _ in range(10):
        opened = [asyncio.open_connection("127.0.0.1", lab.gateway.port) for _ in range(100)]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in opened]
        for task in tasks:
            task.result()[1].transport.abort()
    await lab.put(tally, lab.questions(24))
    tally.expect(tally.count("right") == 24, "not all right after the flood")


async def slow_loris(lab: Lab, tally: Tally) -> float:
    """300 clients that send a head byte by byte; the p99 of good ones over their calm p99."""
    calm = [o.took_s for o in await lab.put(tally, lab.questions(300), at_once=4)]
    streams = [await asyncio.open_connection("127.0.0.1", lab.gateway.port) for _ in range(300)]
    began_s = time.monotonic()

    async def drip() -> None:
        for byte in b"POST /v1/chat/completions HTTP/1.1 " * 2:
            for _, writer in streams:
                with contextlib.suppress(OSError):
                    writer.write(bytes((byte,)))
            await asyncio.sleep(0.25)

    dripping = asyncio.create_task(drip())
    good = [o.took_s for o in await lab.put(tally, lab.questions(300), at_once=4)]
    await dripping
    ended = 0
    for reader, writer in streams:
        ended += await _is_ended(reader)
        writer.transport.abort()
    tally.expect(ended >= 295, f"{ended} of 300 cut off {time.monotonic() - began_s:.0f} s later")
    return statistics.quantiles(good, n=100)[98] / statistics.quantiles(calm, n=100)[98]


async def _is_ended(reader: asyncio.StreamReader) -> bool:
    try:
        async with asyncio.timeout(0.05):
            while await reader.read(4096):
                pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


async def _slow_loris(lab: Lab, tally: Tally) -> None:
    await slow_loris(lab, tally)


async def _half_body(lab: Lab, tally: Tally) -> None:
    """Half a body, then FIN."""
    for _ in range(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", lab.gateway.port)
        writer.write(_CHAT + b'content-length: 1000\r\n\r\n{"model":')
        writer.write_eof()
        async with asyncio.timeout(10):
            with contextlib.suppress(OSError):
                await reader.read()
        writer.transport.abort()
    tally.outcomes.append(await ask(lab.gateway.port, lab.questions(1)[0]))
    tally.expect(tally.count("right") == 1, "the next is not answered")


BIG_HEAD = _CHAT + b"x-filler: %s\r\n" % (b"y" * 4000) * 30 + b"\r\n"
BIG_BODY = _CHAT + b"content-length: 3000000\r\n\r\n" + b" " * 3_000_000
BIG_CHUNKS = (
    _CHAT
    + b"transfer-encoding: chunked\r\n\r\n"
    + (b"10000\r\n" + b" " * 65_536 + b"\r\n") * 48
    + b"0\r\n\r\n"
)
EXPERIMENTS = (
    Experiment(
        "leaves-early",
        "clients gone before the first byte",
        "nothing left",
        _leaves(0.1, reset=False, stream=False),
        quick=True,
    ),
    Experiment(
        "leaves-stream",
        "RST while a stream begins",
        "nothing left",
        _leaves(0.45, reset=True, stream=True),
        quick=True,
    ),
    Experiment(
        "unread",
        "100 clients that never read",
        "others answered, nothing left",
        _unread,
        quick=True,
    ),
    Experiment(
        "smuggling",
        "14 heads of two meanings, one more behind",
        "refused, one answer, closed",
        _smuggling,
        quick=True,
    ),
    Experiment(
        "bad-json",
        "13 bodies that are no request, 3 dialects",
        "4xx in the dialect",
        _bad_json,
        quick=True,
    ),
    Experiment("big-head", "a head of 120 KB", "431", _too_large(BIG_HEAD, 431), quick=True),
    Experiment(
        "big-body", "3 MB, the limit is 1 MiB", "413", _too_large(BIG_BODY, 413), quick=True
    ),
    Experiment(
        "big-chunks",
        "3 MB in chunks without a length",
        "413",
        _too_large(BIG_CHUNKS, 413),
        quick=True,
    ),
    Experiment(
        "pipelined", "20 requests in one write", "20 right, in order", _pipelined, quick=True
    ),
    Experiment("flood", "1,000 connections that say nothing", "others right", _flood),
    Experiment("half-body", "half a body, then FIN", "nothing left", _half_body, quick=True),
    Experiment(
        "slow-loris",
        "300 heads, a byte each 0.25 s",
        "cut off by 12.5 s, others right",
        _slow_loris,
    ),
)
