"""The exact cache from the outside: what is served again, to whom, in which form, and when no longer."""

from __future__ import annotations

import asyncio
import json
from uuid import uuid4

import pytest

from app.providers.simulator import expected_answer
from tests.e2e.asking import DIALECTS, PATHS, body_of
from tests.support.gateway import sse_events

pytestmark = pytest.mark.anyio


@pytest.fixture
def question() -> str:
    """A question that nobody has asked before, of a kind whose answer may be kept."""
    return f"What does the word {uuid4().hex[:10]} mean in the glossary of TCP?"


async def ask(http, dialect, question, *, model="small", stream=False, more=None, **headers):
    """One request; header names are given with underscores and without our prefix."""
    named = {f"x-slipstream-{name.replace('_', '-')}": value for name, value in headers.items()}
    body = body_of(dialect, model, question, **({"stream": True} if stream else {}), **(more or {}))
    return await http.post(PATHS[dialect], json=body, headers=named)


def text_of(dialect: str, reply, *, stream: bool) -> str:
    """The visible text of an answer in either form."""
    if not stream:
        body = reply.json()
        if dialect == "chat":
            return body["choices"][0]["message"]["content"]
        if dialect == "messages":
            return "".join(block["text"] for block in body["content"])
        return "".join(
            part["text"]
            for item in body["output"]
            if item["type"] == "message"
            for part in item["content"]
        )
    events = sse_events(reply.text)
    if dialect == "chat":
        return "".join(
            c["delta"].get("content") or "" for e in events for c in e.get("choices", ())
        )
    if dialect == "messages":
        return "".join(
            e["delta"].get("text", "") for e in events if e["type"] == "content_block_delta"
        )
    return "".join(e["delta"] for e in events if e["type"] == "response.output_text.delta")


def outcome(reply) -> str:
    """How the cache served it."""
    return reply.headers["x-slipstream-cache"]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("dialect", DIALECTS)
async def test_the_same_request_again_is_the_same_bytes_without_a_model(
    http, upstream, question, dialect, stream
):
    model = "small2" if dialect == "messages" else "small"
    first = await ask(http, dialect, question, model=model, stream=stream)
    asked = upstream.simulator.stats.requests.total()
    second = await ask(http, dialect, question, model=model, stream=stream)
    assert (outcome(first), outcome(second)) == ("miss", "exact")
    assert second.content == first.content
    assert second.headers["content-type"] == first.headers["content-type"]
    assert upstream.simulator.stats.requests.total() == asked


@pytest.mark.parametrize("kept_as", [(d, s) for d in DIALECTS for s in (False, True)], ids=str)
async def test_an_answer_kept_in_one_form_serves_every_other(http, upstream, question, kept_as):
    """Whole or streamed, in each dialect: the text, its end and its usage are the first one's."""
    wanted = expected_answer(question, "sim-fast")
    # A limit that every dialect spells, for Anthropic's demands one.
    limits = {
        "chat": {"max_tokens": 500},
        "responses": {"max_output_tokens": 500},
        "messages": {"max_tokens": 500},
    }
    dialect, stream = kept_as
    await ask(
        http,
        dialect,
        question,
        stream=stream,
        more=limits[dialect] if dialect != "messages" else None,
    )
    asked = upstream.simulator.stats.requests.total()
    for other in DIALECTS:
        for streamed in (False, True):
            more = limits[other] if other != "messages" else None
            reply = await ask(http, other, question, stream=streamed, more=more)
            assert (reply.status_code, outcome(reply)) == (200, "exact")
            assert text_of(other, reply, stream=streamed) == wanted
    assert upstream.simulator.stats.requests.total() == asked


@pytest.mark.parametrize("kept_streamed", [False, True])
async def test_no_choice_of_several_is_lost_in_another_form(http, question, kept_streamed):
    """Two were asked for and kept whole: as a stream there was one, and the reverse."""
    with_usage = {"stream_options": {"include_usage": True}}
    forms = [(False, {}), (True, {}), (True, with_usage)][:: -1 if kept_streamed else 1]
    for stream, more in forms:
        for wanted in ("miss", "exact"):
            reply = await ask(http, "chat", question, stream=stream, more={"n": 2, **more})
            assert outcome(reply) == wanted
            told = sse_events(reply.text) if stream else [reply.json()]
            assert {c["index"] for each in told for c in each["choices"]} == {0, 1}
            assert bool(told[-1].get("usage")) is (not stream or bool(more))


async def test_a_hit_tells_usage_in_a_stream_only_to_who_asked(http, question):
    await ask(http, "chat", question)
    asked = await ask(
        http, "chat", question, stream=True, more={"stream_options": {"include_usage": True}}
    )
    unasked = await ask(http, "chat", question, stream=True)
    assert outcome(asked) == outcome(unasked) == "exact"
    assert sse_events(asked.text)[-1]["usage"]["completion_tokens"] > 0
    told = sse_events(unasked.text)
    assert told
    assert all(not event.get("usage") for event in told)


async def test_bypass_neither_reads_nor_writes(http, question):
    assert outcome(await ask(http, "chat", question, cache="bypass")) == "bypass"
    assert (await ask(http, "chat", question, cache="only")).status_code == 504
    assert outcome(await ask(http, "chat", question)) == "miss"
    assert outcome(await ask(http, "chat", question, cache="bypass")) == "bypass"


async def test_refresh_writes_without_reading(http, question):
    assert outcome(await ask(http, "chat", question, cache="refresh")) == "miss"
    before = await ask(http, "chat", question, cache="only")
    assert outcome(await ask(http, "chat", question, cache="refresh")) == "miss"
    after = await ask(http, "chat", question, cache="only")
    assert outcome(before) == outcome(after) == "exact"
    assert before.json()["id"] != after.json()["id"]


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_only_is_a_hit_or_the_dialects_504(http, upstream, question, dialect):
    asked = upstream.simulator.stats.requests.total()
    reply = await ask(http, dialect, question, cache="only")
    assert reply.status_code == 504
    assert reply.json()["error"]["code"] == "cache_only_miss"
    assert upstream.simulator.stats.requests.total() == asked


@pytest.mark.parametrize(
    "change",
    [
        {"headers": {"user": "u-2"}},
        {"headers": {"tier": "powerful"}},
        {"model": "large"},
        {"more": {"temperature": 0.5}},
        {"more": {"max_tokens": 400}},
        {"more": {"x-new": 1}},
    ],
    ids=str,
)
async def test_whatever_can_change_an_answer_keeps_it_apart(http, question, change):
    await ask(http, "chat", question)
    reply = await ask(
        http,
        "chat",
        question,
        model=change.get("model", "small"),
        more=change.get("more"),
        cache="only",
        **change.get("headers", {}),
    )
    assert reply.status_code == 504


@pytest.mark.parametrize(
    "question_of", ["What time is it now, {}?", "Delete my account {} please", "My balance {}?"]
)
async def test_what_must_not_be_kept_is_asked_again(http, question_of):
    """Volatile, personal and acting questions."""
    question = question_of.format(uuid4().hex[:8])
    await ask(http, "chat", question)
    assert outcome(await ask(http, "chat", question)) == "miss"


@pytest.mark.parametrize(
    ("dialect", "state"),
    [
        ("responses", {"conversation": "conv_1"}),
        ("responses", {"store": True}),
        ("chat", {"store": True, "metadata": {"run": "1"}}),
        ("responses", {"background": True}),
        ("messages", {"container": "c_1"}),
        ("messages", {"thread": {"type": "create"}}),
        ("messages", {"mcp_servers": [{"type": "url", "name": "a", "url": "https://a.test"}]}),
    ],
)
async def test_what_moves_a_state_at_the_vendor_reaches_the_vendor_each_time(
    http, question, dialect, state
):
    """A conversation there would otherwise miss a turn, an answer its stored copy: neither cached nor joined,
    and no lane's.
    """
    model = "small2" if dialect == "messages" else "small"
    async with asyncio.TaskGroup() as group:
        asking = [
            group.create_task(ask(http, dialect, question, model=model, more=state))
            for _ in range(3)
        ]
    replies = [task.result() for task in asking]
    replies.append(await ask(http, dialect, question, model=model, more=state))
    assert [outcome(reply) for reply in replies] == ["bypass"] * 4
    assert len({reply.json()["id"] for reply in replies}) == 4
    lane = await ask(http, dialect, "What is 17 * 23?", model="auto", more=state)
    assert outcome(lane) == "bypass"
    reply = await ask(http, dialect, question, model=model, more=state, cache="only")
    assert reply.status_code == 504


async def test_only_what_is_to_be_stored_at_the_vendor_is_kept_from_the_cache(http, question):
    await ask(http, "chat", question, more={"store": False})
    assert outcome(await ask(http, "chat", question)) == "exact"
    reply = await ask(http, "chat", question, more={"store": True}, cache="only")
    assert reply.status_code == 504, "an answer that is not stored there is none to this"


async def test_a_refusal_is_not_kept(http, script, question):
    script("refusal")
    await ask(http, "chat", question)
    assert outcome(await ask(http, "chat", question)) == "miss"


async def test_an_answer_that_was_cut_is_not_kept(http, question):
    await ask(http, "chat", question, more={"max_tokens": 5})
    assert outcome(await ask(http, "chat", question, more={"max_tokens": 5})) == "miss"


@pytest.mark.parametrize("what", [{"tags": ["docs"]}, {"model": "small"}, {"all": True}], ids=str)
async def test_an_invalidation_holds_for_the_very_next_request(http, question, what):
    await ask(http, "chat", question, tags="docs, v2")
    other = await http.post("/v1/cache/invalidate", json={"tags": ["another"]})
    assert other.json() == {"invalidated": 0}
    assert outcome(await ask(http, "chat", question)) == "exact"
    said = await http.post("/v1/cache/invalidate", json=what)
    assert said.json()["invalidated"] >= 1
    assert outcome(await ask(http, "chat", question)) == "miss"


async def test_an_invalidation_must_say_what(http):
    reply = await http.post("/v1/cache/invalidate", json={})
    assert reply.status_code == 400
    assert reply.headers["content-type"] == "application/problem+json"
    wrong = await http.post("/v1/cache/invalidate", json={"everything": True})
    assert wrong.status_code == 422


async def test_a_wrong_hit_is_removed_by_feedback(http, question):
    await ask(http, "chat", question)
    hit = await ask(http, "chat", question)
    verdict = {"request_id": hit.headers["x-request-id"], "verdict": "right"}
    assert (await http.post("/v1/cache/feedback", json=verdict)).json()["removed"] is False
    assert outcome(await ask(http, "chat", question)) == "exact"
    said = await http.post("/v1/cache/feedback", json={**verdict, "verdict": "wrong"})
    assert said.json()["removed"] is True
    assert outcome(await ask(http, "chat", question)) == "miss"
    unknown = await http.post(
        "/v1/cache/feedback", json={"request_id": "req_none", "verdict": "wrong"}
    )
    assert unknown.status_code == 404


async def test_an_entry_can_be_looked_at_and_deleted(http, question):
    await ask(http, "chat", question, tags="one")
    hit = await ask(http, "chat", question)
    trace = (await http.get(f"/v1/traces/{hit.headers['x-request-id']}")).json()
    entry_id = trace["cache"]["entry"]
    shown = (await http.get(f"/v1/cache/entries/{entry_id}")).json()
    assert (shown["id"], shown["model"], shown["tags"]) == (entry_id, "small", ["one"])
    assert question not in json.dumps(shown)
    assert (await http.delete(f"/v1/cache/entries/{entry_id}")).json() == {"invalidated": 1}
    assert (await http.get(f"/v1/cache/entries/{entry_id}")).status_code == 404
    assert outcome(await ask(http, "chat", question)) == "miss"


async def test_the_statistics_add_up(http, question):
    await ask(http, "chat", question)
    await ask(http, "chat", question)
    stats = (await http.get("/v1/cache/stats")).json()
    assert stats["entries"] >= 1
    assert stats["size_bytes"] > 0
    assert stats["hits"]["exact"] >= 1
    assert stats["misses"]["absent"] >= 1


async def ask_at_once(http, dialect, question, streams):
    """The replies to equal requests sent together, each with whether it was streamed."""
    replies = []

    async def one(stream):
        replies.append((stream, await ask(http, dialect, question, stream=stream)))

    async with asyncio.TaskGroup() as group:
        for stream in streams:
            group.create_task(one(stream))
    return replies


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("dialect", DIALECTS)
async def test_fifty_equal_requests_at_once_are_one_upstream_call(
    http, upstream, question, dialect, stream
):
    """And everybody gets the whole answer."""
    asked = upstream.simulator.stats.requests.total()
    replies = await ask_at_once(http, dialect, question, [stream] * 50)
    assert upstream.simulator.stats.requests.total() - asked == 1
    wanted = expected_answer(question, "sim-fast")
    assert {text_of(dialect, reply, stream=stream) for _, reply in replies} == {wanted}
    outcomes = [outcome(reply) for _, reply in replies]
    assert outcomes.count("miss") == 1
    assert outcomes.count("coalesced") + outcomes.count("exact") == 49


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_whole_and_streamed_requests_join_each_other(http, upstream, question, dialect):
    """A chat stream without usage cannot tell a JSON client its usage, so there two calls may run."""
    asked = upstream.simulator.stats.requests.total()
    replies = await ask_at_once(http, dialect, question, [True, False] * 10)
    assert upstream.simulator.stats.requests.total() - asked <= 2
    wanted = expected_answer(question, "sim-fast")
    assert {text_of(dialect, reply, stream=stream) for stream, reply in replies} == {wanted}


async def test_a_wish_counts_in_every_request_of_a_connection(gateway, question):
    """Sent whole in one piece, as busy connections deliver them: a head seen before is known by its bytes."""
    host, port = gateway.url.removeprefix("http://").split(":")
    body = json.dumps(body_of("chat", "small", question)).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        f"x-slipstream-cache: only\r\ncontent-length: {len(body)}\r\n\r\n"
    ).encode()
    reader, writer = await asyncio.open_connection(host, int(port))
    for _ in range(3):
        writer.write(head + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 504 ")
        length = int(answer.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        await reader.readexactly(length)
    writer.close()
