"""What several workers say together is what those of them say that answer whole."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from app.api.siblings import Siblings
from tests.support.siblings import siblings_saying

pytestmark = pytest.mark.anyio
WHOLE = (
    b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 11\r\n\r\n{"turns": 2}'
)
CHUNKED = (
    b'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n6\r\n{"turn\r\n6\r\ns": 2}\r\n0\r\n\r\n'
)


async def own(_, __, send) -> None:
    head = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": b'{"turns": 1}'})


async def savings(folder: Path, *answers: bytes) -> tuple[int, dict[str, object]]:
    """What a worker says of its savings, where each of the others gives an answer and hangs up."""
    told = {"body": b""}

    async def send(message) -> None:
        told.update(message, body=told["body"] + message.get("body", b""))

    async def receive():
        return {"type": "http.request", "body": b""}

    scope = {
        "type": "http", "method": "GET", "path": "/v1/savings", "raw_path": b"/v1/savings",
        "query_string": b"", "headers": [], "server": ("127.0.0.1", 1),
    }  # fmt: skip
    async with siblings_saying(folder, *answers), asyncio.timeout(5):
        await Siblings(own, folder)(scope, receive, send)
    return told["status"], json.loads(told["body"])


@pytest.mark.parametrize("answer", [WHOLE.replace(b": 11", b": 12"), CHUNKED])
async def test_a_worker_s_figures_are_added_however_it_frames_them(tmp_path, answer) -> None:
    assert await savings(tmp_path, answer) == (200, {"turns": 3})


@pytest.mark.parametrize(
    "torn",
    [WHOLE.replace(b": 11", b": 99"), CHUNKED[:-12], b"HTTP/1.1 200 OK\r\n", b"", b"\r\n\r\n"],
)
async def test_a_worker_that_dies_within_its_answer_is_left_out(tmp_path, torn) -> None:
    assert await savings(tmp_path, torn) == (200, {"turns": 1})


async def invalidated(folder: Path) -> tuple[int, dict[str, object]]:
    """What a worker says that was asked to forget."""
    told = {"body": b""}

    async def send(message) -> None:
        told.update(message, body=told["body"] + message.get("body", b""))

    async def receive():
        return {"type": "http.request", "body": b'{"all": true}'}

    path = "/v1/cache/invalidate"
    scope = {
        "type": "http", "method": "POST", "path": path, "raw_path": path.encode(),
        "query_string": b"", "headers": [], "server": ("127.0.0.1", 1),
    }  # fmt: skip
    await Siblings(own, folder)(scope, receive, send)
    return told["status"], json.loads(told["body"])


async def test_an_invalidation_is_not_told_as_done_while_a_worker_is_silent(tmp_path, monkeypatch):
    """It may be stopped for a while, and go on serving what it holds."""
    monkeypatch.setattr("app.api.siblings._INVALIDATION_TIMEOUT_S", 0.05)

    async def silent(reader, writer) -> None:
        await reader.read()
        writer.close()

    async def forgets(_, writer) -> None:
        writer.write(WHOLE)
        writer.close()

    deaf = await asyncio.start_unix_server(silent, tmp_path / "1.sock")
    heard = await asyncio.start_unix_server(forgets, tmp_path / "2.sock")
    status, said = await invalidated(tmp_path)
    assert (status, said["code"]) == (503, "workers_silent")
    assert "1 of 3 workers" in said["detail"]
    deaf.close()
    heard.close()


async def test_a_worker_that_is_gone_keeps_no_invalidation_from_being_done(tmp_path):
    gone = await asyncio.start_unix_server(lambda _, writer: writer.close(), tmp_path / "1.sock")
    gone.close()
    await gone.wait_closed()
    (tmp_path / "2.sock").touch()
    assert await invalidated(tmp_path) == (200, {"turns": 1})
