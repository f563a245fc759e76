"""An agent as data: a model, a system prompt, tools, and how far one run may go."""

from __future__ import annotations

from dataclasses import dataclass

PREFIX = "agent/"
"""Clients ask for an agent as the model ``agent/<name>``."""


@dataclass(frozen=True, slots=True)
class Agent:
    """A configured agent."""

    name: str
    system: str = ""
    tools: tuple[str, ...] = ()
    """Names of tools; ``<server>__*`` stands for all of an MCP server's."""
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
