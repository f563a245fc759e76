"""Administrative requests to one of several workers, answered for all of them.

Theory of operation. The kernel gives each connection to some worker, so a scrape, a trace or a verdict often
reaches one that does not have the data. Each worker therefore also listens on a unix socket of its own, in a
folder that only this user may enter, and the worker that received a request sends it to its siblings there:
it sums counters (metrics, savings, statistics), merges lists, relays the response of the worker that owns a
thing (a trace, the request that a verdict is about), and repeats commands that concern all (an invalidation).
A request from a unix socket is answered by that worker alone, so there are no loops. A sibling that does not
answer in time is left out and never makes the request fail. A single worker has no siblings and none of this.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import cast
from urllib.parse import parse_qs

import msgspec
import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.cache_entries import cursor_of
from app.api.merged_metrics import merge_pages
from app.api.problems import refusal
from app.api.sibling_call import (
    SIBLING_ERRORS,
    Reply,
    own_socket,
    reply_or_timeout,
    sibling_sockets,
    whole_reply,
)
from app.api.sibling_streams import stream_from_owner
from app.errors import Overloaded

_TIMEOUT_S = 1.0
_INVALIDATION_TIMEOUT_S = 5.0
"""A successful invalidation must be in force on every worker, so slow ones are waited for."""
_NOT_FOUND = 404
_OK = 200
_MAX_BODY_BYTES = 64 << 10
_MAX_IMPORT_BYTES = 64 << 20
_IMPORT_TIMEOUT_S = 10.0
_MAX_TRACES = 1000
_FORWARDED_HEADERS = frozenset({b"authorization", b"x-api-key", b"content-type", b"last-event-id"})

Json = dict[str, object]


Merge = Callable[[list[Reply], Scope], bytes]


class Siblings:
    """ASGI middleware around the administrative routes of one of several workers."""

    def __init__(self, app: ASGIApp, folder: Path, *, shared: bool = False) -> None:
        """``folder`` holds the workers' sockets; ``shared``: invalidations reach them through Redis."""
        self._app, self._folder, self._shared = app, folder, shared

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer for all workers if the route has a strategy for that, else for this one."""
        way = None if scope["type"] != "http" or _is_from_sibling(scope) else _strategy_for(scope)
        if way is not None and _is_stream(scope):
            request = _request(scope, b"")
            await stream_from_owner(
                self._app, scope, receive, send, sibling_sockets(self._folder), request
            )
            return
        if way is _INVALIDATION and self._shared:
            way = None  # every worker acknowledges it through Redis before the response
        if way is None:
            await self._app(scope, receive, send)
            return
        body = await _body(receive, _MAX_IMPORT_BYTES if way is _import else _MAX_BODY_BYTES)
        own = await _ask_self(self._app, scope, body)
        replies = await way(self, own, scope, body)
        headers = [header for header in replies.headers if header[0] != b"content-length"]
        headers.append((b"content-length", str(len(replies.body)).encode()))
        await send({"type": "http.response.start", "status": replies.status, "headers": headers})
        await send({"type": "http.response.body", "body": replies.body})

    async def merged(self, own: Reply, scope: Scope, body: bytes, merge: Merge) -> Reply:
        """This worker's response merged with the others'; its own failure is returned as it is."""
        if own.status != _OK:
            return own
        others = [reply for reply in await self._replies(scope, body) if reply.status == _OK]
        return Reply(own.status, merge([own, *others], scope), own.headers) if others else own

    async def from_owner(self, own: Reply, scope: Scope, body: bytes) -> Reply:
        """The response of the first worker that does not answer 404."""
        if own.status != _NOT_FOUND:
            return own
        others = await self._replies(scope, body)
        return next((reply for reply in others if reply.status != _NOT_FOUND), own)

    async def applied_by_all(self, own: Reply, scope: Scope, body: bytes) -> Reply:
        """Sum what every worker did; 503 if one that runs did not confirm in time."""
        if own.status != _OK:
            return own
        request, sockets = _request(scope, body), sibling_sockets(self._folder)
        async with asyncio.TaskGroup() as at_once:
            asked = [
                at_once.create_task(reply_or_timeout(path, request, _INVALIDATION_TIMEOUT_S))
                for path in sockets
            ]
        replies = [reply for task in asked if (reply := task.result()) is not None]
        silent = sum(reply.status != _OK for reply in replies)
        if silent:
            message = (
                f"{silent} of {1 + len(sockets)} workers did not confirm the invalidation: retry"
            )
            refused = refusal(Overloaded(message, code="workers_silent", retry_after_s=1))
            return Reply(refused.status_code, bytes(refused.body), refused.raw_headers)
        done = [own, *replies]
        return Reply(_OK, _sums(done, scope), own.headers)

    async def summed_where_found(self, own: Reply, scope: Scope, body: bytes) -> Reply:
        """Sum what this worker and the others did, without those that answer 404."""
        everybody = [own, *await self._replies(scope, body)]
        done = [reply for reply in everybody if reply.status == _OK]
        return Reply(_OK, _sums(done, scope), done[0].headers) if done else own

    async def feedback(self, own: Reply, scope: Scope, body: bytes) -> Reply:
        """Give the verdict to the worker that knows the hit; delete a wrong entry from every worker's
        memory.
        """
        reply = await self.from_owner(own, scope, body)
        verdict = _json_of(reply) if reply.status == _OK else {}
        if verdict.get("verdict") == "wrong" and not self._shared:
            path = f"/v1/cache/entries/{verdict['entry_id']}"
            remove = {
                **scope,
                "method": "DELETE",
                "path": path,
                "raw_path": b"",
                "query_string": b"",
            }
            await _ask_self(self._app, remove, b"")
            await self._replies(remove, b"")
        return reply

    async def _replies(self, scope: Scope, body: bytes) -> list[Reply]:
        return [reply for reply in await self.ask_siblings(scope, body) if reply is not None]

    async def ask_siblings(
        self, scope: Scope, body: bytes, *, within_s: float = _TIMEOUT_S
    ) -> list[Reply | None]:
        """Every other worker's response to the same request with ``body``; None for one that gave none."""
        request, sockets = _request(scope, body), sibling_sockets(self._folder)
        async with asyncio.TaskGroup() as at_once:
            asked = [at_once.create_task(_ask(path, request, within_s)) for path in sockets]
        return [each.result() for each in asked]


@asynccontextmanager
async def serve_siblings(app: ASGIApp, folder: Path) -> AsyncIterator[None]:
    """Serve the siblings on this worker's own socket while the context lasts."""
    path = own_socket(folder)
    config = uvicorn.Config(
        app,
        uds=str(path),
        lifespan="off",
        log_config=None,
        log_level="critical",
        access_log=False,
        timeout_graceful_shutdown=1,
    )
    server = _ServerWithoutSignals(config)
    async with asyncio.TaskGroup() as beside:
        beside.create_task(server.serve(), name="siblings")
        try:
            yield
        finally:
            server.should_exit = True


class _ServerWithoutSignals(uvicorn.Server):
    """A second server in the process, which leaves signals to the first."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Install no signal handlers."""
        yield


Strategy = Callable[[Siblings, Reply, Scope, bytes], Awaitable[Reply]]


def _merging(merge: Merge) -> Strategy:
    async def way(siblings: Siblings, own: Reply, scope: Scope, body: bytes) -> Reply:
        return await siblings.merged(own, scope, body, merge)

    return way


def _metrics(replies: list[Reply], _: Scope) -> bytes:
    return merge_pages([reply.body for reply in replies])


def _traces(replies: list[Reply], scope: Scope) -> bytes:
    found = [trace for reply in replies for trace in _json_of(reply).get("traces", ())]  # type: ignore[attr-defined]
    found.sort(key=lambda trace: cast("float", trace["started_unix_s"]), reverse=True)
    asked = parse_qs(scope["query_string"].decode("latin-1")).get("limit", ["50"])[-1]
    return msgspec.json.encode({"traces": found[: min(int(asked), _MAX_TRACES)]})


def _sums(replies: list[Reply], _: Scope) -> bytes:
    return msgspec.json.encode(_sum([_json_of(reply) for reply in replies]))


def _sum(values: list[Json]) -> Json:
    """Sum numbers, concatenate lists, take the earliest start time, and else the first value."""
    total: Json = {}
    for key in dict.fromkeys(key for value in values for key in value):
        parts = [value[key] for value in values if value.get(key) is not None]
        if not parts:
            total[key] = None
        elif all(isinstance(part, dict) for part in parts):
            total[key] = _sum(cast("list[Json]", parts))
        elif key == "since_unix_s":
            total[key] = min(cast("list[float]", parts))
        elif key == "window_s" or not all(_is_number(part) for part in parts):
            lists = [part for part in parts if isinstance(part, list)]
            total[key] = [item for part in lists for item in part] if lists else parts[0]
        else:
            total[key] = sum(cast("list[float]", parts))
    return total


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _entries(replies: list[Reply], scope: Scope) -> bytes:
    """One page from several workers' memories: newest first, duplicates merged and their hits added.

    Semantic entries are in one shared store, so every worker returns the same page of them.
    """
    asked = parse_qs(scope["query_string"].decode("latin-1"))
    if asked.get("kind") == ["semantic"]:
        return replies[0].body
    limit = int(asked.get("limit", ["50"])[-1])
    pages = [_json_of(reply) for reply in replies]
    found: dict[object, Json] = {}
    for entry in (entry for page in pages for entry in cast("list[Json]", page["entries"])):
        known = found.setdefault(entry["id"], entry)
        if known is not entry:
            hits = cast("int", known["hits"]) + cast("int", entry["hits"])
            newer = max((known, entry), key=_entry_order)
            found[entry["id"]] = {**newer, "hits": hits}
    merged = sorted(found.values(), key=_entry_order, reverse=True)
    more = len(merged) > limit or any(page["next"] for page in pages)
    merged = merged[:limit]
    return msgspec.json.encode(
        {"entries": merged, "next": cursor_of(merged[-1]) if more and merged else ""}
    )


def _speculation(replies: list[Reply], _: Scope) -> bytes:
    """Sum the counts and compute ratios from the sums."""
    total = _sum([_json_of(reply) for reply in replies])
    for tool in cast("dict[str, Json]", total["tools"]).values():
        counts = cast("dict[str, float]", tool)
        tool["hit_rate"] = _share(counts["hits"], counts["fired"])
        tool["hidden_share"] = _share(counts["saved_s"], counts["tool_s"])
        tool["brier"] = _share(counts["squared_error"], counts["predictions"])
    return msgspec.json.encode(total)


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _entry_order(entry: Json) -> tuple[int, str]:
    return cast("int", entry["kept_unix_ms"]), cast("str", entry["id"])


_FROM_OWNER: Strategy = Siblings.from_owner
_INVALIDATION: Strategy = Siblings.applied_by_all


async def _import(siblings: Siblings, own: Reply, scope: Scope, body: bytes) -> Reply:
    """Repeat an import for the other workers' memories; report how many workers have it."""
    if own.status != _OK:
        return own
    said = msgspec.json.decode(body, type=dict[str, object]) | {"repeated": True}
    replies = await siblings.ask_siblings(
        scope, msgspec.json.encode(said), within_s=_IMPORT_TIMEOUT_S
    )
    having = 1 + sum(reply is not None and reply.status == _OK for reply in replies)
    report = _json_of(own) | {"workers": having, "workers_missed": 1 + len(replies) - having}
    return Reply(own.status, msgspec.json.encode(report), own.headers)


_BY_PATH: dict[tuple[str, str], Strategy] = {
    ("GET", "/metrics"): _merging(_metrics),
    ("GET", "/v1/traces"): _merging(_traces),
    ("GET", "/v1/savings"): _merging(_sums),
    ("GET", "/v1/prompts/stats"): _merging(_sums),
    ("GET", "/v1/cache/stats"): _merging(_sums),
    ("GET", "/v1/cache/entries"): _merging(_entries),
    ("GET", "/v1/upstreams"): _merging(_sums),
    ("GET", "/v1/speculation"): _merging(_speculation),
    ("POST", "/v1/speculation"): _merging(_speculation),
    ("POST", "/v1/cache/invalidate"): _INVALIDATION,
    ("POST", "/v1/cache/import"): _import,
    ("POST", "/v1/cache/feedback"): Siblings.feedback,
    ("POST", "/v1/feedback"): _FROM_OWNER,
}
_BY_PREFIX: dict[tuple[str, str], Strategy] = {
    ("GET", "/v1/traces/"): _FROM_OWNER,
    ("GET", "/v1/cache/entries/"): _FROM_OWNER,
    ("GET", "/v1/runs/"): _FROM_OWNER,
    ("POST", "/v1/runs/"): _FROM_OWNER,
    ("DELETE", "/v1/cache/entries/"): Siblings.summed_where_found,
}


def _strategy_for(scope: Scope) -> Strategy | None:
    method, path = scope["method"], scope["path"]
    found = _BY_PATH.get((method, path))
    if found is None:
        below = (way for (m, p), way in _BY_PREFIX.items() if method == m and path.startswith(p))
        found = next(below, None)
    return found


def _is_stream(scope: Scope) -> bool:
    """Whether the response is an event stream, which is relayed rather than collected."""
    path: str = scope["path"]
    return path.startswith("/v1/runs/") and path.endswith("/events")


def _is_from_sibling(scope: Scope) -> bool:
    server = scope.get("server")
    return server is None or server[1] is None


async def _body(receive: Receive, most_bytes: int) -> bytes:
    pieces: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        pieces.append(message.get("body", b""))
        size += len(pieces[-1])
        # Larger than any valid request of these routes, which then refuse the truncated body.
        if (
            message["type"] == "http.disconnect"
            or not message.get("more_body")
            or size > most_bytes
        ):
            return b"".join(pieces)


async def _ask_self(app: ASGIApp, scope: Scope, body: bytes) -> Reply:
    status, headers, pieces = 500, list[tuple[bytes, bytes]](), list[bytes]()

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        nonlocal status, headers
        if message["type"] == "http.response.start":
            status, headers = message["status"], list(message.get("headers", ()))
        else:
            pieces.append(message.get("body", b""))

    await app(scope, receive, send)
    return Reply(status, b"".join(pieces), headers)


def _request(scope: Scope, body: bytes) -> bytes:
    target = scope.get("raw_path") or scope["path"].encode()
    query = scope["query_string"]
    lines = [
        b"%s %s HTTP/1.1" % (scope["method"].encode(), target + (b"?" + query if query else b""))
    ]
    lines += [b"host: sibling", b"connection: close", b"content-length: %d" % len(body)]
    lines += [b"%s: %s" % header for header in scope["headers"] if header[0] in _FORWARDED_HEADERS]
    return b"\r\n".join([*lines, b"", body])


async def _ask(path: Path, request: bytes, within_s: float) -> Reply | None:
    """The sibling's complete response, or None if it is gone, too slow or invalid."""
    with suppress(*SIBLING_ERRORS):
        return await whole_reply(path, request, within_s)
    return None


def _json_of(reply: Reply) -> Json:
    return msgspec.json.decode(reply.body, type=dict[str, object])
