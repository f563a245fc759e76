"""Answers that decline: right for one request perhaps, never an answer to keep for other words.

A refusal that the vendor marks never gets here. One in plain words looks like any answer, and near
questions often get the same one, so it would gather agreement and serve where a model would have
answered. Only the opening decides: an answer that declines says so at once.
"""

from __future__ import annotations

import re
from typing import Final

_OPENING_CHARS: Final = 160
_DECLINES: Final = re.compile(
    r"\b(?:i(?:'| a)m (?:very |really |so )?(?:sorry|afraid|unable|not able|not comfortable)"
    r"|(?:i )?(?:can ?not|can't|won't|will not|couldn't|could not) (?:help|assist|answer|provide"
    r"|comply|do that|discuss|share|access|browse|fulfil+)"
    r"|i must decline|i do(?:n't| not) have (?:access|the ability|real-time)"
    r"|as an ai\b|sorry, (?:but )?i\b|unfortunately, i (?:can|am|do))",
    re.IGNORECASE,
)


def refuses(text: str) -> bool:
    """Whether ``text`` opens by declining."""
    return _DECLINES.search(text[:_OPENING_CHARS].replace("\u2019", "'")) is not None
