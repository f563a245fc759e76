"""What goes upstream for one turn of a conversation begins with what went there for the turn before."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.chat import ChatRequest, Dialect
from app.domain.deadline import Deadline
from app.domain.decisions import Tier
from app.domain.model_call import ModelCall
from app.domain.models import Abilities, Model
from app.errors import Unsupported
from app.prompts.caching import PromptCaching
from app.prompts.prefix import render
from app.providers.upstream_request import build_upstream_request
from app.wire.codecs import CODECS

LONG = "All work is measured against the same short list of plain rules. " * 90
KINDS = {Dialect.MESSAGES: "anthropic", Dialect.CHAT: "openai", Dialect.RESPONSES: "openai"}
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=60)
ARGUMENTS = st.dictionaries(
    TEXT, st.integers(-5, 5) | TEXT | st.lists(TEXT, max_size=2), max_size=3
)


@st.composite
def conversations(draw):
    """Rounds of a neutral conversation: what the user says, what is called and found, what is answered."""
    rounds = draw(
        st.lists(
            st.tuples(TEXT, st.lists(st.tuples(ARGUMENTS, TEXT), max_size=3), TEXT),
            min_size=2,
            max_size=4,
        )
    )
    system = draw(st.sampled_from(["", LONG, LONG + "é"]))
    names = draw(st.lists(st.sampled_from(["find", "count", "a-b"]), unique=True, min_size=1))
    return rounds, system, names


def schema(names):
    return {"type": "object", "properties": {n: {"type": "string"} for n in names}}


def chat(rounds, system, names):
    messages = [{"role": "system", "content": system}] if system else []
    for turn, (asked, calls, answer) in enumerate(rounds):
        messages.append({"role": "user", "content": asked})
        if calls:
            made = [
                {
                    "id": f"c{turn}_{i}",
                    "type": "function",
                    "function": {"name": names[0], "arguments": json.dumps(arguments)},
                }
                for i, (arguments, _) in enumerate(calls)
            ]
            messages.append({"role": "assistant", "content": None, "tool_calls": made})
            messages += [
                {"role": "tool", "tool_call_id": f"c{turn}_{i}", "content": found}
                for i, (_, found) in enumerate(calls)
            ]
        messages.append({"role": "assistant", "content": answer})
    tools = [
        {"type": "function", "function": {"name": n, "description": n, "parameters": schema(names)}}
        for n in names
    ]
    return {"model": "auto", "messages": messages[:-1], "tools": tools}


def anthropic(rounds, system, names):
    messages = []
    for turn, (asked, calls, answer) in enumerate(rounds):
        messages.append({"role": "user", "content": asked})
        if calls:
            ids = [f"c{turn}_{i}" for i in range(len(calls))]
            made = [
                {"type": "tool_use", "id": each, "name": names[0], "input": arguments}
                for each, (arguments, _) in zip(ids, calls, strict=True)
            ]
            found = [
                {"type": "tool_result", "tool_use_id": each, "content": result}
                for each, (_, result) in zip(ids, calls, strict=True)
            ]
            messages.append({"role": "assistant", "content": made})
            messages.append({"role": "user", "content": found})
        messages.append({"role": "assistant", "content": answer})
    tools = [{"name": n, "description": n, "input_schema": schema(names)} for n in names]
    body = {"model": "auto", "max_tokens": 50, "messages": messages[:-1], "tools": tools}
    return {**body, "system": system} if system else body


def responses(rounds, system, names):
    items = []
    for turn, (asked, calls, answer) in enumerate(rounds):
        items.append({"role": "user", "content": asked})
        for i, (arguments, _) in enumerate(calls):
            call = {"type": "function_call", "call_id": f"c{turn}_{i}", "name": names[0]}
            items.append({**call, "arguments": json.dumps(arguments)})
        for i, (_, found) in enumerate(calls):
            items.append(
                {"type": "function_call_output", "call_id": f"c{turn}_{i}", "output": found}
            )
        items.append({"role": "assistant", "content": answer})
    tools = [
        {"type": "function", "name": n, "description": n, "parameters": schema(names)}
        for n in names
    ]
    body = {"model": "auto", "input": items[:-1], "tools": tools}
    return {**body, "instructions": system} if system else body


BODIES = {Dialect.CHAT: chat, Dialect.MESSAGES: anthropic, Dialect.RESPONSES: responses}


def sent(caching, model, body, spoken, upstream):
    """The blocks that go to an ``upstream`` of one dialect for a client who speaks ``spoken``."""
    raw = json.dumps(body, ensure_ascii=False, indent=1).encode()
    request = ChatRequest(spoken, "auto", stream=False, body=json.loads(raw), raw=raw)
    call = ModelCall(model, stream=False, deadline=Deadline(None))
    call.tenant = "t"
    call.prompts = caching
    if spoken is upstream:
        call.native = request
    else:
        call.conversation = CODECS[spoken].read(request.body)
    out = build_upstream_request(call, CODECS, CODECS[upstream])
    rendered = render(out.body, upstream)
    if call.prompt_shape is not None:
        for name in call.prompt_shape.leads_prefixes:
            caching._seen[name].written = True
    return [
        (block.section, block.role, block.kind, block.content_hash) for block in rendered.blocks
    ]


@pytest.mark.parametrize("upstream", list(Dialect))
@pytest.mark.parametrize("spoken", list(Dialect))
@settings(max_examples=25, deadline=None)
@given(conversation=conversations())
def test_a_turn_begins_with_the_turn_before_it_in_every_pair_of_dialects(
    conversation, spoken, upstream
):
    rounds, system, names = conversation
    model = Model("m", "p", "up", Tier.FAST, abilities=Abilities(cache_breakpoints=KINDS[upstream]))
    caching = PromptCaching([model])
    before: list[object] = []
    for turn in range(1, len(rounds) + 1):
        body = BODIES[spoken](rounds[:turn], system, names)
        try:
            blocks = sent(caching, model, body, spoken, upstream)
        except Unsupported:
            return
        assert blocks[: len(before)] == before
        before = blocks
