"""Breakpoints that the gateway sets by itself: where, how many, and in which bytes."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field

import pytest

from app.domain.chat import Dialect
from app.domain.deadline import Deadline
from app.domain.decisions import Tier
from app.domain.model_call import ModelCall
from app.domain.models import Abilities, Model
from app.domain.usage import Price, Usage
from app.prompts.caching import PromptCaching
from app.prompts.prefix import render

LONG = "All work is measured against the same short list of plain rules. " * 120
CLAUDE = Model(
    "claude",
    "claude",
    "claude-opus-5-5",
    Tier.POWERFUL,
    Price(3.0, 15.0, 0.3, 3.75),
    Abilities(cache_breakpoints="anthropic"),
)
GPT = Model(
    "gpt",
    "openai",
    "gpt-6-sol",
    Tier.POWERFUL,
    Price(2.0, 8.0),
    Abilities(cache_breakpoints="openai"),
)


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Desk:
    """A caching under test, and the vendor's side of it: everything marked is written."""

    model: Model = CLAUDE
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self):
        self.caching = PromptCaching([self.model], clock=self.clock)

    def ask(self, body, dialect=Dialect.MESSAGES, tenant="t", usage=None):
        """Send ``body``; gives what goes out, read again."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        call = ModelCall(self.model, stream=False, deadline=Deadline(None))
        call.tenant = tenant
        sent = self.caching.shape(call, dialect, raw)
        if call.prompt_shape.leads_prefixes:
            self.caching._written(call.prompt_shape)
        call.usage = usage or Usage(input_tokens=10, cache_write_tokens=len(raw) // 4)

        async def settle():
            self.caching.settle(call)
            self.caching.drain()

        asyncio.run(settle())
        return json.loads(sent)


def messages(*texts, system=LONG, **more):
    roles = ("user", "assistant")
    turns = [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]
    return {"model": "m", "max_tokens": 9, "system": system, "messages": turns, **more}


def marked(body):
    """JSON pointers of the blocks that carry a breakpoint."""
    found = render(json.dumps(body).encode(), Dialect.MESSAGES)
    return [block.pointer for block in found.blocks if block.breakpoint_ttl]


def bare(body):
    """The body as the vendor renders it: breakpoints and the form of a single text left out."""
    if isinstance(body, dict):
        skip = {"cache_control", "prompt_cache_breakpoint", "prompt_cache_key"}
        return {key: bare(value) for key, value in body.items() if key not in skip}
    if isinstance(body, list):
        if (
            len(body) == 1
            and isinstance(body[0], dict)
            and body[0].get("type")
            in {
                "text",
                "input_text",
            }
        ):
            return body[0]["text"]
        return [bare(value) for value in body]
    return body


class TestWhere:
    def test_the_system_prompt_and_the_end_are_marked(self):
        sent = Desk().ask(messages("a" * 400))
        assert marked(sent) == ["/system/0", "/messages/0/content/0"]
        assert bare(sent) == messages("a" * 400)

    def test_a_short_prompt_is_left_as_it_came(self):
        body = messages("hi", system="short")
        assert Desk().ask(body) == body

    def test_never_a_fifth_the_clients_own_counted(self):
        block = {"type": "text", "text": LONG, "cache_control": {"type": "ephemeral"}}
        for own in range(5):
            system = [block] * own + [{"type": "text", "text": LONG}]
            tools = [{"name": "t", "description": LONG, "input_schema": {"type": "object"}}]
            sent = Desk().ask(messages("q", "a", "r", system=system, tools=tools))
            assert own <= len(marked(sent)) <= 4
            assert bare(sent) == bare(messages("q", "a", "r", system=system, tools=tools))

    def test_top_level_cache_control_counts_as_one_and_places_the_end_itself(self):
        body = messages("q", cache_control={"type": "ephemeral"})
        assert marked(Desk().ask(body)) == ["/system/0"]

    def test_nothing_of_five_minutes_stands_before_the_clients_hour(self):
        system = [
            {"type": "text", "text": LONG},
            {"type": "text", "text": LONG, "cache_control": {"type": "ephemeral", "ttl": "1h"}},
        ]
        tools = [{"name": "t", "description": LONG, "input_schema": {"type": "object"}}]
        sent = Desk().ask(messages("q", system=system, tools=tools))
        assert marked(sent) == ["/system/1", "/messages/0/content/0"]

    def test_thinking_takes_no_breakpoint(self):
        thought = {"type": "thinking", "thinking": LONG, "signature": "s"}
        body = messages("q", [thought], "go on")
        body["messages"].pop()
        assert marked(Desk().ask(body)) == ["/system/0", "/messages/0/content/0"]

    def test_a_known_prefix_beyond_the_look_back_gets_its_own(self):
        desk = Desk()
        desk.ask(messages("q" * 400))
        many = [{"type": "text", "text": f"part {i} " * 30} for i in range(30)]
        sent = desk.ask(messages("q" * 400, "a", many))
        assert "/messages/0/content/0" in marked(sent)
        assert len(marked(sent)) <= 4

    def test_documents_that_others_may_ask_about_are_kept_apart_from_the_question(self):
        parts = [{"type": "text", "text": LONG}, {"type": "text", "text": "What is rule 3?"}]
        assert "/messages/0/content/0" in marked(Desk().ask(messages(parts, system="Be brief.")))


class TestWhetherItPays:
    def test_a_tenant_whose_prompts_never_return_pays_for_no_more_writes(self):
        desk = Desk()
        for turn in range(12):
            sent = desk.ask(messages(f"question {turn}", system=f"It is {turn} o'clock. {LONG}"))
            desk.clock.now += 301
        assert marked(sent) == []

    def test_another_tenants_traffic_says_nothing_about_this_one(self):
        desk = Desk()
        for turn in range(12):
            desk.ask(messages(f"question {turn}", system=f"It is {turn} o'clock. {LONG}"))
            desk.clock.now += 301
        assert len(marked(desk.ask(messages("a" * 400), tenant="other"))) == 2

    def test_a_system_prompt_that_returns_is_kept_even_where_conversations_do_not(self):
        desk = Desk()
        for turn in range(30):
            sent = desk.ask(messages(f"another question, number {turn} " * 20))
            desk.clock.now += 200
        assert marked(sent) == ["/system/0"]

    def test_the_minimum_is_learned_from_the_counters(self):
        desk = Desk()
        desk.ask(messages("q"), usage=Usage(input_tokens=2000))
        assert desk.caching.model_statistics("claude").minimum_tokens > 1024
        assert marked(desk.ask(messages("q"))) == []


class TestOpenAI:
    def test_the_system_prompt_gets_an_explicit_breakpoint_and_the_request_a_key(self):
        turns = [{"role": "developer", "content": LONG}, {"role": "user", "content": "hi"}]
        body = {"model": "m", "messages": turns}
        sent = Desk(GPT).ask(body, Dialect.CHAT)
        assert sent["messages"][0]["content"][0]["prompt_cache_breakpoint"] == {"mode": "explicit"}
        assert sent["messages"][1] == turns[1]
        assert sent["prompt_cache_key"]
        assert bare(sent) == body

    def test_the_clients_own_key_stays(self):
        turns = [{"role": "developer", "content": LONG}, {"role": "user", "content": "hi"}]
        sent = Desk(GPT).ask(
            {"model": "m", "messages": turns, "prompt_cache_key": "k"}, Dialect.CHAT
        )
        assert sent["prompt_cache_key"] == "k"

    def test_responses_input_takes_them_too(self):
        items = [{"role": "developer", "content": LONG}, {"role": "user", "content": "hi"}]
        sent = Desk(GPT).ask({"model": "m", "input": items}, Dialect.RESPONSES)
        part = sent["input"][0]["content"][0]
        assert part["type"] == "input_text"
        assert part["prompt_cache_breakpoint"] == {"mode": "explicit"}


class TestBytes:
    @pytest.mark.parametrize("indent", [None, 2])
    def test_every_byte_outside_the_marked_blocks_is_the_clients_own(self, indent):
        raw = json.dumps(messages("é" * 300, "b", "c"), indent=indent, ensure_ascii=False).encode()
        desk = Desk()
        call = ModelCall(CLAUDE, stream=False, deadline=Deadline(None))
        call.tenant = "t"
        sent = desk.caching.shape(call, Dialect.MESSAGES, raw)
        mark = b',"cache_control":{"type":"ephemeral"}}]'
        assert sent.count(mark) == 2
        assert sent.replace(mark, b"").replace(b'[{"type":"text","text":', b"") == raw

    @pytest.mark.parametrize("raw", [b"[]", b'{"messages": 3}', b'{"messages":[{}]}', b"nonsense"])
    def test_a_body_that_cannot_be_read_goes_out_as_it_came(self, raw):
        call = ModelCall(CLAUDE, stream=False, deadline=Deadline(None))
        call.tenant = "t"
        assert Desk().caching.shape(call, Dialect.MESSAGES, raw) == raw
