"""Sub-agents: tasks for other agents, several in parallel, each with its own events within the run.

Sub-agents of one kind share a long prefix: the same instructions and the same tools. A vendor's
prompt cache holds it only once the first answer has begun, so where the prefix is long enough to be
cached the first of them goes ahead, and the others start at its first byte: they read the cache
instead of each paying to write it. (``PromptCaching`` lets one of any requests go ahead, by the prefix
itself, but only to models that take breakpoints; this holds for the others, and before a model is chosen.)
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import msgspec

from app.domain.agents import Agent
from app.domain.chat import Json, Tool
from app.errors import ToolError
from app.prompts.prefix_leader import wait_for_leader

NAME = "ask_"
_CACHED_FROM_CHARS = 4096
"""About 1,024 tokens: below that no vendor caches a prefix."""
_LONGEST_LEAD_S = 5.0
"""Longest wait for a leader's first byte."""
MAX_DEPTH = 3


def subagents_of(agent: Agent, agents: Mapping[str, Agent], depth: int) -> dict[str, Agent]:
    """The agents that ``agent`` may ask, by the name of the tool that asks them."""
    if depth >= MAX_DEPTH:
        return {}
    return {NAME + name: agents[name] for name in agent.agents if name in agents}


def tool_declarations(others: Mapping[str, Agent]) -> tuple[Tool, ...]:
    """Those agents as tools of the model."""
    task = {
        "type": "string",
        "description": "What it is to find out or do, with all it needs to know.",
    }
    schema = {"type": "object", "properties": {"task": task}, "required": ["task"]}
    return tuple(
        Tool(name, f"Hand a task to the agent {each.name}. {each.system}"[:400], schema)
        for name, each in others.items()
    )


@dataclass(slots=True)
class PrefixLeaders:
    """The first run of each sub-agent, which writes the prompt cache for the others; one per run."""

    _first_bytes: dict[str, asyncio.Event] = field(default_factory=dict)

    def lead(self, agent: Agent, tools: Iterable[Tool]) -> asyncio.Event | None:
        """An event to set at the first byte, for who goes first; None for who follows, or where
        none need wait.
        """
        prefix_chars = len(agent.system) + sum(len(repr(tool)) for tool in tools)
        if prefix_chars < _CACHED_FROM_CHARS or agent.name in self._first_bytes:
            return None
        event = self._first_bytes[agent.name] = asyncio.Event()
        return event

    async def follow(self, agent: Agent) -> None:
        """Wait for the leader's first byte, if there is a leader."""
        event = self._first_bytes.get(agent.name)
        if event is not None:
            await wait_for_leader(event, _LONGEST_LEAD_S)


def parse_task(arguments: str) -> Json:
    """Parse a sub-agent call's arguments; raises ``ToolError`` where they hold no task."""
    try:
        value: object = msgspec.json.decode(arguments)
    except msgspec.DecodeError as exc:
        raise ToolError("the arguments are not valid JSON", code="tool_arguments") from exc
    if not isinstance(value, dict) or not isinstance(value.get("task"), str) or not value["task"]:
        raise ToolError("the arguments must hold a task, as text", code="tool_arguments")
    return value
