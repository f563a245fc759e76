"""What a request looks like in numbers: one pass over its words, no model, no network.

Plan: the text is capped (first 1,100 + last 500 characters: what a question is about stands at its
ends), split by one regular expression, and each word is looked up once in one dictionary of word
kinds. Words and word pairs are hashed (crc32) into 2^18 columns for the linear heads; counts and
shares make the dense row for the trees. A request of 2,000 tokens costs about 0.2 ms.

Invariant: the features depend on the text and the counts of the request alone, so that what was
learned by one worker holds for every other.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from zlib import crc32

import numpy as np

from app.domain.decisions import PromptView

if TYPE_CHECKING:
    from numpy.typing import NDArray

HEAD_CHARS, TAIL_CHARS = 1_100, 500
HASH_BITS = 18
_MASK = (1 << HASH_BITS) - 1
_PAIR_MULTIPLIER = np.uint32(0x9E3779B1)

_TOKEN = re.compile(r"[^\W\d_]+|\d+(?:[.,]\d+)*|[^\w\s]")
_OPTION = re.compile(r"(?m)^\s*\(?[A-E][.):]\s")
_BULLET = re.compile(r"(?m)^\s*(?:[-*•]|\d{1,2}[.)])\s")
_LONG_WORD_CHARS = 8

_KINDS: dict[str, str] = {
    "code": """code function python java javascript typescript rust golang sql regex class def import return
        algorithm implement compile debug bug stack exception array string html css api json yaml bash
        script assert lambda loop variable output input print github docker kubernetes async""",
    "maths": """equation integral derivative solve prove proof theorem matrix vector polynomial probability
        triangle angle circle radius sum product factor prime integer fraction percent ratio average
        limit function compute calculate modulo remainder permutation combination square root sqrt frac
        total many twice half double area volume graph set group ring field""",
    "constraint": """must should exactly only least most without never always include ensure format limit
        avoid between maximum minimum except following following each every constraint require""",
    "reasoning": """why explain analyze analyse compare evaluate derive infer deduce reason justify prove
        discuss implications consequence trade tradeoff design plan strategy optimize optimise step
        critique hypothesis therefore because argue""",
    "creative": """write story poem essay song lyrics blog creative dialogue novel speech letter joke
        slogan imagine fictional character""",
    "lookup": """who when where which what whose name capital define definition meaning list year
        country city author invented founded located""",
    "transform": """translate summarize summarise rewrite rephrase extract classify convert correct
        grammar spelling shorten paraphrase proofread label tag sentiment""",
    "expert": """statute plaintiff defendant clause jurisdiction liability diagnosis patient clinical
        enzyme protein molecule quantum thermodynamic voltage equilibrium monetary elasticity theory
        treaty syndrome mutation philosophy moral ethical doctrine""",
    "action": """send book order buy cancel delete remove create update schedule turn open close set
        call play start stop post submit pay transfer reserve remind email upload download install""",
    "time": """today now current currently latest recent tonight tomorrow yesterday week month live
        news price weather status forecast stock score""",
}
_KIND_NAMES = tuple(_KINDS)
_KIND_OF: dict[str, tuple[int, ...]] = {}
for _at, _words in enumerate(_KINDS.values()):
    for _word in set(_words.split()):
        _KIND_OF[_word] = (*_KIND_OF.get(_word, ()), _at)

DENSE_NAMES: tuple[str, ...] = (
    "log_chars",
    "log_words",
    "mean_word_chars",
    "long_word_share",
    "distinct_share",
    "numbers",
    "digit_share",
    "operators",
    "brackets",
    "code_marks",
    "latex_marks",
    "newlines",
    "question_marks",
    "sentences",
    "quotes",
    "upper_share",
    "other_script_share",
    "options",
    "bullets",
    "code_fence",
    *(f"{name}_share" for name in _KIND_NAMES),
    "turns",
    "log_total_chars",
    "log_system_chars",
    "tools",
    "wants_json",
    "log_max_tokens",
)
DENSE_COLUMNS = len(DENSE_NAMES)
KIND_START = DENSE_NAMES.index("code_share")


@dataclass(frozen=True, slots=True)
class Features:
    """One request as numbers.

    `dense`: float64[DENSE_COLUMNS], named by DENSE_NAMES. `hashed`: distinct column numbers int[k] of
    its words and word pairs, each below 2^18. `words`: the lowered tokens of the capped text.
    """

    dense: NDArray[np.float64]
    hashed: NDArray[np.intp]
    words: tuple[str, ...]
    text: str


def cap(text: str) -> str:
    """The first 1,100 and last 500 characters of a text; all of it when it is not longer."""
    if len(text) <= HEAD_CHARS + TAIL_CHARS:
        return text
    return f"{text[:HEAD_CHARS]}\n{text[-TAIL_CHARS:]}"


def extract(view: PromptView) -> Features:
    """Read a request once. Never raises, whatever the text; bounded by the cap."""
    text = cap(view.text)
    words = _TOKEN.findall(text.lower())
    hashes = np.array([crc32(word.encode("utf-8", "replace")) for word in words], dtype=np.uint32)
    return Features(_dense(view, text, words), _columns(hashes), tuple(words), text)


def _columns(hashes: NDArray[np.uint32]) -> NDArray[np.intp]:
    """Distinct columns of words (odd multipliers apart from) pairs of neighbouring words."""
    pairs = hashes[:-1] * _PAIR_MULTIPLIER ^ hashes[1:]
    both = np.concatenate((hashes, pairs + (pairs >> np.uint32(HASH_BITS))))
    return np.unique(both & np.uint32(_MASK)).astype(np.intp)


def _dense(view: PromptView, text: str, words: list[str]) -> NDArray[np.float64]:
    chars, count = max(1, len(text)), max(1, len(words))
    kinds = [0] * len(_KIND_NAMES)
    letters = long = numbers = plain = 0
    for word in words:
        if word in _KIND_OF:
            for kind in _KIND_OF[word]:
                kinds[kind] += 1
        size = len(word)
        first = word[0]
        if first.isalpha():
            plain += 1
            letters += size
            long += size >= _LONG_WORD_CHARS
        elif first.isdigit():
            numbers += 1
    marks = text.count
    upper = sum(map(str.isupper, text))
    return np.array(
        (
            math.log1p(len(view.text)),
            math.log1p(len(words)),
            letters / max(1, plain),
            long / count,
            len(set(words)) / count,
            math.log1p(numbers),
            numbers / count,
            math.log1p(marks("+") + marks("=") + marks("*") + marks("^") + marks("/")),
            math.log1p(marks("(") + marks("[") + marks("{")),
            math.log1p(marks(";") + marks("_") + marks("->") + marks("==") + marks("<")),
            math.log1p(marks("\\") + marks("$")),
            math.log1p(marks("\n")),
            math.log1p(marks("?")),
            math.log1p(marks(". ") + marks(".\n")),
            math.log1p(marks('"') + marks("'")),
            upper / chars,
            0.0 if text.isascii() else sum(letter > "\u02ff" for letter in text) / chars,
            float(len(_OPTION.findall(text))),
            math.log1p(len(_BULLET.findall(text))),
            float("```" in text),
            *(kind / count for kind in kinds),
            math.log1p(view.turns),
            math.log1p(view.total_chars),
            math.log1p(len(view.system)),
            math.log1p(len(view.tool_names)),
            float(view.wants_json),
            math.log1p(view.max_tokens or 0),
        ),
        dtype=np.float64,
    )
