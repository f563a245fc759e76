"""Precomputed skeletons: long answers of which only a few words depend on the request.

A skeleton's text stands ready; its slots are filled from the request (the named groups of the
pattern) or by one short call of the fast model, which is asked for all missing slots at once, as
JSON. What needs no model is a complete answer at once; for the rest the caller makes the call, and
may already stream the text up to the first open slot (`head`). Matching is a rule's: anchored, RE2.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.lanes.rules import (
    MAX_RULES,
    MAX_TEXT_CHARS,
    LaneRuleError,
    TemplatePart,
    compile_pattern,
    template_parts,
)

MAX_SLOT_CHARS = 2_000


@dataclass(frozen=True, slots=True)
class Slot:
    """A gap for the model: what to put there, and how long it may be, in characters."""

    name: str
    hint: str
    max_chars: int = 200


@dataclass(frozen=True, slots=True)
class SkeletonCase:
    """A promise: `text` with these `values` from the model is answered with `answer`; None = declined."""

    text: str
    answer: str | None
    values: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Skeleton:
    """An RE2 `pattern` for the whole request, and a `template` of text, `{group}` and `{slot}`."""

    name: str
    pattern: str
    template: str
    slots: tuple[Slot, ...] = ()
    cases: tuple[SkeletonCase, ...] = ()
    ignore_case: bool = True


@dataclass(frozen=True, slots=True)
class Draft:
    """A matched skeleton: its text with the request's words in, and the slots that stay open."""

    skeleton: str
    pieces: tuple[str | Slot, ...]

    @property
    def open_slots(self) -> tuple[Slot, ...]:
        """The slots that the model must fill, each once, in the order in which they appear."""
        slots = [piece for piece in self.pieces if isinstance(piece, Slot)]
        return tuple(dict.fromkeys(slots))

    @property
    def head(self) -> str:
        """The text that is certain already: up to the first open slot."""
        out: list[str] = []
        for piece in self.pieces:
            if isinstance(piece, Slot):
                break
            out.append(piece)
        return "".join(out)

    def instruction(self) -> str:
        """What to ask the fast model, beside the request itself: one JSON object of short strings."""
        wanted = {
            slot.name: f"{slot.hint} (at most {slot.max_chars} characters)"
            for slot in self.open_slots
        }
        return (
            "Fill these fields for the user's request. Answer with one JSON object of strings, these"
            f" keys and nothing else: {json.dumps(wanted, ensure_ascii=False)}"
        )

    def fill(self, answer: str) -> str | None:
        """The whole answer from the model's JSON; None when it is not what was asked for."""
        told = answer.strip()
        if told.startswith("```") and told.endswith("```"):
            told = told.strip("`").removeprefix("json")
        try:
            values = json.loads(told)
        except (ValueError, RecursionError):
            return None
        if not isinstance(values, dict):
            return None
        texts: dict[str, str] = {}
        for slot in self.open_slots:
            value = values.get(slot.name)
            if not isinstance(value, str) or not value.strip() or len(value) > slot.max_chars:
                return None
            texts[slot.name] = value.strip()
        return self.render(texts)

    def render(self, values: Mapping[str, str]) -> str:
        """Put `values` into the open slots. Raises KeyError when one is missing."""
        return "".join(
            piece if isinstance(piece, str) else values[piece.name] for piece in self.pieces
        )


class Skeletons:
    """The loaded skeletons; the first whose pattern matches the whole request is used."""

    def __init__(self, skeletons: Sequence[Skeleton]) -> None:
        """Compile and run the cases. Raises LaneRuleError naming the first faulty skeleton."""
        if len(skeletons) > MAX_RULES:
            raise LaneRuleError(
                f"lanes: {len(skeletons)} skeletons; at most {MAX_RULES} are allowed"
            )
        names = [skeleton.name for skeleton in skeletons]
        for name in names:
            if names.count(name) > 1:
                raise LaneRuleError(f"lanes: two skeletons are named {name!r}; rename one")
        self._loaded = tuple((one, compile_pattern(one), _parts(one)) for one in skeletons)
        for skeleton in skeletons:
            self._check(skeleton)

    def match(self, text: str) -> Draft | None:
        """The draft of an answer, or None. Never raises."""
        if len(text) > MAX_TEXT_CHARS:
            return None
        text = text.strip()
        for skeleton, pattern, parts in self._loaded:
            try:
                found = pattern.fullmatch(text)
            except UnicodeEncodeError:  # lone surrogates: not text that any skeleton speaks of
                return None
            if found is not None:
                slots = {slot.name: slot for slot in skeleton.slots}
                groups = found.groupdict()
                pieces = tuple(_piece(part, slots, groups) for part in parts)
                return Draft(skeleton.name, pieces)
        return None

    def _check(self, skeleton: Skeleton) -> None:
        for case in skeleton.cases:
            draft = self.match(case.text)
            mine = draft if draft is not None and draft.skeleton == skeleton.name else None
            values = dict(case.values)
            missing = (
                [] if mine is None else [s.name for s in mine.open_slots if s.name not in values]
            )
            if missing:
                raise LaneRuleError(
                    f"lanes: skeleton {skeleton.name!r}: its test case {case.text!r} gives no value for"
                    f" {', '.join(missing)}"
                )
            got = None if mine is None else mine.render(values)
            if got != case.answer:
                raise LaneRuleError(
                    f"lanes: skeleton {skeleton.name!r} fails its test case {case.text!r}:"
                    f" expected {case.answer!r}, got {got!r}"
                )


def _parts(skeleton: Skeleton) -> tuple[TemplatePart, ...]:
    parts = template_parts(skeleton.name, skeleton.template)
    groups = set(compile_pattern(skeleton).groupindex)
    slots = {slot.name for slot in skeleton.slots}
    for part in parts:
        if part.group is not None and part.group not in groups | slots:
            raise LaneRuleError(
                f"lanes: skeleton {skeleton.name!r}: {{{part.group}}} is neither a group of the"
                f" pattern ({sorted(groups)}) nor a slot ({sorted(slots)})"
            )
    for slot in skeleton.slots:
        if slot.name in groups:
            raise LaneRuleError(
                f"lanes: skeleton {skeleton.name!r}: {slot.name!r} is both a group and a slot"
            )
        if not 1 <= slot.max_chars <= MAX_SLOT_CHARS:
            raise LaneRuleError(
                f"lanes: skeleton {skeleton.name!r}: slot {slot.name!r}: max_chars must lie in"
                f" 1..{MAX_SLOT_CHARS}, got {slot.max_chars}"
            )
    return parts


def _piece(
    part: TemplatePart, slots: Mapping[str, Slot], groups: Mapping[str, str | None]
) -> str | Slot:
    if part.group is None:
        return part.text
    return slots[part.group] if part.group in slots else groups[part.group] or ""
