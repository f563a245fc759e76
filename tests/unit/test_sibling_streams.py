"""A stream that another worker gives is passed on as it comes, and ends whatever becomes of that worker."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from app.api.sibling_streams import stream_from_owner
from tests.support.siblings import siblings_saying

pytestmark = pytest.mark.anyio
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
UNKNOWN = b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\n{}"


async def knows_nothing(_, __, send) -> None:
    await send({"type": "http.response.start", "status": 404, "headers": []})
    await send({"type": "http.response.body", "body": b"here: unknown"})


async def knows(_, __, send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"here"})


class Client:
    def __init__(self) -> None:
        self.status = 0
        self.body = b""
        self.gone = asyncio.Event()
        self.has = asyncio.Event()

    async def receive(self):
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message) -> None:
        self.status = message.get("status", self.status)
        self.body += message.get("body", b"")
        if self.body:
            self.has.set()


async def asked(folder: Path, *answers: bytes, app=knows_nothing) -> Client:
    """What a client gets, where each sibling says its answer and hangs up."""
    client = Client()
    request = b"GET /v1/runs/r/events HTTP/1.1\r\n\r\n"
    async with siblings_saying(folder, *answers) as there, asyncio.timeout(5):
        sockets = [*there, folder / "dead.sock"]
        await stream_from_owner(app, {}, client.receive, client.send, sockets, request)
    return client


async def test_the_first_that_knows_is_passed_on(tmp_path) -> None:
    client = await asked(tmp_path, UNKNOWN, HEAD + b"3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n")
    assert (client.status, client.body) == (200, b"abcdefg")


async def test_what_is_known_here_is_asked_of_nobody(tmp_path) -> None:
    client = await asked(tmp_path, HEAD + b"3\r\nabc\r\n0\r\n\r\n", app=knows)
    assert (client.status, client.body) == (200, b"here")


async def test_what_nobody_knows_is_unknown_as_it_is_here(tmp_path) -> None:
    client = await asked(tmp_path, UNKNOWN, b"nonsense\r\n\r\n", b"")
    assert (client.status, client.body) == (404, b"here: unknown")


@pytest.mark.parametrize("torn", [b"3\r\nabc\r\n", b"3\r\nabc\r\n5\r\nde", b"3\r\nabc\r\nxx\r\n"])
async def test_a_worker_that_dies_in_the_middle_ends_the_stream_with_an_error(
    tmp_path, torn
) -> None:
    client = await asked(tmp_path, HEAD + torn)
    assert client.status == 200
    assert client.body.startswith(b"abc")
    assert b'"code":"worker_lost"' in client.body
    assert client.body.endswith(b"\n\n")


async def test_a_client_that_leaves_hangs_up_at_the_sibling(tmp_path) -> None:
    hung_up = asyncio.Event()

    async def serve(reader, writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD + b"3\r\nabc\r\n")
        await reader.read()
        hung_up.set()
        writer.close()

    server = await asyncio.start_unix_server(serve, tmp_path / "0.sock")
    client = Client()
    sockets = [tmp_path / "0.sock"]
    async with asyncio.timeout(5), asyncio.TaskGroup() as beside:
        beside.create_task(
            stream_from_owner(knows_nothing, {}, client.receive, client.send, sockets, b"\r\n\r\n")
        )
        await client.has.wait()
        client.gone.set()
    async with asyncio.timeout(5):
        await hung_up.wait()
    assert client.body == b"abc"
    server.close()
