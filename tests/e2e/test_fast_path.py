"""The fast path of an ordinary request says and does what the general path does, and leaves for it in time.

A request takes it on a connection whose head is known: from the second of the same head on.
``x-slipstream-tags`` is a wish, so a request that has it takes the general path; but for that header the
two are the same request.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

import pytest

from app.api.fast_path import FastPath
from app.api.fast_request import FastRequest
from app.domain.chat import PlainRequest
from tests.support.gateway import Running, configuration, running_gateway
from tests.support.raw_server import PATIENCE_S, Peer, raw_server

pytestmark = pytest.mark.anyio

ANSWER = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Four."},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9},
    }
).encode()
SECRET = "sk-known-to-the-upstream-alone"
NEVER_ALIKE = {"x-request-id", "request-id", "server-timing", "date"}
TIMES = {
    "request_id",
    "started_unix_s",
    "total_ms",
    "ttft_ms",
    "upstream_ms",
    "overhead_ms",
    "spans",
}


@dataclass
class Client:
    """One kept connection that sends the same head each time."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    more: bytes = b""
    path: bytes = b"/v1/chat/completions"

    def send(self, text: str, **fields: object) -> None:
        """Ask; all in one write."""
        asked = {"model": "small", "messages": [{"role": "user", "content": text}], **fields}
        body = json.dumps(asked, separators=(",", ":")).encode()
        head = b"POST %b HTTP/1.1\r\nhost: x\r\n%bcontent-length: %d\r\n\r\n"
        self.writer.write(head % (self.path, self.more, len(body)) + body)

    async def read(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the next answer."""
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
        first, *lines = head.decode("latin-1").split("\r\n")[:-2]
        headers = dict(line.split(": ", 1) for line in lines)
        body = await self.reader.readexactly(int(headers["content-length"]))
        return int(first.split()[1]), headers, body

    async def ask(self, text: str, **fields: object) -> tuple[int, dict[str, str], bytes]:
        """Ask, and wait for the answer."""
        self.send(text, **fields)
        return await self.read()


async def connect(gateway: Running, more: bytes = b"") -> Client:
    """A new connection; ``more`` are header lines that every request has."""
    url = urlsplit(gateway.url)
    client = Client(*await asyncio.open_connection(url.hostname, url.port), more)
    OPEN.append(client)
    return client


async def taught(gateway: Running, count: int) -> list[Client]:
    """Clients whose heads are known, and as many connections upstream."""
    clients = [await connect(gateway) for _ in range(count)]
    for turn in range(2):
        for number, client in enumerate(clients):
            client.send(f"lesson {turn} of {number}")
        for client in clients:
            await client.read()
    return clients


OPEN: list[Client] = []
"""To be closed at the end of a ``house``."""


class Counted:
    """How many requests went the fast path to their end, and how many were handed over."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.whole = self.handed_over = self.told = 0
        release, hand_over, serve_hit = (
            FastRequest._release,
            FastRequest._hand_over,
            FastPath._serve_hit,
        )

        def counting_release(self_: FastRequest, *rest: object) -> None:
            self.whole += 1
            release(self_, *rest)  # type: ignore[arg-type]

        def counting_hand_over(self_: FastRequest) -> None:
            self.handed_over += not self_._handed_over
            hand_over(self_)

        def counting_serve_hit(self_: FastPath, *rest: object) -> bool:
            told = serve_hit(self_, *rest)  # type: ignore[arg-type]
            self.told += told
            return told

        monkeypatch.setattr(FastRequest, "_release", counting_release)
        monkeypatch.setattr(FastRequest, "_hand_over", counting_hand_over)
        monkeypatch.setattr(FastPath, "_serve_hit", counting_serve_hit)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    """Counts."""
    return Counted(monkeypatch)


async def answering(peer: Peer) -> None:
    """An upstream that answers all that comes."""
    while True:
        await peer.request()
        await peer.answer(
            ANSWER, head=b"content-type: application/json\r\nx-ratelimit-limit-requests: 5\r\n"
        )


@asynccontextmanager
async def house(
    upstream=answering, tls: ssl.SSLContext | None = None, **sections: object
) -> AsyncIterator[Running]:
    """A gateway before ``upstream``, which may speak TLS."""
    scheme, host = ("https", "localhost") if tls else ("http", "127.0.0.1")
    async with raw_server(upstream, tls=tls, host=host) as server:
        values = configuration(f"{scheme}://{host}:{server.port}", **sections)
        values["providers"]["local"]["api_key"] = SECRET  # type: ignore[index]
        async with running_gateway(values) as gateway:
            try:
                yield gateway
            finally:
                while OPEN:
                    writer = OPEN.pop().writer
                    writer.transport.abort()
                    with suppress(ConnectionError):
                        await writer.wait_closed()


def at_rest(gateway: Running) -> bool:
    """Whether nothing is left of any request."""
    edge = gateway.context.edge
    places = edge.gateway.providers["local"].limiter.in_use  # type: ignore[attr-defined]
    calls = edge.gateway.load.deployment("small").in_flight
    return (edge.in_flight.now, len(edge.gateway.flights), places, calls) == (0, 0, 0, 0)


async def rest(gateway: Running) -> None:
    """Wait until what was under way has ended."""
    async with asyncio.timeout(PATIENCE_S):
        while not at_rest(gateway):  # noqa: ASYNC110 - the end of a turn owes a test no event
            await asyncio.sleep(0.002)


def newest(gateway: Running) -> dict[str, object]:
    """What the newest trace says that does not change from turn to turn."""
    trace = gateway.context.telemetry.traces.latest(1)[0]
    spans = [(span["stage"], span["detail"], span["parent"]) for span in trace["spans"]]  # type: ignore[attr-defined]
    return {k: v for k, v in trace.items() if k not in TIMES} | {"stages": spans}


def told(headers: dict[str, str]) -> dict[str, str]:
    """The headers that do not change from answer to answer, and the names of those that do."""
    stages = [entry.split(";")[0] for entry in headers["server-timing"].split(", ")]
    same = {name: value for name, value in headers.items() if name not in NEVER_ALIKE}
    return same | {"names": " ".join(headers), "stages": " ".join(stages)}


async def test_a_miss_and_a_hit_say_the_same_by_both_ways(counted: Counted) -> None:
    """Status, every header, the body, and every field of the turn's record."""
    async with house() as gateway:
        plain = await connect(gateway)
        tagged = await connect(gateway, b"x-slipstream-tags: a\r\n")
        for client in (plain, tagged):
            await client.ask(f"the first teaches the connection's head {client.more!r}")
        await plain.ask("the second's answer is of a known shape")
        assert counted.whole == 1
        for question in ("a miss", "a hit"):
            said = []
            # The general path first, then the straight one: of a hit that is the second telling.
            for client, text in ((tagged, f"general {question}"), (plain, f"straight {question}")):
                await client.ask(text)
                if question == "a hit":
                    await client.ask(text)
                status, headers, body = (
                    await client.ask(text)
                    if question == "a hit"
                    else (await client.ask(text + "!"))
                )
                said.append((status, told(headers), body, newest(gateway)))
            general, straightly = said
            entry = [record["cache"].pop("entry") for *_, record in said]  # type: ignore[attr-defined]
            assert (entry[0] is None) == (entry[1] is None)
            assert general == straightly
            assert general[1]["x-slipstream-cache"] == ("exact" if question == "a hit" else "miss")
        assert counted.told == 1
        assert counted.whole >= 4
        assert at_rest(gateway)


async def test_the_same_words_again_are_answered_unread_with_what_is_kept_now(
    counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once it was told; and never what was forgotten meanwhile, nor what another tenant was told."""
    async with house() as gateway:
        client = await connect(gateway)
        way = straight_way(gateway)
        for _ in range(4):
            await client.ask("the same words")
        assert counted.told
        read = way._read
        monkeypatch.setattr(way, "_read", pytest.fail)
        told_before = counted.told
        status, headers, body = await client.ask("the same words")
        assert (status, headers["x-slipstream-cache"], body) == (200, "exact", ANSWER)
        assert counted.told == told_before + 1
        monkeypatch.setattr(way, "_read", read)
        for raw, (plan, key) in [*way._repeated.items()]:
            way._repeated[raw] = replace(plan, tenant="another"), key
        assert (await client.ask("the same words"))[1]["x-slipstream-cache"] == "exact"
        gateway.context.edge.gateway.exact.clear()
        assert (await client.ask("the same words"))[1]["x-slipstream-cache"] == "miss"


async def test_other_words_in_a_body_that_is_known_are_answered_unread(
    counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On each connection; and a body of any other shape is read."""
    async with house() as gateway:
        client = await connect(gateway)
        way = straight_way(gateway)
        for number in range(3):
            await client.ask(f"question {number}")
        read = way._read
        seen: list[bytes] = []

        def watched(raw: bytes) -> PlainRequest | None:
            seen.append(raw)
            return read(raw)

        monkeypatch.setattr(way, "_read", watched)
        before = counted.whole
        for text in ("other words", 'of two lines\nand a "quote"', "日本"):
            status, headers, body = await client.ask(text)
            assert (status, headers["x-slipstream-cache"], body) == (200, "miss", ANSWER)
        assert counted.whole >= before + 2  # the last may be counted in a moment
        assert b"\\u65e5" in seen[0]  # printed with escapes: that is read
        assert (await client.ask("other words", temperature=0.5))[1]["x-slipstream-cache"] == "miss"
        assert (await client.ask("other words"))[1]["x-slipstream-cache"] == "exact"


def straight_way(gateway: Running) -> FastPath:
    """Of Chat Completions."""
    return gateway.app.native["/v1/chat/completions"]._ways[()]  # type: ignore[attr-defined,no-any-return]


@pytest.mark.parametrize(
    "rules",
    [
        {"contracts": [{"model": "small", "max_tokens": 9}]},
        {"layouts": [{"model": "small"}]},
        {"batches": [{"model": "small"}]},
    ],
)
async def test_what_is_configured_for_a_route_takes_that_route_alone_the_general_way(
    counted: Counted, rules: dict[str, object]
) -> None:
    """A contract, a layout or a batch of another model or tenant costs nothing."""
    (kind, (rule,)) = next(iter(rules.items()))
    others = {kind: [{**rule, "model": "large"}, {**rule, "tenant": "somebody"}]}
    if kind == "contracts":
        others[kind].append({**rule, "name": "asked"})
    for prompts, straightly in ((rules, 0), (others, 2)):
        counted.whole = 0
        async with house(prompts=prompts) as gateway:
            client = await connect(gateway)
            for number in range(4):
                await client.ask(f"question {number}")
        assert counted.whole >= straightly
        assert bool(counted.whole) is bool(straightly)


MESSAGE = (
    b'{"id":"msg_1","type":"message","role":"assistant","model":"m","content":[{"type":"text",'
    b'"text":"Four."}],"stop_reason":"end_turn","stop_sequence":null,'
    b'"usage":{"input_tokens":7,"output_tokens":2}}'
)


async def test_messages_with_the_versions_of_vendors_clients_go_straight_and_no_others(
    counted: Counted,
) -> None:
    """With the same headers upstream as by the general path; each version travels on as it came."""
    seen: list[dict[bytes, bytes]] = []

    async def upstream(peer: Peer) -> None:
        while True:
            asked = await peer.request()
            seen.append(asked.headers)
            await peer.answer(MESSAGE, head=b"content-type: application/json\r\n")

    async with house(upstream) as gateway:
        said = {}
        for version in (b"2023-06-01", b"2026-10-21", b"2023-01-01", b""):
            for tags in (b"", b"x-slipstream-tags: a\r\n"):
                named = b"anthropic-version: " + version + b"\r\n" if version else b""
                more = named + tags
                client = await connect(gateway, more)
                client.path = b"/v1/messages"
                counted.whole = 0
                texts = [f"{version!r} {tags!r} {number}" for number in range(4)]
                *_, answer = [
                    await client.ask(text, model="small2", max_tokens=9) for text in texts
                ]
                length = int(seen[-1].pop(b"content-length"))
                assert length > 0
                said[version, tags] = (answer[0], told(answer[1]), newest(gateway), seen[-1])
                assert bool(counted.whole) is (version != b"2023-01-01" and not tags)
                assert seen[-1][b"anthropic-version"] == (version or b"2023-06-01")
            assert said[version, b""] == said[version, b"x-slipstream-tags: a\r\n"]


async def test_an_answer_for_one_version_is_never_told_for_another(counted: Counted) -> None:
    """By either way; what is kept for a version is found by both, and a second try says it again."""
    seen: list[bytes] = []
    failed: list[bool] = []

    async def upstream(peer: Peer) -> None:
        while True:
            asked = await peer.request()
            seen.append(asked.headers[b"anthropic-version"])
            if b"try twice" in asked.body and not failed:
                failed.append(True)
                await peer.send(
                    b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 2\r\n\r\n{}"
                )
            else:
                await peer.answer(MESSAGE, head=b"content-type: application/json\r\n")

    async with house(upstream) as gateway:
        clients = [
            await connect(gateway, b"anthropic-version: " + version + b"\r\n" + tags)
            for version in (b"2023-06-01", b"2026-10-21")
            for tags in (b"", b"x-slipstream-tags: a\r\n")
        ]
        outcomes = []
        for client in clients:
            client.path = b"/v1/messages"
            await client.ask(f"first {client.more!r}", model="small2", max_tokens=9)
        asked_before = len(seen)
        for client in clients:
            told_ = [await client.ask("same", model="small2", max_tokens=9) for _ in range(2)]
            outcomes += [headers["x-slipstream-cache"] for _, headers, _ in told_]
        assert outcomes == ["miss", *["exact"] * 3] * 2
        assert seen[asked_before:] == [b"2023-06-01", b"2026-10-21"]
        assert counted.whole == 2
        status, *_ = await clients[2].ask("try twice", model="small2", max_tokens=9)
        assert (status, failed, counted.handed_over) == (200, [True], 1)
        assert seen[asked_before:] == [b"2023-06-01", *[b"2026-10-21"] * 3]


async def test_ledger_metrics_and_load_count_both_ways_alike(counted: Counted) -> None:
    """As many turns, tokens and USD whichever way they went."""
    sums = []
    for more in (b"", b"x-slipstream-tags: a\r\n"):
        async with house() as gateway:
            client = await connect(gateway, more)
            for number in range(6):
                await client.ask(f"question {number}")
            telemetry = gateway.context.telemetry
            saved = telemetry.ledger.savings()
            load = gateway.context.edge.gateway.load.deployment("small")
            sums.append((saved["turns"], saved["spent_usd"], load.upstream_s > 0, load.ttft_s > 0))
            assert gateway.context.edge.gateway.retry_budget._tokens > 10
    assert sums[0] == sums[1]
    assert counted.whole > 2


@pytest.mark.parametrize("status", [b"429 Too Many Requests", b"500 Internal Server Error"])
async def test_an_upstreams_error_is_told_by_the_general_way(
    counted: Counted, status: bytes
) -> None:
    """With its status; the next request is served."""
    fail = asyncio.Event()

    async def upstream(peer: Peer) -> None:
        while True:
            await peer.request()
            if not fail.is_set():
                await peer.answer(ANSWER, head=b"content-type: application/json\r\n")
                continue
            body = b'{"error":{"message":"no","type":"x"}}'
            await peer.send(
                b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
                % (status, len(body), body)
            )

    async with house(upstream) as gateway:
        client = await connect(gateway)
        for number in range(3):
            await client.ask(f"{number}")
        fail.set()
        for number in range(3):
            said, headers, body = await client.ask(f"failing {number}")
            assert said == int(status[:3])
            assert headers["x-slipstream-model"] == "local/sim-fast"
            assert json.loads(body)["error"]["message"] == "no"
        fail.clear()
        await asyncio.sleep(0)
        assert counted.handed_over >= 1
        assert at_rest(gateway)


@pytest.mark.parametrize("how", ["in pieces", "chunked", "no answer", "not JSON", "closed before"])
async def test_an_answer_that_is_not_in_one_piece_or_none_is_for_the_general_way(
    counted: Counted, how: str
) -> None:
    """The client gets the whole answer, or the failure's status; a connection that went stale is replaced."""
    odd = asyncio.Event()

    async def upstream(peer: Peer) -> None:
        while True:
            await peer.request()
            if not odd.is_set():
                await peer.answer(ANSWER, head=b"content-type: application/json\r\n")
                continue
            odd.clear()
            head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
            if how == "in pieces":
                whole = head + b"content-length: %d\r\n\r\n" % len(ANSWER) + ANSWER
                await peer.send(whole[:40], whole[40:120], whole[120:-9], whole[-9:])
            elif how == "chunked":
                chunk = b"%x\r\n%b\r\n0\r\n\r\n" % (len(ANSWER), ANSWER)
                await peer.send(head + b"transfer-encoding: chunked\r\n\r\n" + chunk)
            elif how == "not JSON":
                await peer.answer(b"[1", head=b"content-type: application/json\r\n")
            elif how == "no answer":
                await peer.send(head[:20])
                peer.writer.transport.abort()
                return
            else:
                peer.writer.transport.abort()
                return

    async with house(upstream) as gateway:
        client = await connect(gateway)
        for number in range(3):
            await client.ask(f"{number}")
        began = counted.handed_over
        odd.set()
        status, _, body = await client.ask("the odd one")
        whole = how in {"in pieces", "chunked", "closed before"}
        assert (status, body) == (200, ANSWER) if whole else status in {200, 502}
        assert counted.handed_over > began
        assert (await client.ask("and the next"))[0] == 200
        assert at_rest(gateway)


async def test_who_asks_the_same_meanwhile_joins_the_flight(counted: Counted) -> None:
    """One call upstream for two clients, both answered; the first may leave."""
    asked: asyncio.Queue[Peer] = asyncio.Queue()
    answer = asyncio.Event()

    async def upstream(peer: Peer) -> None:
        while True:
            await peer.request()
            if peer.number or peer.requests > 3:
                asked.put_nowait(peer)
                await answer.wait()
            await peer.answer(ANSWER, head=b"content-type: application/json\r\n")

    for leaves in (False, True):
        answer.clear()
        async with house(upstream) as gateway:
            first, second = await connect(gateway), await connect(gateway)
            for number in range(3):
                await first.ask(f"{number}")
            first.send("the same")
            await asyncio.wait_for(asked.get(), PATIENCE_S)
            assert len(gateway.context.edge.gateway.flights) == 1
            second.send("the same")
            flight = next(iter(gateway.context.edge.gateway.flights._flights.values()))
            async with asyncio.timeout(PATIENCE_S):
                while not flight.followers:  # noqa: ASYNC110 - joining owes a test no event
                    await asyncio.sleep(0.002)
            if leaves:
                first.writer.transport.abort()
                async with asyncio.timeout(PATIENCE_S):
                    while not flight.leader_gone:  # noqa: ASYNC110
                        await asyncio.sleep(0.002)
            answer.set()
            status, headers, body = await second.read()
            assert (status, body) == (200, ANSWER)
            assert headers["x-slipstream-cache"] == "coalesced"
            assert headers["x-slipstream-model"] == "local/sim-fast"
            if not leaves:
                assert (await first.read())[2] == ANSWER
            assert asked.empty()
            await rest(gateway)
    assert counted.handed_over >= 2


def holding_the_fourth(asked: asyncio.Queue[Peer]) -> Callable[[Peer], Awaitable[None]]:
    """An upstream that answers three requests of a connection and says when it has the fourth."""

    async def upstream(peer: Peer) -> None:
        while True:
            await peer.request()
            if peer.requests > 3:
                asked.put_nowait(peer)
                await peer.gone.wait()
                return
            await peer.answer(ANSWER, head=b"content-type: application/json\r\n")

    return upstream


async def test_a_client_that_leaves_stops_the_upstream_and_counts_as_499(counted: Counted) -> None:
    """At once, and nothing is left."""
    asked: asyncio.Queue[Peer] = asyncio.Queue()
    async with house(holding_the_fourth(asked)) as gateway:
        client = await connect(gateway)
        for number in range(3):
            await client.ask(f"{number}")
        client.send("and gone")
        peer = await asyncio.wait_for(asked.get(), PATIENCE_S)
        assert counted.handed_over == 1  # the upstream's first answer
        client.writer.transport.abort()
        await asyncio.wait_for(peer.gone.wait(), PATIENCE_S)
        await rest(gateway)
        trace = newest(gateway)
        assert (trace["status"], trace["disconnect"], trace["attempts"]) == (499, "json", 1)
        assert counted.handed_over == 2


async def test_a_shutdown_ends_what_is_under_way_with_503(counted: Counted) -> None:
    """The server cancels it as it does a task, and the client is told to ask again."""
    asked: asyncio.Queue[Peer] = asyncio.Queue()
    async with house(holding_the_fourth(asked)) as gateway:
        client = await connect(gateway)
        for number in range(3):
            await client.ask(f"{number}")
        client.send("too late")
        peer = await asyncio.wait_for(asked.get(), PATIENCE_S)
        gateway.context.edge.heartbeat.stopping = True
        for task in gateway.server.server_state.tasks:
            task.cancel(msg="the grace is over")
        status, _, body = await client.read()
        assert status == 503
        assert b"retry" in body
        await asyncio.wait_for(peer.gone.wait(), PATIENCE_S)
        await rest(gateway)
        assert not gateway.server.server_state.tasks
        assert counted.handed_over == 2
