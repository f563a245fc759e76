"""Events of an agent run, independent of the protocol: logged, and encoded as AG-UI or Vercel events.

The grammar, with ``S`` for a part that belongs to a sub-agent (wrapped in ``Within``)::

    RunStarted (Status | StepStarted StepFinished | message | call | SubagentStarted S*
    SubagentEnded)* (RunFinished | RunFailed)

    message = MessageStarted MessageText* MessageEnded        reasoning: the same with
    ``reasoning=True`` call    = CallOpened CallArguments* CallSealed CallEnded  calls interleave;
    each opened call is sealed and ended

One event here is at most one event of AG-UI, so that the number of an event in its run names it in
both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from app.domain.usage import Usage


@dataclass(frozen=True, slots=True)
class RunStarted:
    """The first event."""

    run_id: str
    thread_id: str
    agent: str


@dataclass(frozen=True, slots=True)
class Status:
    """A line for the person who waits; replaces the one before."""

    text: str
    first: bool = False


@dataclass(frozen=True, slots=True)
class StepStarted:
    """A phase begins."""

    name: str


@dataclass(frozen=True, slots=True)
class StepFinished:
    """A phase is over."""

    name: str


@dataclass(frozen=True, slots=True)
class MessageStarted:
    """A message of the model begins, or its reasoning."""

    id: str
    reasoning: bool = False


@dataclass(frozen=True, slots=True)
class MessageText:
    """More of a message; never empty."""

    id: str
    text: str
    reasoning: bool = False


@dataclass(frozen=True, slots=True)
class MessageEnded:
    """A message is whole."""

    id: str
    reasoning: bool = False


@dataclass(frozen=True, slots=True)
class CallOpened:
    """The model begins to call a tool."""

    id: str
    name: str
    message_id: str = ""


@dataclass(frozen=True, slots=True)
class CallArguments:
    """More of a call's arguments: a piece of JSON text; never empty."""

    id: str
    text: str


@dataclass(frozen=True, slots=True)
class CallSealed:
    """A call's arguments are complete."""

    id: str


@dataclass(frozen=True, slots=True)
class CallEnded:
    """A call's result, as the model reads it."""

    id: str
    name: str
    text: str
    outcome: str = "ok"
    """``ok``, ``cached``, ``error``, ``timeout``, ``invalid``, ``left_out``, ``declined`` or
    ``cancelled``.
    """
    code: str = ""
    """The error's stable code."""
    duration_s: float = 0.0
    speculative: bool = False
    """It was started before the model asked for it."""


@dataclass(frozen=True, slots=True)
class SubagentStarted:
    """A sub-agent's run within this one begins."""

    id: str
    name: str
    task: str = ""


@dataclass(frozen=True, slots=True)
class SubagentEnded:
    """A sub-agent's run is over; with an error's ``code`` it failed."""

    id: str
    text: str = ""
    code: str = ""


@dataclass(frozen=True, slots=True)
class ModelUsage:
    """Tokens of one model in a run."""

    provider: str
    model: str
    usage: Usage


@dataclass(frozen=True, slots=True)
class Interrupt:
    """A call that waits for a person's approval, as it would be made."""

    id: str
    call_id: str
    name: str
    arguments: Mapping[str, object] = field(default_factory=dict)
    message: str = ""


@dataclass(frozen=True, slots=True)
class RunFinished:
    """The run is over and did not fail."""

    run_id: str
    thread_id: str
    cancelled: bool = False
    usage: tuple[ModelUsage, ...] = ()
    timings: Mapping[str, float] = field(default_factory=dict)
    """Milliseconds a stage."""
    cost_usd: float = 0.0
    left_out: tuple[str, ...] = ()
    """Tools whose results the answer had to do without."""
    pending: tuple[str, ...] = ()
    """Calls of the client's own tools, for it to answer."""
    interrupts: tuple[Interrupt, ...] = ()
    """Calls that wait for approval: another run goes on from the answers."""


@dataclass(frozen=True, slots=True)
class RunFailed:
    """The run failed."""

    message: str
    code: str
    usage: tuple[ModelUsage, ...] = ()


@dataclass(frozen=True, slots=True)
class Within:
    """An event of a sub-agent's run."""

    subagent_id: str
    event: Inner


Inner = (
    Status
    | MessageStarted
    | MessageText
    | MessageEnded
    | CallOpened
    | CallArguments
    | CallSealed
    | CallEnded
)

RunEvent = (
    RunStarted
    | Inner
    | StepStarted
    | StepFinished
    | SubagentStarted
    | SubagentEnded
    | Within
    | RunFinished
    | RunFailed
)
