"""The vendor's diagnosis of a prompt-cache miss: requested, parsed, and compared with our own cause.

Anthropic compares a request with the one whose answer id it is given, and says where they differ; so does
OpenAI's Responses API. Both compare the requests themselves, whether or not the cache was hit, and both may
not know. The diagnosis only verifies the cause that this gateway found.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from app.domain.chat import Dialect
from app.domain.events import AnswerStarted, Event, Finished, Frames, WholeBody
from app.prompts.breakpoints import with_field
from app.prompts.causes import MissCause
from app.prompts.prefix import RenderedPrompt

UNCHANGED = "unchanged"
"""The vendor sees no difference."""
_OPEN = frozenset({"", "pending", "previous_message_not_found"})
"""Reasons without a verdict: not asked, not compared yet, nothing to compare with."""
_UNAVAILABLE = "unavailable"
_DIAGNOSIS_EVENTS = (b'"message_start"', b'"response.completed"', b'"response.incomplete"')
"""The events that hold an answer's id and the diagnosis."""
_NO_CHANGE = frozenset({"expired", "not_marked", "evicted"})
"""Causes of ours that are no difference between requests."""
_TOOLS = frozenset({"tools_changed"})
_OTHERWISE = frozenset({_UNAVAILABLE})
_TOOL_RULES = ("tool_order", "key_order", "changed_tool", "added_tool", "removed_tool")
_REASONS: Mapping[Dialect, Mapping[str, frozenset[str]]] = {
    Dialect.MESSAGES: {
        "model_switch": frozenset({"model_changed"}),
        "speed_changed": frozenset({"model_changed"}),
        **dict.fromkeys(_TOOL_RULES, _TOOLS),
        "volatile_system": frozenset({"system_changed"}),
        "changed_system": frozenset({"system_changed"}),
        "volatile_message": frozenset({"messages_changed"}),
        "changed_history": frozenset({"messages_changed"}),
        "shortened_history": frozenset({"messages_changed"}),
        # Anthropic says so of every other parameter that is rendered.
        "tool_choice_changed": _OTHERWISE,
        "thinking_changed": _OTHERWISE,
    },
    Dialect.RESPONSES: {
        "model_switch": frozenset({"model_changed"}),
        "key_changed": frozenset({"prompt_cache_key_changed"}),
        **dict.fromkeys(_TOOL_RULES, _TOOLS),
        # One field holds the form and the verbosity there.
        "format_changed": frozenset({"text_format_changed", "verbosity_changed"}),
        "effort_changed": frozenset({"reasoning_effort_changed"}),
        "service_tier_changed": frozenset({"service_tier_changed"}),
        "volatile_system": frozenset({"input_changed"}),
        "changed_system": frozenset({"input_changed"}),
        "volatile_message": frozenset({"input_changed"}),
        "changed_history": frozenset({"input_changed"}),
        "shortened_history": frozenset({"context_compacted", "input_changed"}),
    },
}
"""By dialect: the vendor's reasons for each of our causes; the others have none."""
KNOWN_REASONS = frozenset(
    {"", "pending", UNCHANGED, _UNAVAILABLE, "previous_message_not_found"}
    | {word for rules in _REASONS.values() for words in rules.values() for word in words}
)
"""All known vendor reasons, normalised."""


def client_asks(rendered: RenderedPrompt) -> bool:
    """Whether the client itself requests a diagnosis."""
    if rendered.dialect is Dialect.MESSAGES:
        return "diagnostics" in rendered.fields
    at = rendered.fields.get("prompt_cache_options")
    return at is not None and b'"comparison_response_id"' in rendered.raw[at.start : at.end]


def with_diagnosis_request(body: bytes, rendered: RenderedPrompt, last_id: str) -> bytes:
    """``body`` with a request for a diagnosis against the answer ``last_id``; "" = the first. The prefix is
    unchanged.
    """
    if rendered.dialect is Dialect.MESSAGES:
        return with_field(body, b"diagnostics", {"previous_message_id": last_id or None})
    if rendered.dialect is not Dialect.RESPONSES or not last_id:
        return body
    if "prompt_cache_options" in rendered.fields:
        return body  # the client's own options stay as they are
    return with_field(body, b"prompt_cache_options", {"comparison_response_id": last_id})


class VendorDiagnosis:
    """An answer's id and diagnosis, read from its events."""

    __slots__ = ("_dialect", "answer_id", "reason")

    def __init__(self, dialect: Dialect) -> None:
        """Read events of an upstream of ``dialect``."""
        self._dialect = dialect
        self.answer_id = ""
        self.reason = ""
        """The vendor's reason, one of ``KNOWN_REASONS`` or a new one; "" = none."""

    def read(self, event: Event) -> None:
        """Read one event; never raises."""
        match event:
            case Frames(data) if any(mark in data for mark in _DIAGNOSIS_EVENTS):
                for line in data.splitlines():
                    if line.startswith(b"data:"):
                        self._document(line[5:], nested=True)
            case WholeBody(body):
                self._document(body, nested=False)
            case AnswerStarted():
                self.answer_id = event.id
                self._read_diagnosis(event.diagnostics)
            case Finished() if event.diagnostics is not None:
                self._read_diagnosis(event.diagnostics)
            case _:
                pass

    def _document(self, data: bytes, *, nested: bool) -> None:
        try:
            told = msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return
        if nested and isinstance(told, dict):
            told = told.get("message") or told.get("response")
        if not isinstance(told, dict):
            return
        self.answer_id = str(told.get("id") or self.answer_id)
        own = "diagnostics" if self._dialect is Dialect.MESSAGES else "prompt_cache_diagnostics"
        if own in told:
            self._read_diagnosis(told[own])

    def _read_diagnosis(self, told: object) -> None:
        """Read the vendor's object; None means that it found no difference."""
        if self._dialect is Dialect.MESSAGES:
            reason = told.get("cache_miss_reason") if isinstance(told, dict) else None
            if told is None:
                self.reason = UNCHANGED
            else:
                self.reason = str(reason.get("type")) if isinstance(reason, dict) else "pending"
        elif isinstance(told, dict):
            kind = str(told.get("type"))
            self.reason = {
                "cache_hit": UNCHANGED,
                "comparison_response_not_found": "previous_message_not_found",
                "cache_miss": str(told.get("reason")),
            }.get(kind, kind)


def verdict(ours: MissCause | None, word: str, dialect: Dialect) -> str:
    """``agree`` or ``differ``; ``open`` where the vendor does not say."""
    rule = "" if ours is None or ours.rule in _NO_CHANGE else ours.rule
    words = _REASONS.get(dialect, {}).get(rule, _OTHERWISE if rule else frozenset({UNCHANGED}))
    if word in words:
        return "agree"
    return "open" if word in _OPEN or word == _UNAVAILABLE else "differ"
