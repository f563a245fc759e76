"""A tool gives a result or a typed error, whatever its server does; real sockets."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json

import pytest

from app.domain.tools import ToolCaller
from app.errors import ToolError
from app.tools.registry import Registry
from app.tools.registry_from_settings import build_registry
from tests.support.gateway import configuration, settings_of
from tests.support.tool_server import Asked, tool_server

pytestmark = pytest.mark.anyio
ANN = ToolCaller("acme", "ann")
HANGUP_S = 10.0


def registry_of(url: str, **more: object) -> Registry:
    """A registry with one tool ``get`` at ``url``."""
    http = {"url": url, **more.pop("http", {})}
    tool = {
        "name": "get",
        "http": http,
        "parameters": {
            "type": "object",
            "properties": {"id": {"type": "string"}, "limit": {"type": "integer"}},
            "required": ["id"],
        },
        **more,
    }
    return build_registry(settings_of(configuration("http://127.0.0.1:9", tools=[tool])))


async def call(registry: Registry, arguments: object = None, caller: ToolCaller = ANN):
    """Call ``get`` and close."""
    try:
        return await registry.call("get", {"id": "a"} if arguments is None else arguments, caller)
    finally:
        await registry.aclose()


async def refused(registry: Registry, arguments: object = None) -> str:
    """The code of the error that the call ends with."""
    with pytest.raises(ToolError) as error:
        await call(registry, arguments)
    return error.value.code


def says(body: object, status: int = 200, kind: str = "application/json", extra: str = ""):
    """A route that answers this."""

    async def route(asked: Asked) -> None:
        await asked.answer(body, status, kind, extra=extra)

    return route


async def test_arguments_reach_url_and_query_encoded_and_absent_ones_leave_the_query() -> None:
    async with tool_server({"/t/": says({"ok": 1})}) as server:
        registry = registry_of(server.url + "/t/{id}?limit={limit}&as={id}")
        result = await call(registry, {"id": "a b/../c?d&e=é"})
        assert result.value == {"ok": 1}
        assert server.targets() == [
            "/t/a%20b%2F..%2Fc%3Fd%26e%3D%C3%A9?as=a%20b%2F..%2Fc%3Fd%26e%3D%C3%A9"
        ]


async def test_a_segment_cannot_climb_the_path() -> None:
    assert await refused(registry_of("http://127.0.0.1:9/t/{id}"), {"id": ".."}) == "tool_arguments"


async def test_body_headers_and_pointer() -> None:
    async with tool_server({"/t": says({"data": [{"a~b/c": {"state": "open"}}]})}) as server:
        http = {
            "method": "POST",
            "headers": {"Authorization": "Bearer secret", "x-id": "{id}"},
            "body": {"n": "{limit}", "text": "id is {id}", "tags": ["{id}"], "gone": "{absent}"},
            "result": "/data/0/a~0b~1c/state",
        }
        http["body"].pop("gone")
        result = await call(registry_of(server.url + "/t", http=http), {"id": "a", "limit": 3})
        assert result.text == "open"
        asked = server.asked[0]
        assert json.loads(asked.body) == {"n": 3, "text": "id is a", "tags": ["a"]}
        assert (asked.headers["authorization"], asked.headers["x-id"]) == ("Bearer secret", "a")


@pytest.mark.parametrize(
    ("body", "status", "kind", "extra", "code"),
    [
        (b"oops", 500, "text/plain", "", "tool_server_error"),
        ({"error": "no such ticket"}, 404, "application/json", "", "tool_status"),
        (b"<html><body>Login</body></html>", 200, "text/html", "", "tool_not_data"),
        (b"<!DOCTYPE html><p>x", 200, "application/json", "", "tool_not_data"),
        (b'{"a": ', 200, "application/json", "", "tool_not_json"),
        (b"\xff\xfe{", 200, "application/json", "", "tool_not_json"),
        (b"[" * 5000, 200, "application/json", "", "tool_not_json"),
        (b"", 302, "text/plain", "location: http://127.0.0.2:1/x\r\n", "tool_redirect"),
        (b"", 302, "text/plain", "location: /t/a\r\n", "tool_redirect"),
        (b"not compressed", 200, "application/json", "content-encoding: gzip\r\n", "tool_not_data"),
    ],
)
async def test_bad_answers_are_typed(body, status, kind, extra, code) -> None:
    async with tool_server({"/t/": says(body, status, kind, extra)}) as server:
        assert await refused(registry_of(server.url + "/t/{id}")) == code


async def test_what_a_404_says_reaches_the_model() -> None:
    async with tool_server({"/t/": says({"error": "no such ticket"}, 404)}) as server:
        with pytest.raises(ToolError, match="no such ticket"):
            await call(registry_of(server.url + "/t/{id}"))


async def test_a_redirect_on_the_same_origin_is_followed() -> None:
    routes = {"/t/": says(b"", 307, "text/plain", "location: /new\r\n"), "/new": says({"moved": 1})}
    async with tool_server(routes) as server:
        assert (await call(registry_of(server.url + "/t/{id}"))).value == {"moved": 1}


async def test_a_hundred_megabytes_are_not_read() -> None:
    sent = 0

    async def flood(asked: Asked) -> None:
        nonlocal sent
        asked.writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 104857600\r\n\r\n"
        )
        while sent < 104_857_600:
            asked.writer.write(b"x" * 65536)
            sent += 65536
            await asked.writer.drain()

    async with tool_server({"/t/": flood}) as server:
        assert await refused(registry_of(server.url + "/t/{id}")) == "tool_too_large"
        assert sent < 20_000_000


async def test_a_long_result_is_cut_with_a_note() -> None:
    async with tool_server({"/t/": says("é" * 5000, kind="text/plain")}) as server:
        result = await call(registry_of(server.url + "/t/{id}", max_result_bytes=1001))
        assert result.cut
        assert result.text.startswith("é" * 500 + "\n[cut: ")
        assert "1001 of 10000 bytes" in result.text


async def test_a_hanging_tool_times_out_and_a_reset_is_closed() -> None:
    async def hang(asked: Asked) -> None:
        await asked.until_gone()

    async def reset(asked: Asked) -> None:
        asked.writer.transport.abort()

    async with tool_server({"/hang/": hang, "/reset/": reset}) as server:
        assert (
            await refused(registry_of(server.url + "/hang/{id}", timeout_s=0.05)) == "tool_timeout"
        )
        await asyncio.wait_for(server.asked[0].gone.wait(), HANGUP_S)
        assert await refused(registry_of(server.url + "/reset/{id}")) == "tool_closed"
    assert await refused(registry_of(server.url + "/t/{id}")) == "tool_refused"


async def test_only_the_repeatable_is_tried_again() -> None:
    def failing(times: int):
        async def route(asked: Asked) -> None:
            nonlocal times
            times -= 1
            await asked.answer({"ok": True}, 503 if times >= 0 else 200)

        return route

    effects = {"repeatable": True}
    async with tool_server({"/t/": failing(2)}) as server:
        assert (await call(registry_of(server.url + "/t/{id}", retries=2, effects=effects))).value
        assert len(server.asked) == 3
    async with tool_server({"/t/": failing(2)}) as server:
        assert await refused(registry_of(server.url + "/t/{id}")) == "tool_server_error"
        assert len(server.asked) == 1
    async with tool_server({"/t/": says({}, 400)}) as server:
        registry = registry_of(server.url + "/t/{id}", retries=2, effects=effects)
        assert await refused(registry) == "tool_status"
        assert len(server.asked) == 1


async def test_results_are_kept_per_tenant_user_and_canonical_arguments() -> None:
    async with tool_server({"/t/": says({"ok": 1})}) as server:
        registry = registry_of(server.url + "/t/{id}", cache_ttl_s=60, effects={"read_only": True})
        first = await registry.call("get", '{"id": "a", "limit": 1}', ANN)
        again = await registry.call("get", {"limit": 1, "id": "a"}, ANN)
        assert (first.cached, again.cached) == (False, True)
        for caller in (ToolCaller("acme", "bob"), ToolCaller("other", "ann")):
            assert not (await registry.call("get", {"id": "a", "limit": 1}, caller)).cached
        assert not (await registry.call("get", {"id": "b", "limit": 1}, ANN)).cached
        assert len(server.asked) == 4
        await registry.aclose()


async def test_no_more_calls_at_once_than_the_tool_allows() -> None:
    gate = asyncio.Event()

    async def wait(asked: Asked) -> None:
        await gate.wait()
        await asked.answer({})

    async with tool_server({"/t/": wait}) as server:
        registry = registry_of(server.url + "/t/{id}", max_concurrency=2)
        async with asyncio.TaskGroup() as group:
            for name in "abcd":
                group.create_task(registry.call("get", {"id": name}, ANN))
            await server.arrived.get()
            await server.arrived.get()
            assert len(server.asked) == 2
            gate.set()
        assert len(server.asked) == 4
        await registry.aclose()


@pytest.mark.parametrize(
    "arguments", ['{"id": ', "[1]", '"x"', '{"id": 3}', "{}", '{"id": "a", "limit": "many"}']
)
async def test_arguments_that_do_not_fit_never_leave_the_house(arguments) -> None:
    async def never(asked: Asked) -> None:
        raise AssertionError(asked.target)

    async with tool_server({"/t/": never}) as server:
        assert await refused(registry_of(server.url + "/t/{id}"), arguments) == "tool_arguments"
        assert server.asked == []


async def test_an_unknown_tool_is_a_typed_error_that_names_the_known() -> None:
    registry = registry_of("http://127.0.0.1:9/{id}")
    with pytest.raises(ToolError, match="there are: get") as error:
        await registry.call("got", {}, ANN)
    assert error.value.code == "tool_unknown"
    await registry.aclose()


async def test_a_cancelled_call_hangs_up_at_once() -> None:
    async def hang(asked: Asked) -> None:
        await asked.until_gone()

    async with tool_server({"/t/": hang}) as server:
        registry = registry_of(server.url + "/t/{id}")
        async with asyncio.TaskGroup() as group:
            task = group.create_task(registry.call("get", {"id": "a"}, ANN))
            asked = await server.arrived.get()
            task.cancel()
        await asyncio.wait_for(asked.gone.wait(), HANGUP_S)
        await registry.aclose()


async def test_waiting_for_one_of_a_tool_s_places_is_measured() -> None:
    go_on = asyncio.Event()

    async def held(asked: Asked) -> None:
        await go_on.wait()
        await asked.answer({})

    async with tool_server({"/get/": held}) as tools:
        registry = registry_of(f"{tools.url}/get/{{id}}", max_concurrency=1)
        registered = registry.tools["get"]
        async with asyncio.TaskGroup() as group:
            for number in range(3):
                group.create_task(registry.call("get", {"id": str(number)}, ANN))
            await tools.arrived.get()
            while registered.waiting < 2:  # noqa: ASYNC110 - a count has no event; no time is measured
                await asyncio.sleep(0)
            go_on.set()
        assert registered.waiting == 0
        assert registered.waited_s > 0
        await registry.aclose()


@pytest.mark.parametrize(
    ("repeatable", "asked"), [(False, ["/t/a", "/t/a"]), (True, ["/t/a", "/t/a", "/t/a"])]
)
async def test_only_the_repeatable_is_sent_again_on_a_new_connection(repeatable, asked) -> None:
    """A connection at rest that the server closes when it is used next: was the call made or not?"""
    turns = iter(["answer", "close", "answer"])

    async def route(given: Asked) -> None:
        if next(turns) == "close":
            given.writer.close()
            return
        await given.answer({"ok": 1})

    async with tool_server({"/t/": route}) as server:
        registry = registry_of(server.url + "/t/{id}", effects={"repeatable": repeatable})
        assert (await registry.call("get", {"id": "a"}, ANN)).value == {"ok": 1}
        if repeatable:
            assert (await call(registry)).value == {"ok": 1}
        else:
            assert await refused(registry) == "tool_closed"
        assert server.targets() == asked


async def test_a_connection_is_used_again_and_a_read_announces_no_body() -> None:
    async with tool_server({"/t/": says({"ok": 1})}) as server:
        registry = registry_of(server.url + "/t/{id}")
        for _ in range(3):
            await registry.call("get", {"id": "a"}, ANN)
        await registry.aclose()
        assert len({id(each.writer) for each in server.asked}) == 1
        assert "content-length" not in server.asked[0].headers


async def test_a_packed_answer_is_unpacked_and_a_cut_one_is_an_error() -> None:
    packed = gzip.compress(b'{"ok": 1}')
    coded = "content-encoding: gzip\r\n"
    async with tool_server({"/t/": says(packed, extra=coded)}) as server:
        assert (await call(registry_of(server.url + "/t/{id}"))).value == {"ok": 1}
        assert server.asked[0].headers["accept-encoding"] == "gzip"
    for raw, extra in ((packed[:-9], coded), (packed, "content-encoding: br\r\n")):
        async with tool_server({"/t/": says(raw, extra=extra)}) as server:
            assert await refused(registry_of(server.url + "/t/{id}")) == "tool_not_data"


async def test_the_url_s_user_and_a_declared_host_header_are_sent() -> None:
    async with tool_server({"/t/": says({"ok": 1})}) as server:
        url = server.url.replace("//", "//ann:s%20t@") + "/t/{id}"
        await call(registry_of(url, http={"headers": {"Host": "desk.example"}}))
        sent = server.asked[0].headers
        assert sent["host"] == "desk.example"
        assert sent["authorization"] == "Basic " + base64.b64encode(b"ann:s t").decode()
