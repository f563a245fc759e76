"""One contract for both ways to a model: what `app.ports.Provider` promises, `wire` and `sdk` keep alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from app.bootstrap import _model, _provider
from app.domain.chat import ChatRequest, Dialect
from app.domain.deadline import Deadline
from app.domain.events import AnswerBuilder, Event, Frames, WholeBody
from app.domain.model_call import ModelCall
from app.errors import UpstreamClosed, UpstreamError, UpstreamRefused, UpstreamStatus
from app.ports import Provider
from app.providers.simulator import RunningSimulator, SimulatorSettings, expected_answer
from app.wire.codecs import CODECS
from tests.e2e.test_passthrough import STREAMS
from tests.support.gateway import configuration, settings_of
from tests.support.raw_server import PATIENCE_S, Peer, raw_server

pytestmark = pytest.mark.anyio

NATIVE = [("local", Dialect.CHAT), ("local", Dialect.RESPONSES), ("claude", Dialect.MESSAGES)]
over_every_dialect = pytest.mark.parametrize(("name", "dialect"), NATIVE)
stream_or_not = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


@pytest.fixture(params=["wire", "sdk"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def upstream() -> AsyncIterator[RunningSimulator]:
    running = RunningSimulator(SimulatorSettings(time_scale=0))
    async with running:
        yield running


class Ways:
    """The providers over one upstream."""

    def __init__(self, url: str, transport: str) -> None:
        values = configuration(url)
        for provider in values["providers"].values():
            provider["transport"] = transport
        self.settings = settings_of(values)
        self.models = {m.provider: _model(m, self.settings) for m in self.settings.models}

    def provider(self, name: str) -> Provider:
        return _provider(name, self.settings.providers[name])


def call_of(ways: Ways, name: str, dialect: Dialect, *, stream: bool) -> ModelCall:
    """A call that passes through."""
    said = [{"role": "user", "content": "What is TCP?"}]
    body: dict[str, object] = {"model": "small", "stream": stream}
    body |= {"input": said} if dialect is Dialect.RESPONSES else {"messages": said}
    if dialect is Dialect.MESSAGES:
        body["max_tokens"] = 500
    request = ChatRequest(dialect, "small", stream, body, msgspec.json.encode(body))
    return ModelCall(ways.models[name], stream, Deadline(None), native=request)


class Kept(list[Event]):
    """An ``emit`` that keeps."""

    async def __call__(self, event: Event) -> None:
        self.append(event)

    def text(self, dialect: Dialect) -> str:
        data = b"".join(e.data if isinstance(e, Frames) else e.body for e in self)
        if isinstance(self[0], WholeBody):
            return CODECS[dialect].read_answer(data).text
        builder = AnswerBuilder()
        reader = CODECS[dialect].reader()
        for event in (*reader.feed(data), *reader.end()):
            builder.add(event)
        return builder.answer().text


@over_every_dialect
@stream_or_not
async def test_an_answer_passes_through_and_is_accounted_for(
    upstream, transport, name, dialect, stream
):
    ways = Ways(upstream.base_url, transport)
    provider, call, kept = ways.provider(name), call_of(ways, name, dialect, stream=stream), Kept()
    assert dialect in provider.dialects()
    await provider.start()
    try:
        await provider.stream(call, kept)
    finally:
        await provider.aclose()
        await provider.aclose()
    profile = call.model.upstream_model
    assert kept.text(dialect) == expected_answer("What is TCP?", profile)
    assert call.complete
    assert call.finish == "stop"
    assert call.usage.output_tokens > 0
    assert call.upstream_status == 200
    timing = call.timing
    assert 0 < timing.started_ns <= timing.headers_ns <= timing.first_event_ns <= timing.ended_ns


@over_every_dialect
@stream_or_not
@pytest.mark.parametrize("fault", ["429:7", "500", "529"])
async def test_a_refusal_is_a_true_error_before_the_first_event(  # noqa: PLR0917
    upstream, transport, name, dialect, stream, fault
):
    """With the provider's own status and body, asked once."""
    ways = Ways(upstream.base_url, transport)
    provider, call, kept = ways.provider(name), call_of(ways, name, dialect, stream=stream), Kept()
    upstream.simulator.script_faults(fault)
    with pytest.raises(UpstreamStatus) as caught:
        await provider.stream(call, kept)
    await provider.aclose()
    assert str(caught.value.status) == fault.partition(":")[0]
    assert caught.value.transient
    assert b"error" in caught.value.body
    assert caught.value.retry_after_s == (7 if fault == "429:7" else None)
    assert not kept
    assert upstream.simulator.stats.requests.total() == 1


@over_every_dialect
@pytest.mark.parametrize("fault", ["cut:6", "truncated:6", "reset-mid-stream:6"])
async def test_a_broken_stream_raises_after_what_was_said(
    upstream, transport, name, dialect, fault
):
    ways = Ways(upstream.base_url, transport)
    provider, call, kept = ways.provider(name), call_of(ways, name, dialect, stream=True), Kept()
    upstream.simulator.script_faults(fault)
    with pytest.raises(UpstreamError):
        await provider.stream(call, kept)
    await provider.aclose()
    assert not call.complete


@over_every_dialect
async def test_nobody_listening_is_a_refusal_without_risk(transport, name, dialect):
    ways = Ways("http://127.0.0.1:1", transport)
    provider = ways.provider(name)
    with pytest.raises((UpstreamRefused, UpstreamClosed)):
        await provider.stream(call_of(ways, name, dialect, stream=True), Kept())
    await provider.aclose()


@over_every_dialect
@stream_or_not
async def test_a_cancelled_call_hangs_up_on_the_upstream(transport, name, dialect, stream):
    """No token is generated for nobody."""
    asked: asyncio.Queue[Peer] = asyncio.Queue()

    async def silent(peer: Peer) -> None:
        await peer.request()
        asked.put_nowait(peer)
        await peer.gone.wait()

    async with raw_server(silent) as server:
        ways = Ways(f"http://127.0.0.1:{server.port}", transport)
        provider = ways.provider(name)
        task = asyncio.ensure_future(  # noqa: TID251 (awaited below)
            provider.stream(call_of(ways, name, dialect, stream=stream), Kept())
        )
        peer = await asyncio.wait_for(asked.get(), PATIENCE_S)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await peer.wait_gone()
        await provider.aclose()


@over_every_dialect
@pytest.mark.parametrize("end", ["kept open", "reset"])
async def test_an_answer_is_over_with_its_dialect_s_own_end(transport, name, dialect, end):
    """Whatever the upstream does with the connection afterwards."""
    events = STREAMS[
        {"openai_chat": "chat", "openai_responses": "responses"}.get(dialect, "messages")
    ]

    async def lingering(peer: Peer) -> None:
        await peer.request()
        await peer.send(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
            b"transfer-encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(events), events)
        )
        if end == "reset":
            peer.reset()
        await peer.gone.wait()

    async with raw_server(lingering) as server:
        ways = Ways(f"http://127.0.0.1:{server.port}", transport)
        provider, call, kept = (
            ways.provider(name),
            call_of(ways, name, dialect, stream=True),
            Kept(),
        )
        async with asyncio.timeout(PATIENCE_S):
            await provider.stream(call, kept)
        await provider.aclose()
    assert call.complete
    assert kept.text(dialect) == Kept([Frames(events, 1)]).text(dialect)
