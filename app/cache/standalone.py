"""Whether the last turn of a conversation can be understood without the earlier ones.

Earlier turns are part of the partition, so nothing crosses conversations in any case. But within one
"and in winter?" and "and in summer?" lie closer than any verifier should have to tell apart: such
turns get exact look-ups alone. A turn that is wrongly judged dependent costs a hit.
"""

from __future__ import annotations

import re

_MIN_WORDS = 4
_DEPENDENT = re.compile(
    r"""^\W*(?:
        (?:and|but|or|so|then|also|why\s+not|what\s+about|how\s+about|what\s+else|which\s+one)\b
      | (?:it|its|this|that|these|those|they|them|their|he|him|his|she|her|hers|there|here|one)\b
      | (?:yes|yeah|yep|no|nope|ok|okay|sure|please|thanks|thank\s+you|right|correct|exactly)\b
      | (?:continue|go\s+on|more|again|next|proceed|retry|try\s+again|shorter|longer|explain\s+more)\b
      | (?:the\s+(?:first|second|third|last|former|latter|same|other|above|previous|next))\b
      | (?:do|can|could|would|is|are|was|were|does|did|will|should)\s+
        (?:it|this|that|these|those|they|he|she)\b
      | (?:what|who|where|when|why|how|which)\s+(?:is|are|was|were|does|do|did|about|of|can|could)\s+
        (?:it|this|that|these|those|they|them|he|she|him|her)\b
    )""",
    re.IGNORECASE | re.VERBOSE,
)
_POINTING = re.compile(
    r"\b(?:you\s+(?:said|mentioned|wrote|suggested|gave)|as\s+(?:above|before)|(?:the|your)\s+(?:above|previous|last|"
    r"earlier)|(?:rewrite|translate|summari[sz]e|explain|fix|shorten|improve|change|redo|repeat)\s+"
    r"(?:it|this|that|them|these|those))\b",
    re.IGNORECASE,
)
_PRONOUN = re.compile(r"\b(?:it|they|them|their|he|him|she|her|those|these)\b", re.IGNORECASE)


def is_standalone(text: str) -> bool:
    """Whether ``text`` says by itself what it asks. English wording; pure."""
    stripped = text.strip()
    if len(stripped.split()) < _MIN_WORDS:
        return False
    if _DEPENDENT.search(stripped) or _POINTING.search(stripped):
        return False
    return _PRONOUN.search(stripped) is None
