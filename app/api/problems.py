"""Errors of the administrative endpoints as RFC 9457 problem details; the one place where they are mapped.

What the vendors' clients ask for has errors of the vendors' form: the list of models, and endpoints that
this gateway does not have (files, batches, embeddings ...).
"""

from __future__ import annotations

import logging
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from app.api.content_encoding import KNOWN_CODINGS
from app.api.context import context_of
from app.api.head_requests import with_head
from app.api.response import retry_after
from app.domain.chat import Dialect
from app.errors import (
    BadRequest,
    GatewayError,
    MethodNotAllowed,
    NotFound,
    UnsupportedContentEncoding,
)

_log = logging.getLogger("slipstream.api")
_TYPE = "application/problem+json"
_UNPROCESSABLE = 422
_NOT_FOUND = 404
_WRONG_VERB = 405
_OURS = frozenset(
    {
        "agent", "cache", "feedback", "jobs", "ledger", "prompts", "runs", "savings", "speculation", "traces",
        "upstreams",
    }
)  # fmt: skip
"""The families of endpoints below ``/v1`` that are the gateway's own; all others are a vendor's."""
REQUEST_ID = "slipstream.request_id"
"""The key of the request's id in its ASGI scope."""


def install(app: FastAPI) -> None:
    """Install the exception handlers on ``app``."""
    app.add_exception_handler(GatewayError, _gateway_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _fault)


def problem(
    status: int, code: str, detail: str, headers: dict[str, str] | None = None, **more: object
) -> JSONResponse:
    """A problem document."""
    body = {
        "type": f"urn:slipstream:{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": code,
        "detail": detail,
        **more,
    }
    return JSONResponse(body, status, headers, media_type=_TYPE)


async def _gateway_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, GatewayError):
        raise error
    return _in_dialect(request, error) if _is_vendors(request) else refusal(error)


def asks_anthropic(request: Request) -> bool:
    """Whether the answer is wanted in Anthropic's form rather than OpenAI's."""
    return "anthropic-version" in request.headers or request.url.path.startswith("/v1/messages/")


def _is_vendors(request: Request) -> bool:
    """Whether the path is one of a vendor's API rather than of the gateway's own."""
    version, _, rest = request.url.path.removeprefix("/").partition("/")
    return version == "v1" and rest.partition("/")[0] not in _OURS


def _in_dialect(
    request: Request, error: GatewayError, headers: dict[str, str] | None = None
) -> Response:
    """``error`` in the form of the vendor's own API."""
    anthropic = asks_anthropic(request)
    codec = context_of(request).edge.gateway.codecs[Dialect.MESSAGES if anthropic else Dialect.CHAT]
    request_id = request.scope.get(REQUEST_ID, "")
    body = codec.write_error(error, request_id)
    when = _when(error) | (headers or {}) | ({"request-id": request_id} if anthropic else {})
    return Response(body, error.status, when, media_type="application/json")


def _when(error: GatewayError) -> dict[str, str]:
    if isinstance(error, UnsupportedContentEncoding):
        return {"accept-encoding": KNOWN_CODINGS}
    line = retry_after(error).decode()
    return {"retry-after": line.partition(": ")[2].strip()} if line else {}


def refusal(error: GatewayError) -> JSONResponse:
    """The problem document of ``error``."""
    return problem(
        error.status,
        error.code,
        error.message,
        _when(error),
        **({"param": error.param} if error.param else {}),
    )


async def _invalid(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    faults = [
        {"where": ".".join(str(part) for part in fault["loc"]), "why": fault["msg"]}
        for fault in error.errors()
    ]
    detail = "; ".join(f"{fault['where']}: {fault['why']}" for fault in faults[:5])
    if _is_vendors(request):
        where = str(error.errors()[0]["loc"][-1])
        return _in_dialect(request, BadRequest(detail, param=where))
    return problem(_UNPROCESSABLE, "invalid_request", detail, errors=faults)


async def _http_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    headers = dict(error.headers or {})
    if "Allow" in headers:
        headers["Allow"] = with_head(headers["Allow"])
    if error.status_code == _WRONG_VERB and _is_vendors(request):
        wrong = MethodNotAllowed("the list of models is read with GET")
        return _in_dialect(request, wrong, headers)
    detail = str(error.detail)
    if error.status_code == _NOT_FOUND:
        detail = f"there is nothing at {request.url.path[:200]}: /openapi.json lists what there is"
        if _is_vendors(request):
            return _in_dialect(request, NotFound(detail))
    code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
    return problem(error.status_code, code, detail, headers)


async def _fault(request: Request, error: Exception) -> JSONResponse:
    _log.error("request_failed", extra={"path": request.url.path}, exc_info=error)
    return problem(500, "internal_error", "the gateway failed; its log holds the cause")
