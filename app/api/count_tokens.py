"""``POST /v1/messages/count_tokens``: the vendor's own count, or an estimate if it offers none."""

from __future__ import annotations

import msgspec
from starlette.types import Receive, Scope, Send

from app.api.content_encoding import counted
from app.api.inference import (
    ClientLeft,
    Edge,
    Inference,
    read_body,
    read_headers,
)
from app.api.outlet import Outlet, outlet_of
from app.api.request_parsing import parse, request_id_of, vendor_id_line
from app.domain.chat import ChatRequest, Dialect, Json
from app.domain.deadline import Deadline
from app.domain.model_call import ModelCall
from app.domain.models import AUTO, Model
from app.errors import GatewayError, MethodNotAllowed, NotFound, Unsupported
from app.telemetry.timeline import Timeline

_BYTES_PER_TOKEN = 4
"""English prose in JSON, within a fifth of what the vendors count."""


class CountTokens:
    """The endpoint, as pure ASGI."""

    def __init__(self, edge: Edge) -> None:
        """Serve with what ``edge`` holds."""
        self._edge = edge
        self._codec = edge.gateway.codecs[Dialect.MESSAGES]
        self._refuse = Inference(Dialect.MESSAGES, edge).refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request in the Messages dialect."""
        outlet = outlet_of(scope, receive, send)
        with self._edge.bodies.lease() as lease:
            came = counted(receive, scope["headers"], lease, outlet)
            await self._serve(scope, came, outlet)

    async def _serve(self, scope: Scope, receive: Receive, outlet: Outlet) -> None:
        timeline = Timeline()
        headers, forwarded = read_headers(scope["headers"])
        request_id = request_id_of(headers.get(b"x-request-id"))
        edge = self._edge
        try:
            if scope["method"] != "POST":
                message = f"{scope['path']} takes POST, not {scope['method']}"
                raise MethodNotAllowed(message)
            caller = edge.authenticator.caller(
                headers.get(b"authorization"), headers.get(b"x-api-key")
            )
            if caller.guard is not None:
                (await caller.guard.admit(0)).settle(None)
            raw = await read_body(outlet, receive, headers, edge.max_body_bytes)
            body = parse(raw)
            # A count has no answer to limit: max_tokens is not among its fields.
            self._codec.check({"max_tokens": 1, **body})
            request = ChatRequest(
                Dialect.MESSAGES,
                str(body["model"]),
                stream=False,
                body=body,
                raw=raw,
                forward_headers=tuple(forwarded),
            )
            if caller.guard is not None:
                caller.guard.require_model(request.model)
            await self._count(request, request_id, outlet)
        except ClientLeft:
            return
        except GatewayError as error:
            await self._refuse(error, request_id, outlet, timeline)

    async def _count(self, request: ChatRequest, request_id: str, outlet: Outlet) -> None:
        gateway = self._edge.gateway
        for model in self._models(request):
            provider = gateway.providers[model.provider]
            if Dialect.MESSAGES not in provider.dialects():
                continue
            call = ModelCall(model, stream=False, deadline=Deadline(None), native=request)
            try:
                await _respond(
                    outlet, request_id, await provider.count_tokens(call), estimated=False
                )
            except Unsupported:
                continue
            return
        await _respond(outlet, request_id, estimate(request.body), estimated=True)

    def _models(self, request: ChatRequest) -> list[Model]:
        gateway = self._edge.gateway
        if request.model == AUTO:
            return list(gateway.models.values())
        model = gateway.models.get(request.model)
        if model is None:
            known = ", ".join([AUTO, *gateway.models][:12])
            message = f"the model {request.model[:80]!r} is not configured: use one of {known}"
            raise NotFound(message, code="model_not_found", param="model")
        return [model]


def estimate(body: Json) -> int:
    """Estimate the prompt's tokens as its bytes divided by four."""
    parts = [body[name] for name in ("system", "tools", "messages") if body.get(name) is not None]
    return max(1, len(msgspec.json.encode(parts)) // _BYTES_PER_TOKEN)


async def _respond(outlet: Outlet, request_id: str, tokens: int, *, estimated: bool) -> None:
    head = b"content-type: application/json\r\nx-request-id: %s\r\n" % request_id.encode("ascii")
    head += vendor_id_line(Dialect.MESSAGES, request_id)
    if estimated:
        head += b"x-slipstream-reason: estimated, as this model's vendor offers no count\r\n"
    await outlet.respond(200, head, b'{"input_tokens":%d}' % tokens)
