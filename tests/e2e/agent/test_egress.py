"""Tools over real sockets reach what the operator declared and nothing else of the inside."""

from __future__ import annotations

import pytest

from app.domain.tools import ToolCaller
from app.errors import ToolError
from app.settings import SettingsError
from app.tools.addresses import Addresses, Resolve, resolve_host
from app.tools.mcp import McpOptions, McpServer
from app.tools.registry_from_settings import build_registry
from tests.support.gateway import configuration, settings_of
from tests.support.tool_server import Asked, tool_server

pytestmark = pytest.mark.anyio
ANN = ToolCaller("acme", "ann")


def registry(url: str, resolve: Resolve = resolve_host, **egress: object):
    tool = {"name": "get", "http": {"url": url}}
    values = configuration("http://127.0.0.1:9", tools=[tool], egress=egress)
    return build_registry(settings_of(values), resolve)


async def call(url: str, resolve: Resolve = resolve_host, **egress: object) -> object:
    tools = registry(url, resolve, **egress)
    try:
        return (await tools.call("get", {}, ANN)).value
    finally:
        await tools.aclose()


async def ok(asked: Asked) -> None:
    await asked.answer({"ok": 1})


async def inside(_: str, __: int) -> list[str]:
    """Every name leads to this machine."""
    return ["127.0.0.1"]


async def test_a_loopback_address_that_the_operator_wrote_is_reached():
    async with tool_server({"/": ok}) as server:
        assert await call(server.url + "/") == {"ok": 1}
        assert await call(server.url.replace("127.0.0.1", "localhost") + "/") == {"ok": 1}


async def test_a_name_that_leads_inside_is_refused_unless_it_is_declared():
    async with tool_server({"/": ok}) as server:
        url = server.url.replace("127.0.0.1", "tickets.example") + "/"
        with pytest.raises(ToolError) as caught:
            await call(url, inside)
        assert caught.value.code == "tool_egress"
        assert "egress.private" in caught.value.message
        assert not server.asked
        assert await call(url, inside, private=["tickets.example"]) == {"ok": 1}
        assert await call(url, inside, private=["127.0.0.0/8"]) == {"ok": 1}


async def test_an_address_that_does_not_answer_is_followed_by_the_next():
    async def both(_: str, __: int) -> list[str]:
        return ["127.0.0.9", "127.0.0.1"]

    async with tool_server({"/": ok}) as server:
        url = server.url.replace("127.0.0.1", "tickets.example") + "/"
        assert await call(url, both, private=["127.0.0.0/8"]) == {"ok": 1}


async def test_a_redirect_is_judged_like_the_first_call():
    """The name leads inside only at the second connection: that one is refused."""
    turns = iter([["127.0.0.1"], ["127.0.0.9"]])

    async def resolve(_: str, __: int) -> list[str]:
        return next(turns)

    async def away(asked: Asked) -> None:
        await asked.answer(b"", 302, extra="location: /again\r\nconnection: close\r\n")

    async with tool_server({"/": away}) as server:
        url = server.url.replace("127.0.0.1", "tickets.example") + "/"
        with pytest.raises(ToolError) as caught:
            await call(url, resolve, private=["127.0.0.1"])
        assert caught.value.code in {"tool_egress", "tool_redirect"}
        assert len(server.asked) <= 1


async def test_an_mcp_server_is_held_to_the_same():
    async with tool_server({"/": ok}) as server:
        url = server.url.replace("127.0.0.1", "mcp.example") + "/mcp"
        mcp = McpServer(McpOptions("m", url=url, timeout_s=5), addresses=Addresses(resolve=inside))
        try:
            assert await mcp.tools() == ()
        finally:
            await mcp.aclose()
        assert not server.asked


def test_a_host_outside_the_list_is_a_configuration_error():
    assert registry("https://api.example.com/x", hosts=["*.example.com"]) is not None
    with pytest.raises(SettingsError) as caught:
        registry("https://api.evil.example/x", hosts=["*.example.com", "other.example"])
    assert "egress.hosts" in str(caught.value.problems[0])
