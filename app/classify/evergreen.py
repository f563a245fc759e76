"""P(the answer to a question never changes): evergreen questions, for short questions about the world.

A shipped linear model over words and character n-grams, trained on EverGreenQA, plus 25 binary cue
features ("who is the <role>", superlatives, a past year ...). The training questions rarely say
"last season" or "how many have been", so the penalty for such wording is set by hand: 0.3, unless a past
year pins the question down.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Final

import numpy as np

from app.classify.features import Features
from app.classify.pattern_set import PatternSet, compile_pattern_set
from app.classify.text_classifier import LinearTextClassifier

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

MAX_CHARS: Final = 200
_CHANGE_PENALTY: Final = 0.3

_OLD_YEAR = r"\b(?:1[0-9]{3}|200\d|201\d|202[0-2])\b"
_ROLES = (
    "president|minister|ceo|king|queen|mayor|governor|chancellor|head|leader|director|chairman|chair"
    "|coach|manager|captain|owner|champion|holder|pope|secretary|ambassador|chief|commissioner|speaker"
    "|senator|monarch|principal|editor|member|spouse|wife|husband|girlfriend|boyfriend|partner|dating"
)
_CUES: Final = (
    (
        r"\b(?:current|currently|now|today|at the moment|presently|these days|nowadays|as of|so far|to date"
        r"|yet|still|live|ongoing|at present)\b"
    ),
    r"\b(?:latest|newest|most recent|most recently|recent|recently|upcoming|next|just|new)\b",
    (
        r"\b(?:last|this|past|previous|next) (?:year|month|week|season|night|weekend|decade|quarter|game"
        r"|match|election|tournament|olympics|world cup|super bowl|edition|time|friday|saturday|sunday"
        r"|monday)\b"
    ),
    (
        rf"^(?:who(?:'s| is| are| leads| runs| heads| owns| holds| plays)|what(?:'s| is) the name of the)\b"
        rf".*\b(?:{_ROLES})\b"
    ),
    (
        r"\b(?:most|best|worst|highest|lowest|largest|biggest|smallest|tallest|longest|shortest|richest"
        r"|wealthiest|oldest|youngest|fastest|slowest|heaviest|greatest|top|leading|busiest|deepest|cheapest"
        r"|expensive|popular|famous|deadliest|no\. ?1|number one|number 1|least|fewest|record)\b"
    ),
    (
        r"\b(?:first|original|originally|invented|founded|discovered|wrote|written|composed|painted|built"
        r"|born|died|die|death|killed|buried|signed|assassinated|ended|began|begin|start|started|established"
        r"|created|named)\b"
    ),
    r"\b(?:was|were|did|had)\b",
    r"\b(?:is|are|does|do|has|have)\b",
    r"^(?:who|what|where|which|how \w+)(?:'s| is| are| does| do| has| have)\b",
    r"^(?:who|what|where|which|when|how \w+|in (?:what|which) \w+)(?: \w+){0,3} (?:was|were|did)\b",
    r"^how (?:many|much)\b|\bnumber of\b",
    r"\bhow old (?:is|are)\b|\b(?:age|net worth)\b",
    r"\bhow (?:long|far|tall|big|large|high|deep)\b",
    (
        r"\b(?:price|cost|costs|worth|rate|wage|salary|stock|market|gdp|inflation|revenue|population"
        r"|temperature|weather|ranking|ranked|rank|score|scored|streaming|subscribers|followers|views|sold"
        r"|unemployment|exchange|odds|polls?|box office|grossing)\b"
    ),
    _OLD_YEAR,
    r"\b(?:202[3-9])\b",
    r"\b(?:ever|all[- ]time|in history|history)\b",
    r"\bwill\b|\bgoing to\b",
    r"^when (?:did|was|were)\b",
    r"^when (?:is|are|does|will|'s)\b",
    (
        r"\b(?:won|win|wins|winner|award|grammy|oscar|nobel|championship|cup|medal|season|league|team|play"
        r"|plays|playing|player|episode|episodes|seasons|album|albums|movie|film|song|game)\b"
    ),
    (
        r"\b(?:relationship|married|marry|spouse|children|kids|daughter|son|dating|live|lives|living|reside"
        r"|residence|work for|works for|employer|play for|plays for|net worth)\b"
    ),
    (
        r"\b(?:mean|meaning|definition|stand for|stands for|formula|symbol|element|capital|located|location"
        r"|flow|made of|consist|consists|composed|called|term|theorem|law|chemical|planet|language|word)\b"
    ),
    r"\bwhat if\b|\bwhy\b|\bhow (?:do|does|did|to)\b",
    (
        r"\b(?:in the world|worldwide|in the us|in the united states|of all time|on earth|globally"
        r"|in history)\b"
    ),
)
_TITLE = r"['\"“\u2018][A-Z]"
_CHANGE_CUES: Final = (
    (
        r"\b(?:current(?:ly)?|now|today|tonight|nowadays|at the moment|at present|the present|these days"
        r"|latest|newest|most recent(?:ly)?|recently|upcoming|next|so far|to date|as of"
        r"|(?:this|last|past) (?:year|month|week|season|decade|night|weekend)(?:'s)?|years ago"
        r"|how long (?:has|have|ago)|is it$|still|left in|future|since)\b(?! \d{4})"
    ),
    r"\b(?:'s|the|did .{1,40}) last\b(?! name| words?| letter| emperor| czar| tsar)",
    (
        r"\b(?:has|have) (?:\w+ ){0,3}been\b|\bhow many\b.*\b(?:has|have)\b|\bhow many\b.*\bare there\b"
        r"|\bhow (?:old|tall|rich) (?:is|are)\b"
    ),
    (
        r"\b(?:ceo|president|prime minister|mayor|governor|coach|manager|captain|director general"
        r"|secretary[- ]general|sheriff|speaker|chancellor|richest|wealthiest|fastest"
        r"|most[- ](?:viewed|watched|subscribed|followed|popular|expensive|recent|valuable|visited)"
        r"|number one|no\. 1)\b"
    ),
)
CUE_COLUMNS: Final = len(_CUES) + 1
"""The number of cue features that the model was fitted with."""


_OLD_YEAR_AT: Final = _CUES.index(_OLD_YEAR)
# Without lookahead, which RE2 does not have, and without the end: a superset of what `_CHANGE_CUES` matches.
_CHANGE_CUES_LINEAR: Final = tuple(
    re.sub(r"\(\?!.*\)$", "", each).replace("is it$", "is it") for each in _CHANGE_CUES
)


class EvergreenScorer:
    """Scores short questions; its patterns are compiled once a process. About 30 us a question."""

    __slots__ = (
        "_changes",
        "_cue_weights",
        "_cues",
        "_head",
        "_old_year",
        "_pattern_set",
        "_title",
    )

    def __init__(self, head: LinearTextClassifier | None) -> None:
        """`head`: a fitted model; None while it is being fitted (only `cues` may be called then)."""
        self._head = head
        self._cue_weights: list[float] = [] if head is None else head.model.first_dense.tolist()
        self._cues = tuple(re.compile(cue).search for cue in _CUES)
        self._pattern_set = _cue_patterns()
        self._changes = re.compile("|".join(_CHANGE_CUES)).search
        self._old_year = re.compile(_OLD_YEAR).search
        self._title = re.compile(_TITLE).search

    def cues(self, text: str) -> Floats:
        """The cue features float64[CUE_COLUMNS] of a question: 1 where a cue matches."""
        out = np.zeros(CUE_COLUMNS)
        out[self._read(text)[0]] = 1.0
        return out

    def score(self, features: Features) -> float:
        """Roughly P(the answer never changes)."""
        if self._head is None:
            raise RuntimeError("evergreen: no model has been fitted or loaded")
        cues, changes = self._read(features.text)
        weights = self._cue_weights
        score = self._head.score(features) + sum([weights[each] for each in cues])
        return score - _CHANGE_PENALTY if changes else score

    def _read(self, text: str) -> tuple[list[int], bool]:
        """The indices of the matching cues, and whether the wording says that the answer changes."""
        plain = _plain(text)
        title = self._title(text[:MAX_CHARS]) is not None
        if not plain.isascii():  # beyond it, RE2's word boundaries are not Python's
            cues = [at for at, cue in enumerate(self._cues) if cue(plain) is not None]
            changes = self._says_change(plain) and self._old_year(plain) is None
        else:
            found = self._pattern_set(plain) or ()
            cues = [at for at in found if at < len(_CUES)]
            may_change = len(cues) < len(found) and _OLD_YEAR_AT not in cues
            changes = may_change and self._says_change(plain)
        return ([*cues, CUE_COLUMNS - 1] if title else cues), changes

    def _says_change(self, plain: str) -> bool:
        return self._changes(plain.rstrip("? ")) is not None


@cache
def _cue_patterns() -> PatternSet:
    """All cues, then the candidates of `_CHANGE_CUES`, as one pattern set. Compiled once a process: it does
    not depend on the configuration.
    """
    return compile_pattern_set((*_CUES, *_CHANGE_CUES_LINEAR))


def _plain(text: str) -> str:
    return text[:MAX_CHARS].lower().replace("\u2019", "'")
