"""A tool as the pipeline sees it: name, parameters, effects, results.

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
"""Lets a tool's server recognise a repeated call of a job; "" outside jobs."""


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

    def status_text(self, arguments: Mapping[str, object]) -> str:
        """What to show a person while this call runs."""
        template = self.status or f"Using {self.name}…"
        text = fill_template(template, lambda name: str(arguments.get(name, "…")))
        return text if len(text) <= _LONGEST_STATUS else text[: _LONGEST_STATUS - 1] + "…"


@dataclass(frozen=True, slots=True)
class ToolCaller:
    """Tenant and user of a call: results are never shared across either."""

    tenant: str
    user: str = ""


@dataclass(frozen=True, slots=True)
class ToolResult:
    """Result of a call: ``text`` for the model, and the value for plans."""

    text: str
    value: object = None
    cut: bool = False
    """The text is only the beginning of the result, and says so."""
    cached: bool = False


def fill_template(template: str, value_of: Callable[[str], str]) -> str:
    """``template`` with each ``{name}`` replaced by ``value_of(name)``; doubled braces are text."""

    def replaced(match: re.Match[str]) -> str:
        if match[1] is None:
            return match[0][0]
        return value_of(match[1])

    return _PLACE.sub(replaced, template)


def template_fields(template: str) -> tuple[str, ...]:
    """The names of a template's ``{name}`` places, in order."""
    return tuple(match[1] for match in _PLACE.finditer(template) if match[1] is not None)
