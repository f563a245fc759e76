"""Why a prompt cache missed, as the vendors' APIs report it: two requests compared by their fingerprints.

Anthropic keeps a fingerprint of each request that holds ``diagnostics``, by its answer's id, and names the
first of model, tools, system and messages that differs; other parameters it calls ``unavailable``. OpenAI's
Responses compare with the answer named in ``prompt_cache_options.comparison_response_id``, in words of their
own. Both look at the requests, whether or not the cache was hit.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import orjson

from app.providers.simulator.fields import JsonObject, optional_object, optional_text

_MOST = 4_096
_BYTES_PER_TOKEN = 4
_MARKS = frozenset({"cache_control", "prompt_cache_breakpoint"})
_OTHERS = ("thinking", "tool_choice", "output_config", "context_management")


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The compared parts of a request: hashes in the order of comparison, and its turns."""

    parts: Mapping[str, bytes]
    turns: tuple[bytes, ...]
    others: bytes
    tokens: int


class Fingerprints:
    """The requests that can be compared with, by the id of their answer."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Fingerprint] = OrderedDict()

    def of_messages(self, answer_id: str, body: JsonObject) -> dict[str, object] | None:
        """The ``diagnostics`` of a Messages answer; None where none was asked for, or nothing differs."""
        if body.get("diagnostics") is None:
            return None
        parts = {
            "model_changed": _hash([body.get("model"), body.get("speed")]),
            "tools_changed": _hash(body.get("tools")),
            "system_changed": _hash(body.get("system")),
        }
        others = _hash([body.get(name) for name in _OTHERS])
        now = _fingerprint(parts, body.get("messages"), others, body)
        last = optional_text(optional_object(body, "diagnostics"), "previous_message_id")
        before = None if last is None else self._kept.get(last)
        self._keep(answer_id, now)
        if last is None:
            return None
        if before is None:
            return {"cache_miss_reason": {"type": "previous_message_not_found"}}
        word = _difference(before, now, "messages_changed")
        if not word:
            if before.others == now.others:
                return None
            return {"cache_miss_reason": {"type": "unavailable"}}
        reason = {"type": word, "cache_missed_input_tokens": before.tokens}
        return {"cache_miss_reason": reason}

    def of_responses(
        self, answer_id: str, body: JsonObject, turns: Sequence[object]
    ) -> dict[str, object] | None:
        """The ``prompt_cache_diagnostics`` of an answer to ``turns``; None where none was asked for."""
        text, reasoning = optional_object(body, "text"), optional_object(body, "reasoning")
        parts = {
            "model_changed": _hash(body.get("model")),
            "prompt_cache_key_changed": _hash(body.get("prompt_cache_key")),
            "tools_changed": _hash(body.get("tools")),
            "text_format_changed": _hash(text.get("format")),
            "reasoning_effort_changed": _hash(reasoning.get("effort")),
            "verbosity_changed": _hash(text.get("verbosity")),
            "service_tier_changed": _hash(body.get("service_tier")),
            "input_changed": _hash(body.get("instructions")),
        }
        now = _fingerprint(parts, list(turns), b"", body)
        options = optional_object(body, "prompt_cache_options")
        last = optional_text(options, "comparison_response_id")
        before = None if last is None else self._kept.get(last)
        self._keep(answer_id, now)
        if last is None:
            return None
        if before is None:
            return {"type": "comparison_response_not_found"}
        word = _difference(before, now, "input_changed")
        if not word:
            return {"type": "cache_hit"}
        if len(now.turns) < len(before.turns):
            word = "context_compacted" if word == "input_changed" else word
        return {"type": "cache_miss", "reason": word, "cache_missed_tokens": before.tokens}

    def _keep(self, answer_id: str, fingerprint: Fingerprint) -> None:
        self._kept[answer_id] = fingerprint
        while len(self._kept) > _MOST:
            self._kept.popitem(last=False)


def _difference(before: Fingerprint, now: Fingerprint, turns: str) -> str:
    """The first part that differs; "" where the turns were only added to."""
    for name, value in now.parts.items():
        if before.parts[name] != value:
            return name
    return "" if now.turns[: len(before.turns)] == before.turns else turns


def _fingerprint(
    parts: Mapping[str, bytes], turns: object, others: bytes, body: JsonObject
) -> Fingerprint:
    row = turns if isinstance(turns, list) else [turns]
    size = len(orjson.dumps(body))
    return Fingerprint(parts, tuple(map(_hash, row)), others, size // _BYTES_PER_TOKEN)


def _hash(value: object) -> bytes:
    return blake2b(orjson.dumps(_unmarked(value)), digest_size=16).digest()


def _unmarked(value: object) -> object:
    """``value`` without breakpoints; a lone text block as the text that it is."""
    if isinstance(value, dict):
        return {name: _unmarked(each) for name, each in value.items() if name not in _MARKS}
    if isinstance(value, list):
        row = [_unmarked(each) for each in value]
        only = row[0] if len(row) == 1 else None
        if isinstance(only, dict) and only.keys() == {"type", "text"}:
            return only["text"]
        return row
    return value
