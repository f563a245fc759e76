"""A tool that is an HTTP call: a URL, headers and body with places for the arguments, a pointer for
the result.

What comes back is taken for hostile: it is read under a limit, it must be data (HTML is an error
page, whatever its status), a redirect may not leave the origin, and cookies are not kept, for they
would travel from user to user.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpcore
import httpx
import msgspec

from app.domain.chat import Json
from app.domain.tools import fill, idempotency_key, places
from app.errors import ToolError
from app.tools.addresses import Addresses, CheckedBackend
from app.tools.egress import Origin, encoded, origin_of, plain
from app.tools.pointer import pointed

_LEAST_READ_BYTES = 1 << 20
_READ_PER_RESULT = 16
"""A pointer may pick a small part of a large document: this many times the result's limit is read."""
_MAX_REDIRECTS = 3
_ERROR_FROM = 400
_SERVER_ERROR_FROM = 500
_COME_BACK = frozenset({408, 425, 429})
_ERROR_TEXT_CHARS = 300
_HTML = frozenset({"text/html", "application/xhtml+xml"})
_HTML_BEGINS = (b"<!doctype html", b"<html")
_CONNECTIONS = 256


@dataclass(frozen=True, slots=True)
class HttpCall:
    """How the call is made; templates as the operator wrote them."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: object = None
    """JSON template; None: all arguments for the methods that have a body."""
    result: str | None = None
    """RFC 6901 pointer of the result."""
    max_read_bytes: int = _LEAST_READ_BYTES


def read_limit_bytes(max_result_bytes: int) -> int:
    """How much of an answer is read before the call counts as too large."""
    return max(_LEAST_READ_BYTES, max_result_bytes * _READ_PER_RESULT)


def tool_client(addresses: Addresses) -> httpx.AsyncClient:
    """The client that all HTTP tools share: no cookies, no redirects, no proxy or netrc from the
    environment, no connection to an address that ``addresses`` does not permit.
    """
    limits = httpx.Limits(max_connections=_CONNECTIONS, max_keepalive_connections=_CONNECTIONS)
    transport = httpx.AsyncHTTPTransport(limits=limits, trust_env=False)
    CheckedBackend(httpcore.AnyIOBackend(), addresses).put_into(transport._pool)  # noqa: SLF001 - see there
    return httpx.AsyncClient(
        transport=transport,
        timeout=None,  # noqa: S113 - every try runs under the tool's own time limit
        follow_redirects=False,
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
        trust_env=False,
        headers={"user-agent": "slipstream"},
    )


class HttpTool:
    """One HTTP tool; see ``app.ports.Tool`` for its promises."""

    def __init__(self, call: HttpCall, client: httpx.AsyncClient) -> None:
        """Make calls as ``call`` says over ``client``; raises ``ToolError`` where its URL may not
        be called.
        """
        self._call = call
        self._client = client
        self._origin = origin_of(call.url)

    async def call(self, arguments: Json) -> object:
        """Make the call once."""
        request = self._request(arguments)
        for _ in range(_MAX_REDIRECTS + 1):
            try:
                response = await self._client.send(request, stream=True)
            except httpx.TransportError as exc:
                raise _transport_error(exc, self._origin) from exc
            try:
                if not response.has_redirect_location:
                    return await self._read(response)
                request = self._redirected(response)
            except httpx.TransportError as exc:
                raise _transport_error(exc, self._origin) from exc
            finally:
                await response.aclose()
        raise ToolError(f"{self._origin.host} redirects without end", code="tool_redirect")

    def _request(self, arguments: Json) -> httpx.Request:
        call = self._call
        url = _url(call.url, arguments)
        headers = {
            name: fill(value, lambda place: _header(arguments.get(place), place))
            for name, value in call.headers.items()
        }
        content: bytes | None = None
        if call.method in {"POST", "PUT", "PATCH"} or call.body is not None:
            body = arguments if call.body is None else _body(call.body, arguments)
            content = msgspec.json.encode(body)
            headers.setdefault("content-type", "application/json")
        if key := idempotency_key.get():
            headers["idempotency-key"] = key
        headers.setdefault("accept", "application/json, text/plain;q=0.9, */*;q=0.1")
        try:
            return self._client.build_request(call.method, url, headers=headers, content=content)
        except (httpx.InvalidURL, UnicodeError) as exc:
            message = "the arguments do not make a URL that can be called"
            raise ToolError(message, code="tool_arguments") from exc

    def _redirected(self, response: httpx.Response) -> httpx.Request:
        """The next request of a redirect, if it may be made: a read, on the same origin."""
        following = response.next_request
        target = None if following is None else origin_of(str(following.url))
        if following is None or target != self._origin or self._call.method not in {"GET", "HEAD"}:
            host = "?" if target is None else target.host
            message = f"{self._origin.host} redirects to {host}, which is not followed"
            raise ToolError(message, code="tool_redirect")
        return following

    async def _read(self, response: httpx.Response) -> object:
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        body = await self._body_of(response)
        status = response.status_code
        is_html = kind in _HTML or body[:64].lstrip().lower().startswith(_HTML_BEGINS)
        if status >= _ERROR_FROM:
            said = "" if is_html else body.decode("utf-8", "replace").strip()[:_ERROR_TEXT_CHARS]
            detail = f": {said}" if said else ""
            transient = status >= _SERVER_ERROR_FROM or status in _COME_BACK
            code = "tool_server_error" if transient else "tool_status"
            raise ToolError(f"answered HTTP {status}{detail}", code=code)
        if is_html:
            raise ToolError("answered an HTML page where data was expected", code="tool_not_data")
        if self._call.result is None and not kind.endswith("json"):
            return _text_or_json(body)
        try:
            value: object = msgspec.json.decode(body) if body else None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            raise ToolError("answered with invalid JSON", code="tool_not_json") from exc
        return value if self._call.result is None else pointed(value, self._call.result)

    async def _body_of(self, response: httpx.Response) -> bytes:
        """Read up to the limit, compressed answers counted as what they unfold to."""
        most = self._call.max_read_bytes
        pieces: list[bytes] = []
        size = 0
        try:
            async for piece in response.aiter_bytes(65536):
                size += len(piece)
                if size > most:
                    message = f"answered more than {most} bytes; the rest was not read"
                    raise ToolError(message, code="tool_too_large")
                pieces.append(piece)
        except httpx.DecodingError as exc:
            raise ToolError("answered with a broken compression", code="tool_not_data") from exc
        return b"".join(pieces)


def _url(template: str, arguments: Json) -> str:
    """The URL of a call; a pair of the query whose argument is absent is left out."""
    path, question, query = template.partition("?")
    missing = [place for place in places(path) if arguments.get(place) is None]
    if missing:
        message = f"argument {missing[0]!r} stands in the URL's path and is missing"
        raise ToolError(message, code="tool_arguments")
    url = fill(path, lambda place: encoded(arguments[place], place))
    pairs = [
        fill(pair, lambda place: encoded(arguments[place], place))
        for pair in query.split("&")
        if question and all(arguments.get(place) is not None for place in places(pair))
    ]
    return f"{url}?{'&'.join(pairs)}" if pairs else url


def _header(value: object, place: str) -> str:
    text = plain(value)
    if not text.isprintable() or not text.isascii():
        message = f"argument {place!r} goes into a header and may only hold printable ASCII"
        raise ToolError(message, code="tool_arguments")
    return text


def _body(template: object, arguments: Json) -> object:
    """The JSON body: a string that is one place takes the argument with its type; absent ones are
    left out.
    """
    if isinstance(template, str):
        names = places(template)
        if len(names) == 1 and template == "{" + names[0] + "}":
            return arguments.get(names[0])
        return fill(template, lambda place: plain(arguments.get(place)))
    if isinstance(template, Mapping):
        return {
            key: _body(value, arguments)
            for key, value in template.items()
            if not _is_absent(value, arguments)
        }
    if isinstance(template, list | tuple):
        return [_body(value, arguments) for value in template if not _is_absent(value, arguments)]
    return template


def _is_absent(template: object, arguments: Json) -> bool:
    if not isinstance(template, str):
        return False
    names = places(template)
    return len(names) == 1 and template == "{" + names[0] + "}" and names[0] not in arguments


def _text_or_json(body: bytes) -> object:
    """An answer of no declared kind: the JSON value that it is, or the text."""
    if body[:1] in {b"{", b"["}:
        try:
            value: object = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass
        else:
            return value
    return body.decode("utf-8", "replace")


def _transport_error(exc: httpx.TransportError, origin: Origin) -> ToolError:
    if isinstance(exc, httpx.ConnectError):
        return ToolError(f"{origin.host} could not be reached", code="tool_refused")
    return ToolError(f"the connection to {origin.host} broke off", code="tool_closed")
