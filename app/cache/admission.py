"""Admission to the semantic cache: which questions it may answer, and which answers it may store.

What the exact cache admits is decided where a flight ends (``app.pipeline.flights``: complete answers only)
and at the first hit (``app.classify.cacheability``).

Refusals are excluded: one that the vendor marks never gets here, but one in plain words looks like any
answer, and near questions often get the same one, so it would gather agreement and be served where a model
would have answered. Only the opening is searched: an answer that declines says so at once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from app.cache.semantic import MAX_CHARS
from app.cache.standalone import is_standalone
from app.domain.decisions import Classification, PromptView
from app.domain.events import Answer, FinishReason, TextBlock

_OPENING_CHARS: Final = 160
_DECLINES: Final = re.compile(
    r"\b(?:i(?:'| a)m (?:very |really |so )?(?:sorry|afraid|unable|not able|not comfortable)"
    r"|(?:i )?(?:can ?not|can't|won't|will not|couldn't|could not) (?:help|assist|answer|provide"
    r"|comply|do that|discuss|share|access|browse|fulfil+)"
    r"|i must decline|i do(?:n't| not) have (?:access|the ability|real-time)"
    r"|as an ai\b|sorry, (?:but )?i\b|unfortunately, i (?:can|am|do))",
    re.IGNORECASE,
)


_MAX_TEMPERATURE: Final = 1.0
"""Above it a caller wants variety, not the answer to another wording."""
_COMPLETE: Final = frozenset({FinishReason.STOP, FinishReason.STOP_SEQUENCE})


def admits_question(
    view: PromptView, classification: Classification, body: Mapping[str, object]
) -> bool:
    """Whether the answer to another wording of this question may be considered at all."""
    text = view.text.strip()
    if not classification.semantic_ok or not text or len(text) > MAX_CHARS:
        return False
    if view.has_images or view.after_tool_result or view.tool_names:
        return False
    if view.turns > 1 and not is_standalone(text):
        return False
    temperature = body.get("temperature")
    return not isinstance(temperature, int | float) or temperature <= _MAX_TEMPERATURE


def admits_answer(answer: Answer) -> bool:
    """Whether an answer may be stored for other wordings: complete, text alone, and no refusal."""
    if answer.finish not in _COMPLETE or not answer.text.strip() or refuses(answer.text):
        return False
    return all(isinstance(block, TextBlock) for block in answer.blocks)


def refuses(text: str) -> bool:
    """Whether ``text`` opens by declining."""
    return _DECLINES.search(text[:_OPENING_CHARS].replace("\u2019", "'")) is not None
