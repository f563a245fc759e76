"""A tool that is an HTTP call: a URL, headers and body with places for the arguments, a pointer for
the result.

What comes back is taken for hostile: it is read under a limit, it must be data (HTML is an error
page, whatever its status), a redirect may not leave the origin, and cookies are not kept, for they
would travel from user to user. The calls go over the gateway's own pool (decision 0015).
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import unquote, urljoin, urlsplit

import msgspec

from app.domain.chat import Json
from app.domain.tools import fill_template, idempotency_key, template_fields
from app.errors import ToolError
from app.tools.connections import Connections, ToolRequest, ToolResponse
from app.tools.egress import argument_text, origin_of, url_segment
from app.tools.json_pointer import resolve_pointer
from app.tools.response_text import in_utf8, redact, secrets_of

_LEAST_READ_BYTES = 1 << 20
_READ_PER_RESULT = 16
"""A pointer may pick a small part of a large document: this many times the result's limit is read."""
_MAX_REDIRECTS = 3
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_ERROR_FROM = 400
_SERVER_ERROR_FROM = 500
_COME_BACK = frozenset({408, 425, 429})
_ERROR_TEXT_CHARS = 300
_HTML = frozenset({"text/html", "application/xhtml+xml"})
_HTML_BEGINS = (b"<!doctype html", b"<html")
_PLAIN_TARGET = re.compile(r"/(?:[A-Za-z0-9\-._~!$&()*+,;=:@/?]++|%[0-9A-Fa-f]{2})*+")
"""A path and query that need no second look."""
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_OF_THE_CONNECTION = frozenset(
    {
        "connection", "content-length", "expect", "keep-alive", "proxy-connection", "te", "trailer",
        "transfer-encoding", "upgrade",
    }
)  # fmt: skip
_USUAL_HEADERS = {
    "user-agent": "slipstream",
    "accept": "application/json, text/plain;q=0.9, */*;q=0.1",
    "accept-encoding": "gzip",
}


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
    repeatable: bool = False
    """The pool may send it again on a new connection where an old one turns out to be closed."""


def read_limit_bytes(max_result_bytes: int) -> int:
    """How much of an answer is read before the call counts as too large."""
    return max(_LEAST_READ_BYTES, max_result_bytes * _READ_PER_RESULT)


class HttpTool:
    """One HTTP tool; see ``app.ports.Tool`` for its promises."""

    def __init__(self, call: HttpCall, connections: Connections) -> None:
        """Make calls as ``call`` says over ``connections``; raises ``ToolError`` where its URL may not
        be called or a header may not be sent.
        """
        self._call = call
        self._origin = origin_of(call.url)
        self._target = _target_template(call.url)
        self._headers = _all_headers(call)
        host = self._headers.pop("host", "")
        self._secrets = secrets_of(self._headers, call.url)
        self._peer = connections.client_for(self._origin, authority=host, replays=call.repeatable)

    async def call(self, arguments: Json) -> object:
        """Make the call once."""
        asking = self._request(arguments)
        for _ in range(_MAX_REDIRECTS + 1):
            answer = await self._peer.send(asking)
            try:
                location = answer.header(b"location") if answer.status in _REDIRECTS else None
                if location is None:
                    return await self._read(answer)
                asking = self._redirected(asking, location)
            finally:
                answer.close()
        raise ToolError(f"{self._origin.host} redirects without end", code="tool_redirect")

    def _request(self, arguments: Json) -> ToolRequest:
        call = self._call
        target = checked_target(_target(self._target, arguments))
        headers = {
            name: fill_template(value, lambda place: _header(arguments.get(place), place))
            if "{" in value or "}" in value
            else value
            for name, value in self._headers.items()
        }
        content = b""
        if call.method in {"POST", "PUT", "PATCH"} or call.body is not None:
            body = arguments if call.body is None else _body(call.body, arguments)
            content = msgspec.json.encode(body)
            headers.setdefault("content-type", "application/json")
        if key := idempotency_key.get():
            headers["idempotency-key"] = key
        try:
            raw = tuple([(name.encode(), value.encode("ascii")) for name, value in headers.items()])
        except UnicodeError as exc:
            message = "a header of the call holds more than ASCII"
            raise ToolError(message, code="tool_arguments") from exc
        return ToolRequest(call.method.encode(), target, raw, content)

    def _redirected(self, asked: ToolRequest, location: bytes) -> ToolRequest:
        """The next request of a redirect, if it may be made: a read, on the same origin."""
        target, there = None, f"{self._origin}{asked.target.decode()}"
        with suppress(ToolError, ValueError):
            there = urljoin(there, location.decode("utf-8"))
            target = origin_of(there)
        if target != self._origin or self._call.method not in {"GET", "HEAD"}:
            host = "?" if target is None else target.host
            message = f"{self._origin.host} redirects to {host}, which is not followed"
            raise ToolError(message, code="tool_redirect")
        path = checked_target(_target_template(there))
        return ToolRequest(asked.method, path, asked.headers, asked.body)

    async def _read(self, answer: ToolResponse) -> object:
        declared = answer.header(b"content-type") or b""
        kind = declared.partition(b";")[0].strip().lower().decode("latin-1")
        raw = await answer.body(self._call.max_read_bytes)
        body = redact(self._secrets, in_utf8(raw, declared))
        status = answer.status
        is_html = kind in _HTML or body[:64].lstrip().lower().startswith(_HTML_BEGINS)
        if status >= _ERROR_FROM:
            said = "" if is_html else body.decode("utf-8", "replace").strip()[:_ERROR_TEXT_CHARS]
            detail = f": {said}" if said else ""
            transient = status >= _SERVER_ERROR_FROM or status in _COME_BACK
            code = "tool_server_error" if transient else "tool_status"
            raise ToolError(f"answered HTTP {status}{detail}", code=code)
        if is_html:
            raise ToolError("answered an HTML page where data was expected", code="tool_not_data")
        if not body and self._call.result is None:
            return None
        if self._call.result is None and not kind.endswith("json"):
            return _text_or_json(body)
        try:
            value: object = msgspec.json.decode(body) if body else None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            raise ToolError("answered with invalid JSON", code="tool_not_json") from exc
        return value if self._call.result is None else resolve_pointer(value, self._call.result)


def _target_template(url: str) -> str:
    """What stands behind the host: path and query, without a fragment."""
    rest = url.partition("://")[2].partition("#")[0]
    at = min((found for sign in "/?" if (found := rest.find(sign)) >= 0), default=len(rest))
    target = rest[at:]
    return target if target.startswith("/") else "/" + target


def checked_target(target: str) -> bytes:
    """A path and query as it is sent; percent-encoded where it must be, steps upwards taken."""
    if _PLAIN_TARGET.fullmatch(target) and "/." not in target:
        return target.encode()
    import httpx  # a quarter second that few configurations need

    try:
        return httpx.URL("http://h" + target).raw_path
    except (httpx.InvalidURL, UnicodeError) as exc:
        message = "the arguments do not make a URL that can be called"
        raise ToolError(message, code="tool_arguments") from exc


def _all_headers(call: HttpCall) -> dict[str, str]:
    """The call's headers, names in lower case, with those that every call has; raises ``ToolError``
    for what cannot be sent.
    """
    given = {name.lower(): value for name, value in call.headers.items()}
    for name in given:
        if not _HEADER_NAME.fullmatch(name):
            raise ToolError(f"{name!r} is not a header's name", code="tool_egress")
        if name in _OF_THE_CONNECTION:
            message = f"the header {name!r} belongs to the connection and is set by it"
            raise ToolError(message, code="tool_egress")
    if template_fields(given.get("host", "")):
        message = "a tool's host header may hold no {places}"
        raise ToolError(message, code="tool_egress")
    user = urlsplit(call.url.partition("{")[0]).netloc.rpartition("@")[0]
    if user:
        name, _, word = user.partition(":")
        pair = f"{unquote(name)}:{unquote(word)}".encode()
        given["authorization"] = "Basic " + base64.b64encode(pair).decode()
    return _USUAL_HEADERS | given


def _target(template: str, arguments: Json) -> str:
    """The path and query of a call; a pair of the query whose argument is absent is left out."""
    path, question, query = template.partition("?")
    missing = [place for place in template_fields(path) if arguments.get(place) in (None, "")]
    if missing:
        message = f"argument {missing[0]!r} stands in the URL's path and is missing or empty"
        raise ToolError(message, code="tool_arguments")
    url = fill_template(path, lambda place: url_segment(arguments[place], place))
    pairs = [
        fill_template(pair, lambda place: url_segment(arguments[place], place))
        for pair in query.split("&")
        if question and all(arguments.get(place) is not None for place in template_fields(pair))
    ]
    return f"{url}?{'&'.join(pairs)}" if pairs else url


def _header(value: object, place: str) -> str:
    text = argument_text(value)
    if not text.isprintable() or not text.isascii():
        message = f"argument {place!r} goes into a header and may only hold printable ASCII"
        raise ToolError(message, code="tool_arguments")
    return text


def _body(template: object, arguments: Json) -> object:
    """The JSON body: a string that is one place takes the argument with its type; absent ones are
    left out.
    """
    if isinstance(template, str):
        names = template_fields(template)
        if len(names) == 1 and template == "{" + names[0] + "}":
            return arguments.get(names[0])
        return fill_template(template, lambda place: argument_text(arguments.get(place)))
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
    names = template_fields(template)
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
