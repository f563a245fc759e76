"""Whether two answers say the same: the comparison that makes the labels.

Models word the same answer differently each time, so equality of bytes would call most right hits
wrong and nothing would ever be certified; a loose comparison would certify wrong ones. This one
leans to "differs": typed differences (numbers, names, negation, opposites, roles) decide first,
then the overlap of content words. A label that is wrongly "differs" costs a hit; one that is
wrongly "same" costs the bound. Long answers are compared on their content alone.

Where a judge model or a task's own check (equal tool calls, equal JSON) exists, use that instead:
the decision only sees groups of agreeing answers.
"""

from __future__ import annotations

from typing import Final

from app.cache.guards import compare
from app.cache.text_view import analyse

_MIN_OVERLAP: Final = 0.6
_SHORT_WORDS: Final = 40  # beyond, roles and single opposites say little about the whole
# Layout and quotes differ between answers that say the same.
_PRESENTATION: Final = frozenset({"marks", "quoted", "accent", "case", "form", "asked", "quantity"})
_TYPED: Final = frozenset({"number", "id", "date", "unit", "name"})


def answers_agree(a: str, b: str) -> bool:
    """Whether two answers' texts agree; symmetric, pure."""
    if " ".join(a.split()).casefold() == " ".join(b.split()).casefold():
        return True
    left, right = analyse(a), analyse(b)
    if not left.content or not right.content:
        return False
    seen = compare(left, right)
    short = max(len(left.words), len(right.words)) <= _SHORT_WORDS
    if (
        any(d.kind in _TYPED or (short and d.kind not in _PRESENTATION) for d in seen.vetoes)
        or left.numbers != right.numbers
    ):
        return False
    shared = len(left.content & right.content)
    return shared / max(len(left.content), len(right.content)) >= _MIN_OVERLAP
