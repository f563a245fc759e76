"""What a tool's server or a model's arguments may try, and what comes of it; real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import sys
import threading
import types as python_types

import pytest

from app.domain.tools import ToolCaller, idempotency_key
from app.errors import ToolError
from app.tools.registry_from_settings import build_registry
from tests.e2e.agent.test_agent_endpoint import body, post, read
from tests.e2e.agent.test_agent_loop import PATIENCE_S, READ, agent, chat, said, tool
from tests.e2e.agent.test_http_tools import call, refused, registry_of, says
from tests.support.gateway import configuration, running_gateway, settings_of
from tests.support.scripted_model import Speaking, scripted_model
from tests.support.tool_server import Asked, tool_server

pytestmark = pytest.mark.anyio
SECRET = "tk-4f9a8c7d6e5b"
LOOSE = {"parameters": {"type": "object", "properties": {"id": {}, "b": {}}, "required": ["id"]}}


# ---------------------------------------------------------------- secrets


async def tells_back(asked: Asked) -> None:
    """Answer as a debugging server does: with all it was sent."""
    status = 401 if asked.target.endswith("/refused") else 200
    await asked.answer({"you sent": asked.headers, "at": asked.target}, status)


@pytest.mark.parametrize("end", ["told", "refused"])
@pytest.mark.parametrize(
    "headers", [{"authorization": f"Bearer {SECRET}"}, {"x-api-key": SECRET}], ids=str
)
async def test_the_secret_of_a_call_never_comes_back_with_its_answer(headers, end) -> None:
    async with tool_server({"/t/": tells_back}) as server:
        registry = registry_of(server.url + "/t/{id}", http={"headers": headers})
        try:
            text = (await call(registry, {"id": end})).text
        except ToolError as error:
            text = error.message
        assert SECRET in str(server.asked[0].headers)
        assert SECRET not in text
        assert "[redacted]" in text


async def test_a_password_in_the_url_stays_inside() -> None:
    async with tool_server({"/t/": tells_back}) as server:
        url = server.url.replace("http://", f"http://user:{SECRET}@")
        result = await call(registry_of(url + "/t/{id}"), {"id": "told"})
        pair = server.asked[0].headers["authorization"].removeprefix("Basic ")
        assert pair not in result.text
        assert SECRET not in result.text


# ---------------------------------------------------------------- where a call goes


@pytest.mark.parametrize(
    ("template", "arguments"),
    [
        ("/t/{id}{b}", {"id": ".", "b": "."}),
        ("/t/.{id}", {"id": "."}),
        ("/t/{id}.", {"id": "."}),
        ("/t/{id}/x", {"id": ".."}),
        ("/t/{id}/{b}", {"id": "a", "b": "."}),
        ("/t/%2e{id}", {"id": "."}),
        ("/t/{id}/{b}", {"id": ["a"], "b": ""}),
        ("/t/{id}", {"id": ""}),
        ("/t/{id}/close", {"id": ""}),
        ("/t/{id}{b}", {"id": "", "b": ""}),
    ],
)
async def test_arguments_never_make_another_path(template, arguments) -> None:
    """Nor one level up, nor the collection in place of its item."""
    async with tool_server({"/t/": says({}), "/": says({})}) as server:
        code = await refused(registry_of(server.url + template, **LOOSE), arguments)
        assert code == "tool_arguments"
        assert server.asked == []


async def test_lists_and_objects_stand_in_a_url_as_json() -> None:
    async with tool_server({"/t": says({})}) as server:
        registry = registry_of(server.url + "/t?ids={id}", **LOOSE)
        await call(registry, {"id": ["a", {"b": None, "c": True}]})
        assert server.targets() == ["/t?ids=%5B%22a%22%2C%7B%22b%22%3Anull%2C%22c%22%3Atrue%7D%5D"]


async def test_a_number_of_any_length_arrives_as_it_was_written() -> None:
    async with tool_server({"/t": says({})}) as server:
        registry = registry_of(server.url + "/t?n={id}", http={"method": "POST"}, **LOOSE)
        long = "1" + "0" * 40
        await call(registry, {"id": 10**40})
        assert server.targets() == [f"/t?n={long}"]
        assert server.asked[0].body.decode() == f'{{"id":{long}}}'


@pytest.mark.parametrize("word", ["a\r\nx-evil: 1", "a\nb", "é", "\x00", "a\x7f"])
async def test_a_header_takes_no_line_of_an_argument(word) -> None:
    async with tool_server({"/t": says({})}) as server:
        registry = registry_of(server.url + "/t", http={"headers": {"x-id": "{id}"}})
        assert await refused(registry, {"id": word}) == "tool_arguments"
        assert server.asked == []


# ---------------------------------------------------------------- what comes back


@pytest.mark.parametrize(
    ("raw", "kind", "value"),
    [
        (b'\xef\xbb\xbf{"a": 1}', "application/json; charset=utf-8", {"a": 1}),
        ("café".encode("latin-1"), "text/plain; charset=ISO-8859-1", "café"),
        ("café".encode("utf-16"), "text/plain; charset=utf-16", "café"),
        ('{"a": "é"}'.encode("latin-1"), "application/json; charset=latin-1", {"a": "é"}),
        (b"caf\xe9", "text/plain; charset=no-such", "caf\N{REPLACEMENT CHARACTER}"),
        (b"caf\xe9", "text/plain; charset=rot13", "caf\N{REPLACEMENT CHARACTER}"),
    ],
)
async def test_text_is_read_in_the_charset_that_it_is_declared_in(raw, kind, value) -> None:
    async with tool_server({"/t": says(raw, kind=kind)}) as server:
        assert (await call(registry_of(server.url + "/t"))).value == value


@pytest.mark.parametrize("kind", ["application/json", "text/plain", "application/octet-stream"])
async def test_an_answer_without_a_word_is_told_in_words(kind) -> None:
    """Vendors refuse empty text, and the model must know that the call was made."""
    async with tool_server({"/t": says(b"", 204, kind)}) as server:
        result = await call(registry_of(server.url + "/t"))
        assert result.text.strip()
        assert "no content" in result.text


async def test_every_member_of_a_packed_answer_is_read() -> None:
    packed = gzip.compress(b'{"a": ') + gzip.compress(b"1}")
    async with tool_server({"/t": says(packed, extra="content-encoding: gzip\r\n")}) as server:
        assert (await call(registry_of(server.url + "/t"))).value == {"a": 1}


async def test_members_that_unfold_to_a_flood_are_too_large() -> None:
    packed = gzip.compress(b"x" * (1 << 20)) * 20
    async with tool_server({"/t": says(packed, extra="content-encoding: gzip\r\n")}) as server:
        assert await refused(registry_of(server.url + "/t")) == "tool_too_large"


# ---------------------------------------------------------------- Python tools


def python_registry(monkeypatch, function, **more: object):
    module = python_types.ModuleType("hostile_python_tools")
    module.tool = function  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "hostile_python_tools", module)
    entry = {"name": "get", "python": "hostile_python_tools:tool", **more}
    return build_registry(settings_of(configuration("http://127.0.0.1:9", tools=[entry])))


async def test_a_tool_that_ends_the_process_is_an_error(monkeypatch) -> None:
    def leaves() -> None:
        raise SystemExit(3)

    async def leaves_too() -> None:
        raise SystemExit(3)

    for function in (leaves, leaves_too):
        assert await refused(python_registry(monkeypatch, function), {}) == "tool_failed"


async def test_text_that_is_none_reaches_nobody_as_such(monkeypatch) -> None:
    for value in ("a\ud800b", {"a": "\udfff"}, ["\ud800"]):
        registry = python_registry(monkeypatch, lambda value=value: value)
        with contextlib.suppress(ToolError):
            result = await call(registry, {})
            result.text.encode()
            json.dumps(result.value, ensure_ascii=False).encode()


async def test_threads_that_hang_hold_up_no_other_tool_and_no_look_up(monkeypatch) -> None:
    """The loop's own threads resolve names and read files for the whole gateway."""
    free = threading.Event()

    def hangs() -> None:
        free.wait()

    registry = python_registry(monkeypatch, hangs, timeout_s=0.05, max_concurrency=64)
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(40):
                group.create_task(times_out(registry))
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.to_thread(lambda: None)
    finally:
        free.set()
        await registry.aclose()


async def test_a_thread_that_hangs_keeps_its_place(monkeypatch) -> None:
    """One at a time means one at a time: a call whose time is over may still be at work."""
    free, at_once, most = threading.Event(), [], []

    def hangs() -> None:
        at_once.append(1)
        most.append(len(at_once))
        free.wait()
        at_once.pop()

    registry = python_registry(monkeypatch, hangs, timeout_s=0.05, max_concurrency=1)
    try:
        for _ in range(3):
            await times_out(registry)
    finally:
        free.set()
        await registry.aclose()
    assert max(most) == 1


async def test_a_plain_function_hears_the_key_of_its_step(monkeypatch) -> None:
    token = idempotency_key.set("step-7")
    try:
        result = await call(python_registry(monkeypatch, idempotency_key.get), {})
    finally:
        idempotency_key.reset(token)
    assert result.text == "step-7"


async def times_out(registry) -> None:
    with pytest.raises(ToolError) as late:
        await registry.call("get", {}, ToolCaller("acme", "ann"))
    assert late.value.code == "tool_timeout"


# ---------------------------------------------------------------- within a run


async def test_an_answer_that_was_made_without_a_tool_that_failed_is_not_kept() -> None:
    failing = True

    async def route(asked: Asked) -> None:
        await (asked.answer({"oops": 1}, 500) if failing else asked.answer({"state": "open"}))

    async def calls(speaking: Speaking) -> None:
        told = [m["content"] for m in speaking.body["messages"] if m["role"] == "tool"]
        if not told:
            await speaking.call(0, "a", '{"id": "1"}')
            await speaking.finish("tool_calls")
            return
        await speaking.text("It is open." if "open" in told[0] else "It could not be looked up.")
        await speaking.finish()

    async with tool_server({"/a/": route}) as tools, scripted_model(calls) as model:
        values = agent(model.url, [tool("a", tools.url, cache_ttl_s=60, effects=READ)])
        async with running_gateway(values) as gateway:
            assert said(await chat(gateway.url)) == "It could not be looked up."
            failing = False
            assert said(await chat(gateway.url)) == "It is open."
            assert said(await chat(gateway.url)) == "It is open."
            assert len(tools.asked) == 2


@pytest.mark.parametrize("arguments", ['{"id": ', "[1]", '"x"', "{}{}", "nonsense", "\\ud800"])
async def test_a_history_with_arguments_that_are_no_json_stays_one_that_vendors_take(
    arguments,
) -> None:
    async def calls(speaking: Speaking) -> None:
        if any(m["role"] == "tool" for m in speaking.body["messages"]):
            await speaking.text("Mended.")
            await speaking.finish()
            return
        await speaking.call(0, "a", arguments)
        await speaking.finish("tool_calls")

    async with tool_server({"/a/": says({})}) as tools, scripted_model(calls) as model:
        async with running_gateway(agent(model.url, [tool("a", tools.url)])) as gateway:
            events = read((await post(gateway.url, body())).text)
        assert events[-1][1]["outcome"] == {"type": "success"}
        [called] = [m for m in model.bodies[1]["messages"] if m.get("tool_calls")]
        told = called["tool_calls"][0]["function"]["arguments"]
        assert isinstance(json.loads(told), dict)


async def test_a_client_s_history_is_mended_where_vendors_would_refuse_it() -> None:
    """A result that belongs to no call, or comes too late, and arguments that are no JSON."""
    messages = [
        {"id": "1", "role": "user", "content": "Hi"},
        {"id": "2", "role": "tool", "toolCallId": "nobody", "content": "lost"},
        {
            "id": "3",
            "role": "assistant",
            "toolCalls": [
                {"id": "x", "type": "function", "function": {"name": "a", "arguments": '{"id'}},
                {"id": "y", "type": "function", "function": {"name": "a", "arguments": "{}"}},
            ],
        },
        {"id": "4", "role": "tool", "toolCallId": "x", "content": "one"},
        {"id": "5", "role": "user", "content": "And?"},
        {"id": "6", "role": "tool", "toolCallId": "y", "content": "too late"},
        {"id": "7", "role": "tool", "toolCallId": "x", "content": "one again"},
    ]

    async def answers(speaking: Speaking) -> None:
        await speaking.text("Yes.")
        await speaking.finish()

    async with scripted_model(answers) as model:
        async with running_gateway(agent(model.url, [])) as gateway:
            events = read((await post(gateway.url, body(messages=messages))).text)
        assert events[-1][1]["type"] == "RUN_FINISHED"
        sent = [m for m in model.bodies[0]["messages"] if m["role"] != "system"]
        assert [m["role"] for m in sent] == ["user", "assistant", "tool", "tool", "user"]
        assert [json.loads(c["function"]["arguments"]) for c in sent[1]["tool_calls"]] == [{}, {}]
        assert [m["tool_call_id"] for m in sent[2:4]] == ["x", "y"]


async def test_what_is_kept_of_long_results_is_bounded_by_what_they_take() -> None:
    """The value behind a text that was cut is kept whole, for plans: it counts."""
    async with tool_server({"/t/": says({"a": "x" * 900_000})}) as server:
        registry = registry_of(
            server.url + "/t/{id}",
            effects={"read_only": True},
            cache_ttl_s=60,
            max_result_bytes=100,
        )
        try:
            for number in range(60):
                await registry.call("get", {"id": str(number)}, ToolCaller("acme"))
            kept = [entry[1].value for entry in registry.outputs._entries.values()]
            assert sum(len(str(value)) for value in kept) <= 32 << 20
            assert len(kept) > 20
        finally:
            await registry.aclose()
