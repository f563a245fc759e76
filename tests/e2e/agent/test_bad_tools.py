"""Inside a run, a tool that misbehaves is one typed error that model and client see; the rest goes on
and nothing stays open.
"""

from __future__ import annotations

import asyncio
import gzip
import sys
from pathlib import Path

import pytest

from tests.e2e.agent.test_agent_endpoint import body, post, read, types
from tests.e2e.agent.test_agent_loop import PATIENCE_S, agent, answers, echo, results, tool
from tests.support.gateway import running_gateway
from tests.support.scripted_model import Speaking, scripted_model
from tests.support.tool_server import Asked, tool_server

pytestmark = pytest.mark.anyio
MCP = str(Path(__file__).parent / "mcp_server.py")
HUNDRED_MB = 104_857_600
MOST_TAKEN = 20_000_000
"""Bytes: the tool's limit, and what sockets hold on the way."""


async def hangs(asked: Asked) -> None:
    """Never answer."""
    await asked.until_gone()


async def hangs_in_the_body(asked: Asked) -> None:
    """Begin an answer and stop."""
    asked.writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{")
    await asked.until_gone()


async def resets(asked: Asked) -> None:
    """Break the connection."""
    asked.writer.transport.abort()


async def resets_in_the_body(asked: Asked) -> None:
    """Break the connection in the middle of an answer."""
    asked.writer.write(b'HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{"a": 1')
    await asked.writer.drain()
    asked.writer.transport.abort()


async def floods(asked: Asked) -> None:
    """Send 100 MB in chunks of unknown sum."""
    asked.writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    sent, piece = 0, b"10000\r\n" + b"x" * 65536 + b"\r\n"
    while sent < HUNDRED_MB:
        asked.writer.write(piece)
        sent += 65536
        try:
            await asked.writer.drain()
        except ConnectionError:
            assert sent < MOST_TAKEN
            return
    raise AssertionError(sent)


async def unpacks_to_a_flood(asked: Asked) -> None:
    """Send 100 KB that are 100 MB when unpacked."""
    await asked.answer(gzip.compress(b"x" * HUNDRED_MB, 1), extra="content-encoding: gzip\r\n")


def says(raw: bytes, status: int = 200, kind: str = "application/json", extra: str = ""):
    """A route that answers this."""

    async def route(asked: Asked) -> None:
        await asked.answer(raw, status, kind, extra=extra)

    return route


async def both(speaking: Speaking) -> None:
    """Call the good tool and the bad one; then answer."""
    if any(m["role"] == "tool" for m in speaking.body["messages"]):
        await answers(speaking)
        return
    await speaking.call(0, "bad", '{"id": "1"}')
    await speaking.call(1, "good", '{"id": "2"}')
    await speaking.finish("tool_calls")


def told_of(events: list[tuple[str, dict[str, object]]]) -> dict[str, str]:
    """What the client was told of each call."""
    return {
        str(event["toolCallId"]): str(event["content"])
        for _, event in events
        if event["type"] == "TOOL_CALL_RESULT"
    }


@pytest.mark.parametrize(
    ("route", "says_so"),
    [
        (hangs, "did not answer"),
        (hangs_in_the_body, "did not answer"),
        (resets, "broke off"),
        (resets_in_the_body, "broke off"),
        (says(b"oops", 500, "text/plain"), "500"),
        (says(b"<html><body>Sign in</body></html>", kind="text/html"), "HTML"),
        (floods, "bytes"),
        (unpacks_to_a_flood, "bytes"),
        (says(b"", 302, extra="location: http://127.0.0.2:1/x\r\n"), "redirect"),
        (says(b"", 302, extra="location: /bad/1\r\n"), "redirect"),
        (says(b'{"a": '), "JSON"),
    ],
)
async def test_one_bad_tool_is_one_error_and_the_run_goes_on(route, says_so) -> None:
    hanging = route in {hangs, hangs_in_the_body}
    patience_s = 0.5 if hanging else 10.0  # a busy machine unpacks 100 MB slowly
    async with (
        tool_server({"/bad/": route, "/good/": echo()}) as tools,
        scripted_model(both) as model,
        running_gateway(
            agent(
                model.url,
                [tool("bad", tools.url, timeout_s=patience_s), tool("good", tools.url)],
            )
        ) as gateway,
    ):
        events = read((await post(gateway.url, body())).text)
        assert types(events)[-1] == "RUN_FINISHED"
        assert events[-1][1]["outcome"] == {"type": "success"}
        client, to_model = told_of(events), dict(results(model.bodies[1]))
        assert client.keys() == to_model.keys() == {"c0", "c1"}
        assert client["c1"] == to_model["c1"] == '{"got":"/good/2"}'
        for said in (client["c0"], to_model["c0"]):
            assert says_so.lower() in said.lower(), said
        if hanging:
            bad = next(asked for asked in tools.asked if asked.target == "/bad/1")
            await asyncio.wait_for(bad.gone.wait(), PATIENCE_S)


@pytest.mark.parametrize(
    ("dying", "says_so"), [("small__die", "broke off"), ("hang", "did not answer")]
)
async def test_an_mcp_server_that_dies_or_hangs_in_mid_call_leaves_the_run_whole(
    dying, says_so
) -> None:
    async def calls(speaking: Speaking) -> None:
        turn = sum(m["role"] == "assistant" for m in speaking.body["messages"])
        if turn == 0:
            await speaking.call(0, dying, "{}")
            await speaking.call(1, "good", '{"id": "2"}')
        elif turn == 1:
            await speaking.call(0, "small__add", '{"a": 2, "b": 3}')
        else:
            await answers(speaking)
            return
        await speaking.finish("tool_calls")

    async with tool_server({"/good/": echo()}) as tools, scripted_model(calls) as model:
        hang = {"name": "hang", "mcp": {"server": "small", "tool": "hang"}, "timeout_s": 0.5}
        values = agent(model.url, [tool("good", tools.url), hang])
        values["agents"][0]["tools"] = ["good", "hang", "small__*"]
        values["mcp_servers"] = {
            "small": {"command": [sys.executable, MCP, "stdio"], "timeout_s": 60}
        }
        async with running_gateway(values) as gateway:
            events = read((await post(gateway.url, body())).text)
            assert events[-1][1]["outcome"] == {"type": "success"}
            told = [text for _, text in results(model.bodies[-1])]
            assert says_so in told[0]
            assert told[1] == '{"got":"/good/2"}'
            assert "5" in told[2]  # started anew, or still there
