"""An agent as data: a model, a system prompt, tools, and how far one run may go."""

from __future__ import annotations

from dataclasses import dataclass

from app.domain.chat import Json
from app.domain.plan import Node

AGENT_MODEL_PREFIX = "agent/"
"""Clients ask for an agent as the model ``agent/<name>``."""


@dataclass(frozen=True, slots=True)
class Agent:
    """A configured agent."""

    name: str
    system: str = ""
    tools: tuple[str, ...] = ()
    """Names of tools; ``<server>__*`` stands for all of an MCP server's."""
    agents: tuple[str, ...] = ()
    """Other agents that it may hand tasks to, each as a tool ``ask_<name>``."""
    workflow: tuple[Node, ...] = ()
    """A declared plan, checked and in order, that runs before the model answers from its results."""
    model: str = "auto"
    max_turns: int = 8
    """Model calls in one run; in the last one it must answer."""
    max_parallel_tools: int = 16
    max_calls: int = 64
    """Tool calls in one run; further ones are refused and the model is told."""
    max_tokens: int = 200_000
    """Tokens of all model calls together, after which it must answer."""
    max_cost_usd: float = 1.0
    """Money for all model calls together, after which it must answer."""
    deadline_s: float | None = None
    """For a whole run; the request's own deadline may be sooner."""
    answer_model: str = ""
    """The model that reads the tools' results and writes the answer, while all results came; ``auto``:
    a fast one where that is mere assembly; "" = ``model``.
    """
    plans: bool = False
    """Its model writes plans, see ``app.pipeline.planner``, instead of calling tools one turn at
    a time.
    """
    quorum: float = 1.0
    """Share of a step's calls whose results are enough to go on, see ``app.pipeline.synthesis``."""
    patience_s: float = 0.25
    """How long the other calls are still waited for then."""
    summarise_over_chars: int | None = None
    """A longer result is shortened by a fast model; None = never."""
    speculate: bool = True
    """Tools may start before the model asks, where their flags and the arithmetic allow it."""
    value_usd_per_s: float = 0.002
    """What a second of a user's waiting is worth."""
    max_waste_share: float = 0.1
    """Calls started in vain, at most, per call that the model made."""
    remember: bool = True
    """What its runs teach speculation may be kept beyond this process."""


@dataclass(frozen=True, slots=True)
class Decision:
    """A person's answer to an interrupt."""

    interrupt_id: str
    approved: bool
    arguments: Json | None = None
    """To be called with these instead; they are checked as the model's are."""
    reason: str = ""
