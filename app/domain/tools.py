"""A tool as the pipeline sees it: what it is called, what it takes, what it does to the world, what
it gave.

The three effects are separate on purpose, and all false unless declared: a call that changes
nothing may still not be worth repeating (it is paid for), and neither says that its arguments may
be shown to another host.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field

from app.domain.chat import Json, Tool

_PLACE = re.compile(r"\{\{|\}\}|\{([A-Za-z_][A-Za-z0-9_]*)\}")
_LONGEST_STATUS = 200
idempotency_key: ContextVar[str] = ContextVar("idempotency_key", default="")
"""What a tool's server may know a repeated call of a job by; "" outside jobs."""


@dataclass(frozen=True, slots=True)
class Effects:
    """What a call does to the world; see the module."""

    read_only: bool = False
    repeatable: bool = False
    disclosable: bool = False


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A configured tool."""

    name: str
    description: str = ""
    parameters: Json = field(default_factory=dict)
    """JSON Schema of the arguments."""
    status: str = ""
    """What a person is shown while it runs; ``{argument}`` places are filled."""
    timeout_s: float = 10.0
    """For one try."""
    cache_ttl_s: float = 0.0
    """How long a result is kept per tenant, user and arguments; 0 = not at all."""
    retries: int = 0
    max_concurrency: int = 16
    max_result_bytes: int = 64 * 1024
    cost_usd: float = 0.0
    effects: Effects = Effects()
    approval: bool = False
    """A person must approve each call."""
    own_host: bool = False
    """It never leaves this process or this machine: nothing is disclosed to anybody by calling it."""

    def offered(self) -> Tool:
        """The tool as a model is told of it."""
        return Tool(self.name, self.description, self.parameters)

    def status_of(self, arguments: Mapping[str, object]) -> str:
        """What to show a person while this call runs."""
        template = self.status or f"Using {self.name}…"
        text = fill(template, lambda name: str(arguments.get(name, "…")))
        return text if len(text) <= _LONGEST_STATUS else text[: _LONGEST_STATUS - 1] + "…"


@dataclass(frozen=True, slots=True)
class ToolCaller:
    """For whom a tool is called: results are never shared across either."""

    tenant: str
    user: str = ""


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a call gave: ``text`` for the model, and the value behind it for plans."""

    text: str
    value: object = None
    cut: bool = False
    """The text is only the beginning of the result, and says so."""
    cached: bool = False


def fill(template: str, value_of: Callable[[str], str]) -> str:
    """``template`` with each ``{name}`` replaced by ``value_of(name)``; doubled braces are text."""

    def replaced(match: re.Match[str]) -> str:
        if match[1] is None:
            return match[0][0]
        return value_of(match[1])

    return _PLACE.sub(replaced, template)


def places(template: str) -> tuple[str, ...]:
    """The names of a template's ``{name}`` places, in order."""
    return tuple(match[1] for match in _PLACE.finditer(template) if match[1] is not None)
