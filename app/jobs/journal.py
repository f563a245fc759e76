"""The journal of a job: each model answer and tool result is on disk, and replayed instead of run again.

A step is identified by its input (a model call's conversation, a tool's arguments) and by how many steps
had the same input before. In a job a model's answer is complete and on disk before anything acts on it,
so a continued run makes the same calls again. Unlike engines that number their steps, this needs no fixed
order of parallel steps.

A tool that is neither read-only nor repeatable is marked as begun before it is called. If it is found
begun and not finished, it is not called again: the model is told that the outcome is unknown. Each call
carries its step's name as ``Idempotency-Key``, the same one in each attempt.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TypeVar

import msgspec

from app.domain import events as model_events
from app.domain.chat import Json
from app.domain.events import Emit, Event
from app.domain.model_call import ModelCall
from app.domain.tools import ToolCaller, ToolResult, idempotency_key
from app.domain.usage import Usage
from app.errors import StoreError, ToolError
from app.pipeline.converse import ask
from app.pipeline.gateway import Gateway, Turn
from app.stores.job_store import JobStore
from app.tools.registry import Registry, parse_arguments

T = TypeVar("T")
_OUTCOME_UNKNOWN = (
    "was begun before the worker died, and whether it took effect is not known: it is not called"
    " again; check before you go on, or say so"
)


class StoredAnswer(msgspec.Struct, array_like=True):
    """A model's answer as stored."""

    model: str
    usage: Usage | None
    events: list[tuple[str, object]]


class StoredResult(msgspec.Struct):
    """A tool's result or error as stored."""

    text: str
    value: object = None
    cut: bool = False
    code: str = ""
    """The error's code; empty for a result."""


@dataclass(slots=True)
class Journal:
    """The steps of one attempt at a job."""

    job_id: str
    store: JobStore
    thread: Executor
    steps: dict[str, bytes | None]
    fault: StoreError | None = None
    """The store failed during this attempt: its outcome does not count."""
    _occurrences: Counter[str] = field(default_factory=Counter)

    async def in_store_thread(self, work: Callable[..., T], *args: object) -> T:
        """Run ``work`` in the store's thread."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self.thread, work, *args)
        except StoreError as error:
            self.fault = error
            raise

    def next_step(self, kind: str, *asked: str) -> str:
        """The name of the next step with this input."""
        known = sha256("\0".join((self.job_id, kind, *asked)).encode("utf-8", "replace"))
        name = f"{kind}-{known.hexdigest()[:32]}"
        self._occurrences[name] += 1
        return f"{name}-{self._occurrences[name]}"

    async def ask(
        self, calls: Sequence[ModelCall], gateway: Gateway, turn: Turn, emit: Emit
    ) -> None:
        """``converse.ask``, but complete and stored before the first event, and replayed once stored."""
        conversation = calls[0].conversation
        messages = () if conversation is None else conversation.messages
        step = self.next_step("model", repr(messages))
        found = self.steps.get(step)
        if found is not None:
            stored = msgspec.json.decode(found, type=StoredAnswer)
            call = next((each for each in calls if each.model.name == stored.model), calls[0])
            call.usage = stored.usage
            for name, plain in stored.events:
                await emit(msgspec.convert(plain, getattr(model_events, name)))
            return
        events: list[Event] = []

        async def collect(event: Event) -> None:
            events.append(event)

        await ask(calls, gateway, turn, collect)
        last = turn.call if turn.call is not None else calls[0]
        plain_events = [(type(each).__name__, msgspec.to_builtins(each)) for each in events]
        stored = StoredAnswer(last.model.name, last.usage, plain_events)
        await self.in_store_thread(
            self.store.finish_step, self.job_id, step, msgspec.json.encode(stored)
        )
        for event in events:
            await emit(event)


class JournalledTools(Registry):
    """The gateway's tools; each call is a step of a job."""

    journal: Journal

    async def call(
        self, name: str, arguments: Json | str, caller: ToolCaller, *, checked: bool = False
    ) -> ToolResult:
        """``Registry.call``, but a finished call is replayed, not made again."""
        journal = self.journal
        parsed = parse_arguments(arguments) if isinstance(arguments, str) else arguments
        canonical = msgspec.json.encode(parsed, order="deterministic").decode()
        step = journal.next_step("tool", name, canonical)
        registered = self.tools.get(name)
        effects = None if registered is None else registered.spec.effects
        may_repeat = effects is None or effects.read_only or effects.repeatable
        found = journal.steps.get(step)
        if found is not None:
            return _to_result(msgspec.json.decode(found, type=StoredResult))
        if not may_repeat:
            if step in journal.steps:
                return await self._store(
                    step, StoredResult(_OUTCOME_UNKNOWN, code="tool_outcome_unknown")
                )
            if not checked and registered is not None:
                registered.check(parsed)
                checked = True
            await journal.in_store_thread(journal.store.begin_step, journal.job_id, step)
        token = idempotency_key.set(step)
        try:
            result = await super().call(name, parsed, caller, checked=checked)
        except ToolError as error:
            return await self._store(step, StoredResult(error.message, code=error.code))
        finally:
            idempotency_key.reset(token)
        return await self._store(step, StoredResult(result.text, result.value, result.cut))

    async def _store(self, step: str, stored: StoredResult) -> ToolResult:
        journal = self.journal
        raw = msgspec.json.encode(stored, enc_hook=repr)
        await journal.in_store_thread(journal.store.finish_step, journal.job_id, step, raw)
        return _to_result(stored)


def _to_result(stored: StoredResult) -> ToolResult:
    if stored.code:
        raise ToolError(stored.text, code=stored.code)
    return ToolResult(stored.text, stored.value, stored.cut)


def journalled(gateway: Gateway, journal: Journal) -> JournalledTools | None:
    """The gateway's tools writing to ``journal``; None where it has none."""
    tools = gateway.tools
    if tools is None:
        return None
    found = JournalledTools(tools.tools, tools.servers, tools.outputs, tools.shared)
    found.journal = journal
    return found
