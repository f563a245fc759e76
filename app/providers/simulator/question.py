"""What a request asks, in no dialect's words: the input of the simulated model.

Three dialects are parsed into the same `Question`, and the answer depends on nothing else. So one
conversation gets one answer, whichever dialect carried it: if a gateway's translation loses or
changes a message, a tool call or an image, the answer changes and the test sees it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Literal

from app.providers.simulator.fields import JsonObject
from app.providers.simulator.profile import ModelProfile

Role = Literal["system", "user", "assistant"]
EntryKind = Literal["text", "media", "tool_call", "tool_result"]
ChoiceMode = Literal["none", "auto", "required", "named"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One piece of the conversation. `name` is the tool's, where there is one."""

    role: Role
    kind: EntryKind
    text: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that the model may call; `parameters` is its JSON schema."""

    name: str
    description: str
    parameters: JsonObject


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Whether and which tools must be called, and whether several may be at once."""

    mode: ChoiceMode = "auto"
    name: str = ""
    parallel: bool = True


@dataclass(frozen=True, slots=True)
class Limits:
    """Where the output ends: `max_tokens` counts reasoning too; None leaves it to the model."""

    max_tokens: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Question:
    """A request as the model sees it."""

    profile: ModelProfile
    entries: tuple[Entry, ...]
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = field(default_factory=ToolChoice)
    limits: Limits = field(default_factory=Limits)
    reasoning_tokens: int = 0
    """How many tokens the model thinks before it answers."""
    schema: JsonObject | None = None
    """When set, the answer is a JSON value that obeys it; `{}` asks for any object."""

    @property
    def text(self) -> str:
        """What the user asked last: the text after the assistant's last own words."""
        texts: list[str] = []
        for entry in reversed(self.entries):
            if entry.role == "assistant" and entry.kind == "text" and texts:
                break
            if entry.role == "user" and entry.kind == "text":
                texts.append(entry.text)
        return normalised(" ".join(reversed(texts)))

    @property
    def tool_results(self) -> tuple[Entry, ...]:
        """The tool results since the assistant spoke last, in order; often none."""
        found: list[Entry] = []
        for entry in reversed(self.entries):
            if entry.role == "assistant":
                break
            if entry.kind == "tool_result":
                found.append(entry)
        return tuple(reversed(found))

    @property
    def digest(self) -> bytes:
        """Sixteen bytes that stand for the model and the whole normalised conversation."""
        return conversation_digest(self.profile.name, self.entries)


def normalised(text: str) -> str:
    """`text` with each run of white space as one space, and none at the ends."""
    return " ".join(text.split())


def conversation_digest(model: str, entries: Sequence[Entry]) -> bytes:
    """Hash a conversation so that the dialects agree: system first, neighbouring text joined."""
    ordered = [e for e in entries if e.role == "system"]
    ordered += [e for e in entries if e.role != "system"]
    running = blake2b(model.encode(), digest_size=16)
    previous: tuple[str, str] | None = None
    for entry in ordered:
        head = (entry.role, entry.kind)
        joined = head == previous and entry.kind == "text"
        running.update(b" " if joined else f"\0{entry.role}\0{entry.kind}\0{entry.name}\0".encode())
        running.update(normalised(entry.text).encode("utf-8", "surrogatepass"))
        previous = head
    return running.digest()
