"""Faults put into a conversation's next request on purpose, and what the linter says of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from random import Random
from typing import cast
from uuid import UUID

from app.domain.chat import Dialect
from app.domain.events import WholeBody
from app.prompts.diagnosis import VendorDiagnosis, verdict
from app.prompts.lint import compare
from app.prompts.prefix import render
from app.providers.simulator.diagnosis import Fingerprints
from bench.prompts.traffic import Sent

Body = dict[str, object]
Mutation = Callable[[Body, Random], str]
"""Changes a body in place and names the cause that is right; "" where it cannot be applied."""


def _tools(body: Body) -> list[Body]:
    return cast("list[Body]", body["tools"])


def _messages(body: Body) -> list[Body]:
    return cast("list[Body]", body["messages"])


def _system(body: Body, change: Callable[[str], str]) -> None:
    system = body["system"]
    if isinstance(system, str):
        body["system"] = change(system)
    else:
        block = cast("list[Body]", system)[0]
        block["text"] = change(str(block["text"]))


def tool_order(body: Body, rng: Random) -> str:
    """Two tools change places."""
    tools = _tools(body)
    one, other = rng.sample(range(len(tools)), 2)
    tools[one], tools[other] = tools[other], tools[one]
    return "tool_order"


def key_order(body: Body, rng: Random) -> str:
    """A tool's keys come in another order."""
    tools = _tools(body)
    at = rng.randrange(len(tools))
    tools[at] = dict(reversed(tools[at].items()))
    return "key_order"


def inner_key_order(body: Body, rng: Random) -> str:
    """The keys of a tool's schema come in another order."""
    tool = rng.choice(_tools(body))
    schema = cast("Body", tool["input_schema"])
    schema["properties"] = dict(reversed(cast("Body", schema["properties"]).items()))
    return "key_order"


def changed_tool(body: Body, rng: Random) -> str:
    """A description gets a word more."""
    tool = rng.choice(_tools(body))
    tool["description"] = f"{tool['description']} Now."
    return "changed_tool"


def removed_tool(body: Body, rng: Random) -> str:
    """A tool is not offered any more."""
    tools = _tools(body)
    tools.pop(rng.randrange(len(tools)))
    return "removed_tool"


def added_tool(body: Body, rng: Random) -> str:
    """A tool is new."""
    tools = _tools(body)
    tools.insert(rng.randrange(len(tools) + 1), {"name": "new", "input_schema": {"type": "object"}})
    return "added_tool"


def timestamp(body: Body, rng: Random) -> str:
    """The system prompt tells the time."""
    second = rng.randrange(60)
    _system(body, lambda text: f"It is 2026-11-21T08:15:{second:02d}Z. {text}")
    return "volatile_system"


def identity(body: Body, rng: Random) -> str:
    """The system prompt names the request."""
    name = UUID(int=rng.getrandbits(128))
    _system(body, lambda text: f"{text} Request {name}.")
    return "volatile_system"


def other_system(body: Body, rng: Random) -> str:
    """The system prompt is edited."""
    cut = rng.randrange(20, 200)
    _system(body, lambda text: text[cut:])
    return "changed_system"


def other_model(body: Body, rng: Random) -> str:
    """Another model is asked."""
    del rng
    body["model"] = "another"
    return "model_switch"


def edited_history(body: Body, rng: Random) -> str:
    """An earlier message is edited."""
    texts = [m for m in _messages(body)[:-2] if isinstance(m["content"], str)]
    if not texts:
        return ""
    message = rng.choice(texts)
    message["content"] = f"{message['content']} (edited)"
    return "changed_history"


def cut_history(body: Body, rng: Random) -> str:
    """The history is compacted."""
    del rng
    messages = _messages(body)
    body["messages"] = [{"role": "user", "content": "In short: it went on."}, messages[-1]]
    if isinstance(messages[-1]["content"], list):
        return ""
    return "shortened_history" if len(messages) > 3 else "changed_history"


def tool_choice(body: Body, rng: Random) -> str:
    """Tools are forced."""
    del rng
    body["tool_choice"] = {"type": "any"}
    return "tool_choice_changed"


def thinking(body: Body, rng: Random) -> str:
    """Thinking is switched on."""
    del rng
    body["thinking"] = {"type": "enabled", "budget_tokens": 2000}
    return "thinking_changed"


def speed(body: Body, rng: Random) -> str:
    """The fast mode is switched on."""
    del rng
    body["speed"] = "fast"
    return "speed_changed"


def nothing(body: Body, rng: Random) -> str:
    """Control: only a breakpoint moves, which changes nothing that is rendered."""
    del rng
    system = body["system"]
    if isinstance(system, str):
        block: Body = {"type": "text", "text": system, "cache_control": {"type": "ephemeral"}}
        body["system"] = [block]
    return "none"


MUTATIONS: Sequence[Mutation] = (
    tool_order,
    key_order,
    inner_key_order,
    changed_tool,
    removed_tool,
    added_tool,
    timestamp,
    identity,
    other_system,
    other_model,
    edited_history,
    cut_history,
    tool_choice,
    thinking,
    speed,
    nothing,
)


@dataclass
class Judged:
    """How the linter did."""

    injected: int = 0
    right: int = 0
    agreed: int = 0
    """How often the vendor's own diagnosis, as simulated, belongs to the cause that was named."""
    wrong: Counter[str] = field(default_factory=Counter)


def judge(traffic: Sequence[Sent], seed: int) -> Judged:
    """Put every mutation into every tenth pair of consecutive requests, and compare the cause."""
    rng, judged = Random(seed), Judged()
    last: dict[int, Body] = {}
    for number, sent in enumerate(traffic):
        before = last.get(sent.conversation)
        last[sent.conversation] = sent.body
        if before is None or number % 10:
            continue
        was = render(json.dumps(before).encode(), Dialect.MESSAGES)
        for mutation in MUTATIONS:
            body = deepcopy(sent.body)
            expected = mutation(body, rng)
            if not expected:
                continue
            cause = compare(was, render(json.dumps(body).encode(), Dialect.MESSAGES))
            said = "none" if cause is None else cause.rule
            judged.injected += 1
            judged.right += said == expected
            word = _of_the_vendor(before, body)
            judged.agreed += verdict(cause, word, Dialect.MESSAGES) == "agree"
            if said != expected:
                judged.wrong[f"{mutation.__name__}: {said}"] += 1
    return judged


def _of_the_vendor(before: Body, now: Body) -> str:
    """The vendor's word for what changed."""
    vendor = Fingerprints()
    vendor.of_messages("msg_1", {**before, "diagnostics": {"previous_message_id": None}})
    asked = {**now, "diagnostics": {"previous_message_id": "msg_1"}}
    heard = VendorDiagnosis(Dialect.MESSAGES)
    told = {"id": "msg_2", "diagnostics": vendor.of_messages("msg_2", asked)}
    heard.read(WholeBody(json.dumps(told).encode()))
    return heard.reason
