"""What the simulated model answers: a deterministic function of the question, and checkable.

An answer begins with the model's name and a digest of the whole conversation and restates the
question, so that a test (or a person) sees at once when one question got another's answer. The
rest is plain filler prose, chosen by the digest, as long as the model's profile says.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

import orjson

from app.providers.simulator.json_instance import instance_of
from app.providers.simulator.profile import SIM_FAST, SIM_POWERFUL, ModelProfile
from app.providers.simulator.question import (
    Entry,
    Limits,
    Question,
    Role,
    conversation_digest,
    normalised,
)
from app.providers.simulator.tokens import pieces
from app.providers.simulator.tool_use import ToolCall, choose_calls

Finish = Literal["stop", "length", "stop_sequence", "tool_calls", "refusal"]

_QUOTED_CHARACTERS = 240
_RESULT_CHARACTERS = 400
REFUSAL = "I can't help with that request."

_SUBJECTS = (
    "The first step", "A careful reading", "The usual practice", "One common mistake",
    "The shortest path", "A good test", "The main cost", "Each part of it", "The other side",
    "A simple rule", "The evidence so far", "What matters most",
)  # fmt: skip
_VERBS = (
    "depends on", "starts with", "comes before", "is easier than", "follows from", "points to",
    "leaves room for", "is measured by", "should not replace", "makes plain", "rests on",
)  # fmt: skip
_OBJECTS = (
    "a clear goal", "the numbers at hand", "what was asked", "a second look", "the known limits",
    "the order of events", "an honest estimate", "the people involved", "a small experiment",
    "the simplest case", "time and patience", "the rest of the plan",
)  # fmt: skip
_CLOSINGS = (
    "", ", and that is enough here", ", at least at first", ", whatever the scale",
    ", as most guides agree", ", though exceptions exist", " in the end",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer, cut into the tokens that will be streamed."""

    reasoning: tuple[str, ...]
    text: tuple[str, ...]
    calls: tuple[ToolCall, ...]
    finish: Finish
    stop_sequence: str | None = None

    @property
    def output_tokens(self) -> int:
        """All tokens generated, those of the reasoning included."""
        return len(self.reasoning) + len(self.text) + sum(len(c.pieces) for c in self.calls)


def reply_to(question: Question, *, refuse: bool = False, variant: int = 0) -> Reply:
    """Answer a question: by tool calls, by JSON, or by prose; cut at the limits it sets.

    `variant` makes the second and later choices of one request differ from the first.
    """
    digest = question.digest
    if variant:
        digest = blake2b(digest + variant.to_bytes(2, "big"), digest_size=16).digest()
    reasoning = _reasoning(question, digest)
    if refuse:
        return Reply((), pieces(REFUSAL), (), "refusal")
    calls = choose_calls(question)
    if calls:
        return _cut_calls(reasoning, calls, question.limits)
    if question.schema is not None:
        text = orjson.dumps(instance_of(question.schema, digest)).decode()
    else:
        text = _prose(question.profile, question.text, digest, question.tool_results)
    return _cut(reasoning, text, question.limits)


def expected_answer(
    question: str,
    model: str | ModelProfile,
    *,
    system: str = "",
    history: Sequence[tuple[Role, str]] = (),
) -> str:
    """The full text that a simulated model answers to plain text, without limits, tools or JSON.

    `history` holds earlier (role, text) pairs, oldest first. `model` is `sim-fast`, `sim-powerful`
    or a profile. Raises `KeyError` for another name.
    """
    profile = _BUILT_IN[model] if isinstance(model, str) else model
    entries = [Entry("system", "text", system)] if system else []
    entries += [Entry(role, "text", text) for role, text in history]
    entries.append(Entry("user", "text", question))
    asked = Question(profile, tuple(entries)).text
    return _prose(profile, asked, conversation_digest(profile.name, entries), ())


_BUILT_IN = {profile.name: profile for profile in (SIM_FAST, SIM_POWERFUL)}


def _prose(profile: ModelProfile, question: str, digest: bytes, results: Sequence[Entry]) -> str:
    """The answer's text: name, digest, question, tool results, and filler."""
    sentences = [f'[{profile.name} {digest[:4].hex()}] You asked: "{_quoted(question)}".']
    for result in results:
        said = normalised(result.text)[:_RESULT_CHARACTERS]
        sentences.append(f"{result.name or 'The tool'} says: {said}.")
    length = len(pieces(" ".join(sentences)))
    for sentence in _filler(digest):
        if length >= profile.answer_tokens:
            break
        length += len(pieces(" " + sentence))
        sentences.append(sentence)
    return " ".join(sentences)


def _quoted(question: str) -> str:
    if len(question) <= _QUOTED_CHARACTERS:
        return question
    return question[:_QUOTED_CHARACTERS].rstrip() + "..."


def _filler(seed: bytes) -> Iterator[str]:
    """An endless sequence of sentences, determined by the seed."""
    state = int.from_bytes(seed[:8], "big") | 1
    while True:
        # Knuth's MMIX generator: a few integer operations, where `random` costs ten times more.
        state = (state * 6364136223846793005 + 1442695040888963407) & 0xFFFFFFFFFFFFFFFF
        left, subject = divmod(state >> 16, len(_SUBJECTS))
        left, verb = divmod(left, len(_VERBS))
        left, thing = divmod(left, len(_OBJECTS))
        closing = left % len(_CLOSINGS)
        yield f"{_SUBJECTS[subject]} {_VERBS[verb]} {_OBJECTS[thing]}{_CLOSINGS[closing]}."


def _reasoning(question: Question, digest: bytes) -> tuple[str, ...]:
    """Exactly as many reasoning tokens as requested."""
    if question.reasoning_tokens == 0:
        return ()
    found = pieces(f'The question is "{_quoted(question.text)}".')
    for sentence in _filler(digest[::-1]):
        if len(found) >= question.reasoning_tokens:
            break
        found += pieces(" " + sentence)
    return found[: question.reasoning_tokens]


def _cut(reasoning: tuple[str, ...], text: str, limits: Limits) -> Reply:
    """Apply the stop sequences, then the token limit."""
    finish: Finish = "stop"
    ends = [(at, stop) for stop in limits.stop if (at := text.find(stop)) >= 0]
    stop_sequence = None
    if ends:
        at, stop_sequence = min(ends)
        text, finish = text[:at], "stop_sequence"
    tokens = pieces(text)
    if limits.max_tokens is not None and len(reasoning) + len(tokens) > limits.max_tokens:
        reasoning = reasoning[: limits.max_tokens]
        tokens = tokens[: limits.max_tokens - len(reasoning)]
        finish, stop_sequence = "length", None
    return Reply(reasoning, tokens, (), finish, stop_sequence)


def _cut_calls(reasoning: tuple[str, ...], calls: tuple[ToolCall, ...], limits: Limits) -> Reply:
    """Drop the calls that exceed the limits: a call is complete or absent."""
    if limits.max_tokens is None:
        return Reply(reasoning, (), calls, "tool_calls")
    reasoning = reasoning[: limits.max_tokens]
    left = limits.max_tokens - len(reasoning)
    fitting: list[ToolCall] = []
    for call in calls:
        left -= len(call.pieces)
        if left < 0:
            return Reply(reasoning, (), tuple(fitting), "length")
        fitting.append(call)
    return Reply(reasoning, (), calls, "tool_calls")
