"""A provider over the vendors' own packages, for Azure, Bedrock, Vertex, HTTP proxies, and whatever else
``wire`` does not support.

The package signs, addresses and connects, but its typed objects are never built: the raw bytes of the
response go through the same sans-IO codecs as in ``wire``, so both providers behave alike (``tests/contract``
runs one suite over both). Its own retries are off: the pipeline retries, and only before the first event.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Protocol

import anthropic
import httpx2
import msgspec
import openai

from app.domain.chat import Dialect
from app.domain.events import Emit
from app.domain.model_call import ModelCall
from app.errors import (
    Unsupported,
    UpstreamClosed,
    UpstreamProtocol,
    UpstreamRefused,
    UpstreamStatus,
    UpstreamTimeout,
)
from app.ports import Codec
from app.providers.redaction import redact
from app.providers.relay import (
    make_reader,
    raise_for_outcome,
    record_outcome,
    relay_answer,
    relay_chunk,
    relay_end,
)
from app.providers.upstream_request import UpstreamRequest, build_upstream_request
from app.settings import ProviderSettings

_DRAIN_S = 0.1
"""How long to wait for the end of the body after a complete answer."""

_STATUS_ERRORS = (openai.APIStatusError, anthropic.APIStatusError)
_TIMEOUTS = (openai.APITimeoutError, anthropic.APITimeoutError, httpx2.TimeoutException)
_CONNECTION_ERRORS = (openai.APIConnectionError, anthropic.APIConnectionError)


class RawResponse(Protocol):
    """What both packages return for ``with_streaming_response``."""

    @property
    def status_code(self) -> int:
        """The HTTP status."""
        ...

    @property
    def headers(self) -> httpx2.Headers:
        """The response's headers."""
        ...

    def iter_bytes(self, chunk_size: int | None = None) -> AsyncIterator[bytes]:
        """The body as it arrives."""
        ...

    async def read(self) -> bytes:
        """The whole body."""
        ...


class SdkProvider:
    """A ``Provider`` over a vendor's package; see the protocol for its promises."""

    def __init__(
        self, name: str, settings: ProviderSettings, codecs: Mapping[Dialect, Codec]
    ) -> None:
        """Create the package's client; it connects on the first call."""
        self.name = name
        self._codecs = dict(codecs)
        self._settings = settings
        self._http = _http_client(settings)
        key = settings.api_key.get_secret_value()
        sent = {"authorization": key, **settings.headers}
        self._secret_headers = tuple(
            (name.lower().encode(), value.encode()) for name, value in sent.items()
        )
        """Redacted from upstream errors."""
        self._openai: openai.AsyncOpenAI | None = None
        self._anthropic: (
            anthropic.AsyncAnthropic
            | anthropic.AsyncAnthropicBedrock
            | anthropic.AsyncAnthropicVertex
            | None
        ) = None
        if settings.kind == "anthropic":
            self._anthropic = _anthropic_client(settings, self._http)
            self._native, self._fallback = frozenset({Dialect.MESSAGES}), Dialect.MESSAGES
        else:
            self._openai = _openai_client(settings, self._http)
            native = (
                {Dialect.CHAT}
                if settings.responses == "translate"
                else {Dialect.CHAT, Dialect.RESPONSES}
            )
            self._native, self._fallback = frozenset(native), Dialect.CHAT

    def dialects(self) -> frozenset[Dialect]:
        """The dialects that are passed through unchanged."""
        return self._native

    async def start(self) -> None:
        """Nothing to warm: the packages connect on their first call."""

    async def aclose(self) -> None:
        """Close the package's connections."""
        await self._http.aclose()

    async def stream(self, call: ModelCall, emit: Emit) -> None:
        """Run ``call`` and hand its events to ``emit``; see ``app.ports.Provider``."""
        request = build_upstream_request(call, self._codecs, self._codecs[self._fallback])
        if call.prompt_shape is not None and call.prompts is not None:
            emit = await call.prompts.gate(call, emit)
        call.timing.started_ns = time.monotonic_ns()
        try:
            async with self._translate_errors(request), self._open(call, request) as response:
                call.timing.headers_ns = time.monotonic_ns()
                call.upstream_status = response.status_code
                if call.stream:
                    await self._stream(call, request, response, emit)
                else:
                    await self._whole(call, request, response, emit)
        finally:
            call.timing.ended_ns = time.monotonic_ns()

    async def count_tokens(self, call: ModelCall) -> int:
        """Ask the vendor to count; raises ``Unsupported`` where its package cannot."""
        if (
            self._anthropic is None
            or call.native is None
            or call.native.dialect is not Dialect.MESSAGES
        ):
            message = f"{self.name} has no endpoint that counts tokens"
            raise Unsupported(message)
        request = build_upstream_request(call, self._codecs, self._codecs[Dialect.MESSAGES])
        fields: dict[str, object] = msgspec.json.decode(request.body)
        async with self._translate_errors(request):
            counted = await self._anthropic.messages.count_tokens(
                model=call.model.upstream_model,
                messages=fields.pop("messages"),  # type: ignore[arg-type]  # as the client sent it
                extra_body={k: v for k, v in fields.items() if k != "model"},
            )
        return counted.input_tokens

    def _open(
        self, call: ModelCall, request: UpstreamRequest
    ) -> AbstractAsyncContextManager[RawResponse]:
        fields: dict[str, object] = msgspec.json.decode(request.body)
        headers = {}
        if call.native is not None:
            headers = {
                k.decode("latin-1"): v.decode("latin-1") for k, v in call.native.forward_headers
            }
        if call.traceparent:
            headers["traceparent"] = call.traceparent
        model = str(fields.pop("model"))
        timeout = httpx2.Timeout(
            self._settings.between_bytes_timeout_s
            if call.stream
            else self._settings.first_byte_timeout_s,
            connect=self._settings.connect_timeout_s,
        )
        fields.pop("stream", None)
        common = {
            "model": model,
            "stream": call.stream,
            "extra_headers": headers,
            "timeout": timeout,
        }
        if self._anthropic is not None:
            create = self._anthropic.messages.with_streaming_response.create
            main = {"messages": fields.pop("messages"), "max_tokens": fields.pop("max_tokens", 1)}
        elif self._openai is not None and request.codec.dialect is Dialect.RESPONSES:
            create = self._openai.responses.with_streaming_response.create  # type: ignore[assignment]
            main = {"input": fields.pop("input", "")}
        else:
            assert self._openai is not None  # noqa: S101 - one of the two is made in __init__
            create = self._openai.chat.completions.with_streaming_response.create  # type: ignore[assignment]
            main = {"messages": fields.pop("messages")}
        return create(**common, **main, extra_body=fields)  # type: ignore[call-overload, no-any-return]

    async def _stream(
        self, call: ModelCall, request: UpstreamRequest, response: RawResponse, emit: Emit
    ) -> None:
        """Relay events until the dialect's end of the answer, as ``wire`` does."""
        reader = make_reader(request)
        chunks = response.iter_bytes()
        try:
            async for data in chunks:
                await relay_chunk(data, reader, call, emit, self._secret_headers)
                if reader.failure is not None or reader.complete:
                    break
            else:
                await relay_end(reader, call, emit, self._secret_headers)
        finally:
            record_outcome(reader, call)
        raise_for_outcome(reader, call, request, self.name)
        # The package reuses a connection only if the body was read to its end, which has nearly always
        # arrived already. If the upstream keeps its side open, leaving closes the connection.
        with suppress(TimeoutError, httpx2.HTTPError):
            async with asyncio.timeout(_DRAIN_S):
                async for _ in chunks:
                    pass

    async def _whole(
        self, call: ModelCall, request: UpstreamRequest, response: RawResponse, emit: Emit
    ) -> None:
        await relay_answer(await response.read(), call, request, emit)

    @asynccontextmanager
    async def _translate_errors(self, request: UpstreamRequest) -> AsyncIterator[None]:
        """Translate the packages' errors into ours; a client's disconnect is not an upstream error."""
        try:
            yield
        except _STATUS_ERRORS as error:
            raise await self._status_error(error.response, request) from error
        except _TIMEOUTS as error:
            message = f"{self.name} did not answer in time"
            raise UpstreamTimeout(message, phase="first_byte") from error
        except _CONNECTION_ERRORS as error:
            message = f"{self.name} could not be reached: {type(error.__cause__ or error).__name__}"
            raise UpstreamRefused(message) from error
        except httpx2.RemoteProtocolError as error:
            message = f"{self.name} ended the connection before the message did"
            raise UpstreamClosed(message) from error
        except httpx2.TransportError as error:
            message = f"the connection to {self.name} failed: {type(error).__name__}"
            raise UpstreamClosed(message) from error
        except (openai.OpenAIError, anthropic.AnthropicError) as error:
            message = f"the package for {self.name} refused the call: {type(error).__name__}"
            raise UpstreamProtocol(message) from error

    async def _status_error(
        self, response: httpx2.Response, request: UpstreamRequest
    ) -> UpstreamStatus:
        try:
            body = await response.aread()
        except httpx2.HTTPError:
            body = b""
        except httpx2.StreamError:
            body = b""
        headers = {k.lower(): v for k, v in response.headers.raw}
        return request.codec.read_error(
            response.status_code, redact(body, self._secret_headers), headers
        )


def _http_client(settings: ProviderSettings) -> httpx2.AsyncClient:
    limits = httpx2.Limits(
        max_connections=settings.max_connections, max_keepalive_connections=settings.max_connections
    )
    return httpx2.AsyncClient(
        proxy=settings.sdk.proxy_url,
        limits=limits,
        timeout=httpx2.Timeout(settings.total_timeout_s, connect=settings.connect_timeout_s),
        follow_redirects=False,
    )


def _openai_client(settings: ProviderSettings, http: httpx2.AsyncClient) -> openai.AsyncOpenAI:
    key = settings.api_key.get_secret_value()
    if settings.sdk.platform == "azure":
        return openai.AsyncAzureOpenAI(
            api_key=key,
            azure_endpoint=settings.base_url,
            api_version=settings.sdk.api_version,
            max_retries=0,
            default_headers=settings.headers,
            http_client=http,
        )
    return openai.AsyncOpenAI(
        api_key=key,
        base_url=settings.base_url,
        max_retries=0,
        default_headers=settings.headers,
        http_client=http,
    )


def _anthropic_client(
    settings: ProviderSettings, http: httpx2.AsyncClient
) -> anthropic.AsyncAnthropic | anthropic.AsyncAnthropicBedrock | anthropic.AsyncAnthropicVertex:
    if settings.sdk.platform == "bedrock":
        return anthropic.AsyncAnthropicBedrock(
            aws_region=settings.sdk.region,
            max_retries=0,
            default_headers=settings.headers,
            http_client=http,
        )
    if settings.sdk.platform == "vertex":
        return anthropic.AsyncAnthropicVertex(
            region=settings.sdk.region or "global",
            project_id=settings.sdk.project or "",
            max_retries=0,
            default_headers=settings.headers,
            http_client=http,
        )
    base_url = settings.base_url.removesuffix("/").removesuffix("/v1")
    return anthropic.AsyncAnthropic(
        api_key=settings.api_key.get_secret_value(),
        base_url=base_url,
        max_retries=0,
        default_headers=settings.headers,
        http_client=http,
        open_telemetry=False,
    )
