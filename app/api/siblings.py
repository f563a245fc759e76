"""Several workers of one server, asked as one: what any of them is asked, all of them answer.

Theory of operation. The kernel gives each connection to some worker, so a scrape, a trace or a verdict
reaches the wrong one as often as not. Each worker therefore also listens on a unix socket of its own, in
a folder that only this user may enter, and whoever is asked about more than itself asks the others there:
it adds up what can be added (metrics, savings, statistics), merges lists, passes on what another one knows
(a trace, the request that a verdict is about), and repeats what concerns all (an invalidation). What comes
in by a unix socket is answered for one worker alone, so nobody asks in circles. A sibling that does not
answer in time is left out; it never makes the asker fail. One worker has no siblings and none of this.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast
from urllib.parse import parse_qs

import msgspec
import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.cache_entries import cursor_of
from app.api.metrics_sum import add_up
from app.api.problems import refusal
from app.api.sibling_call import SILENT, ask_sibling
from app.api.sibling_streams import ask_in_turn
from app.errors import Overloaded

_WITHIN_S = 1.0
_FORGETS_WITHIN_S = 5.0
"""An invalidation is told to be in force on every worker, so the slow are waited for."""
_SILENT = 504
_NOT_FOUND = 404
_OK = 200
_MOST_BODY_BYTES = 64 << 10
_MOST_IMPORT_BYTES = 64 << 20
_IMPORT_WITHIN_S = 10.0
_MOST_TRACES = 1000
_HEADERS = frozenset({b"authorization", b"x-api-key", b"content-type", b"last-event-id"})

Json = dict[str, object]


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer of a worker."""

    status: int
    body: bytes
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)


Merge = Callable[[list[Reply], Scope], bytes]


class Siblings:
    """ASGI around the administrative routes of one of several workers."""

    def __init__(self, app: ASGIApp, folder: Path, *, shared: bool = False) -> None:
        """Find the other workers' sockets in ``folder``; ``shared``: Redis tells them of invalidations."""
        self._app, self._folder, self._shared = app, folder, shared
        self._own = folder / f"{os.getpid()}.sock"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer for all workers where that makes a difference, else for this one."""
        way = None if scope["type"] != "http" or _by_socket(scope) else _way(scope)
        if way is not None and _is_stream(scope):
            request = _request(scope, b"")
            await ask_in_turn(self._app, scope, receive, send, self._others(), request)
            return
        if way is _INVALIDATION and self._shared:
            way = (
                None  # every worker has heard of it and said so before the answer: no second round
            )
        if way is None:
            await self._app(scope, receive, send)
            return
        body = await _body(receive, _MOST_IMPORT_BYTES if way is _import else _MOST_BODY_BYTES)
        own = await _ask_self(self._app, scope, body)
        replies = await way(self, own, scope, body)
        headers = [header for header in replies.headers if header[0] != b"content-length"]
        headers.append((b"content-length", str(len(replies.body)).encode()))
        await send({"type": "http.response.start", "status": replies.status, "headers": headers})
        await send({"type": "http.response.body", "body": replies.body})

    async def of_all(self, own: Reply, scope: Scope, body: bytes, merge: Merge) -> Reply:
        """This worker's answer with the others' merged in; its own failure stays as it is."""
        if own.status != _OK:
            return own
        others = [reply for reply in await self._ask_all(scope, body) if reply.status == _OK]
        return Reply(own.status, merge([own, *others], scope), own.headers) if others else own

    async def of_whoever_knows(self, own: Reply, scope: Scope, body: bytes) -> Reply:
        """The answer of the first worker to which the thing is not unknown."""
        if own.status != _NOT_FOUND:
            return own
        others = await self._ask_all(scope, body)
        return next((reply for reply in others if reply.status != _NOT_FOUND), own)

    async def of_each(self, own: Reply, scope: Scope, body: bytes) -> Reply:
        """What every worker did, added up; 503 where one that is there did not say in time that it had."""
        if own.status != _OK:
            return own
        request, sockets = _request(scope, body), self._others()
        async with asyncio.TaskGroup() as at_once:
            asked = [at_once.create_task(_heard(path, request)) for path in sockets]
        replies = [reply for task in asked if (reply := task.result()) is not None]
        silent = sum(reply.status != _OK for reply in replies)
        if silent:
            message = (
                f"{silent} of {1 + len(sockets)} workers did not say that they forgot: ask again"
            )
            refused = refusal(Overloaded(message, code="workers_silent", retry_after_s=1))
            return Reply(refused.status_code, bytes(refused.body), refused.raw_headers)
        done = [own, *replies]
        return Reply(_OK, _sums(done, scope), own.headers)

    async def of_those_that_know(self, own: Reply, scope: Scope, body: bytes) -> Reply:
        """What this worker and the others did, added up; those to which the thing is unknown do not count."""
        everybody = [own, *await self._ask_all(scope, body)]
        done = [reply for reply in everybody if reply.status == _OK]
        return Reply(_OK, _sums(done, scope), done[0].headers) if done else own

    async def of_the_judge(self, own: Reply, scope: Scope, body: bytes) -> Reply:
        """The verdict as whoever knows the hit took it; a wrong one's copies leave every worker's memory."""
        reply = await self.of_whoever_knows(own, scope, body)
        told = _read(reply) if reply.status == _OK else {}
        if told.get("verdict") == "wrong" and not self._shared:
            path = f"/v1/cache/entries/{told['entry_id']}"
            remove = {
                **scope,
                "method": "DELETE",
                "path": path,
                "raw_path": b"",
                "query_string": b"",
            }
            await _ask_self(self._app, remove, b"")
            await self._ask_all(remove, b"")
        return reply

    def _others(self) -> list[Path]:
        return [path for path in self._folder.glob("*.sock") if path != self._own]

    async def _ask_all(self, scope: Scope, body: bytes) -> list[Reply]:
        return [reply for reply in await self.ask_all(scope, body) if reply is not None]

    async def ask_all(
        self, scope: Scope, body: bytes, *, within_s: float = _WITHIN_S
    ) -> list[Reply | None]:
        """Every other worker's answer to the same request with ``body``; None for one that gave none."""
        request, sockets = _request(scope, body), self._others()
        async with asyncio.TaskGroup() as at_once:
            asked = [at_once.create_task(_ask(path, request, within_s)) for path in sockets]
        return [each.result() for each in asked]


@asynccontextmanager
async def listening(app: ASGIApp, folder: Path) -> AsyncIterator[None]:
    """Answer the siblings on this worker's own socket while the context lasts."""
    path = folder / f"{os.getpid()}.sock"
    config = uvicorn.Config(
        app,
        uds=str(path),
        lifespan="off",
        log_config=None,
        log_level="critical",
        access_log=False,
        timeout_graceful_shutdown=1,
    )
    server = _Quiet(config)
    async with asyncio.TaskGroup() as beside:
        beside.create_task(server.serve(), name="siblings")
        try:
            yield
        finally:
            server.should_exit = True


class _Quiet(uvicorn.Server):
    """A second server of a process: the signals are the first one's."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave the process's signals alone."""
        yield


Way = Callable[[Siblings, Reply, Scope, bytes], Awaitable[Reply]]


def _merging(merge: Merge) -> Way:
    async def way(siblings: Siblings, own: Reply, scope: Scope, body: bytes) -> Reply:
        return await siblings.of_all(own, scope, body, merge)

    return way


def _metrics(replies: list[Reply], _: Scope) -> bytes:
    return add_up([reply.body for reply in replies])


def _traces(replies: list[Reply], scope: Scope) -> bytes:
    found = [trace for reply in replies for trace in _read(reply).get("traces", ())]  # type: ignore[attr-defined]
    found.sort(key=lambda trace: cast("float", trace["started_unix_s"]), reverse=True)
    asked = parse_qs(scope["query_string"].decode("latin-1")).get("limit", ["50"])[-1]
    return msgspec.json.encode({"traces": found[: min(int(asked), _MOST_TRACES)]})


def _sums(replies: list[Reply], _: Scope) -> bytes:
    return msgspec.json.encode(_sum([_read(reply) for reply in replies]))


def _sum(values: list[Json]) -> Json:
    """Add up what counts; the earliest of what began; lists one behind the other; else the first."""
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
    """Pages of several memories as one: the newest of all, an entry that several have once, its hits added.

    What is kept by meaning is one store: each worker has said the same.
    """
    asked = parse_qs(scope["query_string"].decode("latin-1"))
    if asked.get("kind") == ["semantic"]:
        return replies[0].body
    limit = int(asked.get("limit", ["50"])[-1])
    pages = [_read(reply) for reply in replies]
    found: dict[object, Json] = {}
    for entry in (entry for page in pages for entry in cast("list[Json]", page["entries"])):
        known = found.setdefault(entry["id"], entry)
        if known is not entry:
            hits = cast("int", known["hits"]) + cast("int", entry["hits"])
            newer = max((known, entry), key=_place)
            found[entry["id"]] = {**newer, "hits": hits}
    merged = sorted(found.values(), key=_place, reverse=True)
    more = len(merged) > limit or any(page["next"] for page in pages)
    merged = merged[:limit]
    return msgspec.json.encode(
        {"entries": merged, "next": cursor_of(merged[-1]) if more and merged else ""}
    )


def _speculation(replies: list[Reply], _: Scope) -> bytes:
    """Counts added up; shares and scores of the sums, since a mean of ratios is none."""
    told = _sum([_read(reply) for reply in replies])
    for tool in cast("dict[str, Json]", told["tools"]).values():
        counts = cast("dict[str, float]", tool)
        tool["hit_rate"] = _share(counts["hits"], counts["fired"])
        tool["hidden_share"] = _share(counts["saved_s"], counts["tool_s"])
        tool["brier"] = _share(counts["squared_error"], counts["predictions"])
    return msgspec.json.encode(told)


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _place(entry: Json) -> tuple[int, str]:
    return cast("int", entry["kept_unix_ms"]), cast("str", entry["id"])


_WHOEVER: Way = Siblings.of_whoever_knows
_INVALIDATION: Way = Siblings.of_each


async def _import(siblings: Siblings, own: Reply, scope: Scope, body: bytes) -> Reply:
    """What was taken in here, repeated for the others' own memories; says how many workers have it."""
    if own.status != _OK:
        return own
    said = msgspec.json.decode(body, type=dict[str, object]) | {"repeated": True}
    replies = await siblings.ask_all(scope, msgspec.json.encode(said), within_s=_IMPORT_WITHIN_S)
    having = 1 + sum(reply is not None and reply.status == _OK for reply in replies)
    told = _read(own) | {"workers": having, "workers_missed": 1 + len(replies) - having}
    return Reply(own.status, msgspec.json.encode(told), own.headers)


_EXACT: dict[tuple[str, str], Way] = {
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
    ("POST", "/v1/cache/feedback"): Siblings.of_the_judge,
    ("POST", "/v1/feedback"): _WHOEVER,
}
_BELOW: dict[tuple[str, str], Way] = {
    ("GET", "/v1/traces/"): _WHOEVER,
    ("GET", "/v1/cache/entries/"): _WHOEVER,
    ("GET", "/v1/runs/"): _WHOEVER,
    ("POST", "/v1/runs/"): _WHOEVER,
    ("DELETE", "/v1/cache/entries/"): Siblings.of_those_that_know,
}


def _way(scope: Scope) -> Way | None:
    method, path = scope["method"], scope["path"]
    found = _EXACT.get((method, path))
    if found is None:
        below = (way for (m, p), way in _BELOW.items() if method == m and path.startswith(p))
        found = next(below, None)
    return found


def _is_stream(scope: Scope) -> bool:
    """Whether the answer never ends by itself, so that it is passed on and not collected."""
    path: str = scope["path"]
    return path.startswith("/v1/runs/") and path.endswith("/events")


def _by_socket(scope: Scope) -> bool:
    server = scope.get("server")
    return server is None or server[1] is None


async def _body(receive: Receive, most_bytes: int) -> bytes:
    pieces: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        pieces.append(message.get("body", b""))
        size += len(pieces[-1])
        # More than any of these requests holds: the route itself refuses what is cut.
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
    lines += [b"%s: %s" % header for header in scope["headers"] if header[0] in _HEADERS]
    return b"\r\n".join([*lines, b"", body])


async def _heard(path: Path, request: bytes) -> Reply | None:
    """As ``_ask``, with more patience: None only where no worker is; 504 where one is silent."""
    try:
        return await _asked(path, request, _FORGETS_WITHIN_S)
    except (FileNotFoundError, ConnectionRefusedError):
        return None
    except SILENT:
        return Reply(_SILENT, b"")


async def _ask(path: Path, request: bytes, within_s: float) -> Reply | None:
    """The sibling's whole answer, or None: it was killed, is too slow, or speaks otherwise."""
    with suppress(*SILENT):
        return await _asked(path, request, within_s)
    return None


async def _asked(path: Path, request: bytes, within_s: float) -> Reply:
    """The sibling's whole answer; raises one of ``SILENT``."""
    async with asyncio.timeout(within_s):
        answer = await ask_sibling(path, request)
        try:
            body = b"".join([piece async for piece in answer.pieces()])
        finally:
            answer.close()
    told = [header for header in answer.headers if header[0] == b"content-type"]
    return Reply(answer.status, body, told)


def _read(reply: Reply) -> Json:
    return msgspec.json.decode(reply.body, type=dict[str, object])
