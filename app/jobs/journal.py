"""A job's run, step by step on disk: what was finished is given again, not run again.

A step is known by what it is asked, and by how often the same was asked before: a model by the
conversation, a tool by its arguments. In a job a model's answer is whole and on disk before any of
it is acted upon, so a run that is taken up again makes the very calls that it made before; that is
why the order in which parallel steps begin need not be the same, which engines that number their
steps demand.

A tool that is neither read-only nor repeatable is marked as begun before it is called. Found begun
and not finished, it is not called again: the model is told that nobody knows whether it took
effect. Every call carries its step's name as ``Idempotency-Key``, the same one in each attempt.
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
from app.tools.registry import Registry, parsed_arguments

T = TypeVar("T")
_UNKNOWN = (
    "was begun before the worker died, and whether it took effect is not known: it is not called"
    " again; check before you go on, or say so"
)


class Kept(msgspec.Struct, array_like=True):
    """A model's answer on disk."""

    model: str
    usage: Usage | None
    events: list[tuple[str, object]]


class KeptResult(msgspec.Struct):
    """A tool's result or error on disk."""

    text: str
    value: object = None
    cut: bool = False
    code: str = ""
    """Not empty: an error's."""


@dataclass(slots=True)
class Journal:
    """The steps of one job, in one attempt."""

    job_id: str
    store: JobStore
    thread: Executor
    steps: dict[str, bytes | None]
    fault: StoreError | None = None
    """The store failed in this attempt, which is worth nothing then."""
    _asked: Counter[str] = field(default_factory=Counter)

    async def blocking(self, work: Callable[..., T], *args: object) -> T:
        """Have the store's thread do ``work``."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self.thread, work, *args)
        except StoreError as error:
            self.fault = error
            raise

    def step(self, kind: str, *asked: str) -> str:
        """The name of the next step that asks this."""
        known = sha256("\0".join((self.job_id, kind, *asked)).encode("utf-8", "replace"))
        name = f"{kind}-{known.hexdigest()[:32]}"
        self._asked[name] += 1
        return f"{name}-{self._asked[name]}"

    async def ask(
        self, calls: Sequence[ModelCall], gateway: Gateway, turn: Turn, emit: Emit
    ) -> None:
        """As ``app.pipeline.converse.ask``, but whole before the first event, and only once."""
        conversation = calls[0].conversation
        messages = () if conversation is None else conversation.messages
        step = self.step("model", repr(messages))
        found = self.steps.get(step)
        if found is not None:
            kept = msgspec.json.decode(found, type=Kept)
            call = next((each for each in calls if each.model.name == kept.model), calls[0])
            call.usage = kept.usage
            for name, plain in kept.events:
                await emit(msgspec.convert(plain, getattr(model_events, name)))
            return
        said: list[Event] = []

        async def collect(event: Event) -> None:
            said.append(event)

        await ask(calls, gateway, turn, collect)
        last = turn.call if turn.call is not None else calls[0]
        events = [(type(each).__name__, msgspec.to_builtins(each)) for each in said]
        kept = Kept(last.model.name, last.usage, events)
        await self.blocking(self.store.finish, self.job_id, step, msgspec.json.encode(kept))
        for event in said:
            await emit(event)


class JournalledTools(Registry):
    """The gateway's tools, each call a step of a job."""

    journal: Journal

    async def call(
        self, name: str, arguments: Json | str, caller: ToolCaller, *, checked: bool = False
    ) -> ToolResult:
        """As the registry's, but a call that was finished is not made again."""
        journal = self.journal
        parsed = parsed_arguments(arguments) if isinstance(arguments, str) else arguments
        canonical = msgspec.json.encode(parsed, order="deterministic").decode()
        step = journal.step("tool", name, canonical)
        registered = self.tools.get(name)
        effects = None if registered is None else registered.spec.effects
        again = effects is None or effects.read_only or effects.repeatable
        found = journal.steps.get(step)
        if found is not None:
            return _given(msgspec.json.decode(found, type=KeptResult))
        if not again:
            if step in journal.steps:
                return await self._keep(step, KeptResult(_UNKNOWN, code="tool_outcome_unknown"))
            if not checked and registered is not None:
                registered.check(parsed)
                checked = True
            await journal.blocking(journal.store.begin, journal.job_id, step)
        token = idempotency_key.set(step)
        try:
            result = await super().call(name, parsed, caller, checked=checked)
        except ToolError as error:
            return await self._keep(step, KeptResult(error.message, code=error.code))
        finally:
            idempotency_key.reset(token)
        return await self._keep(step, KeptResult(result.text, result.value, result.cut))

    async def _keep(self, step: str, kept: KeptResult) -> ToolResult:
        journal = self.journal
        raw = msgspec.json.encode(kept, enc_hook=repr)
        await journal.blocking(journal.store.finish, journal.job_id, step, raw)
        return _given(kept)


def _given(kept: KeptResult) -> ToolResult:
    if kept.code:
        raise ToolError(kept.text, code=kept.code)
    return ToolResult(kept.text, kept.value, kept.cut)


def journalled(gateway: Gateway, journal: Journal) -> JournalledTools | None:
    """The gateway's tools as steps of ``journal``; None where it has none."""
    tools = gateway.tools
    if tools is None:
        return None
    found = JournalledTools(tools.tools, tools.servers, tools.outputs, tools.shared)
    found.journal = journal
    return found
