"""What a request looks like in numbers: one pass over its words, no model, no network.

Plan: the text is capped (first 1,100 + last 500 characters: what a question is about stands at its
ends), split by one regular expression, and each word is looked up once in one dictionary of word
kinds. Words and word pairs are hashed (crc32) into 2^16 columns for the linear heads; counts and
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
import re2

from app.domain.decisions import PromptView
from app.learn.hashed_linear import HASH_BITS, HASH_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

HEAD_CHARS, TAIL_CHARS = 1_100, 500
_MASK = np.uint32(HASH_COLUMNS - 1)
_HIGH_BITS = np.uint32(HASH_BITS)
_PAIR_MULTIPLIER = np.uint32(0x9E3779B1)

# Bytes, not characters: hashing needs bytes anyway, and every class below is ASCII.
_TOKEN = re.compile(rb"[a-z]+|[0-9]+(?:[.,][0-9]+)*|[\x80-\xff]+|[^\sa-z0-9]")
_CODE = re.compile(
    r"```|\bdef \w+\(|\bclass \w+[:({]|\bimport \w+|\bfunction\b[^\n]{0,80}\{|==|\bassert |;\s*\n"
    r"|#include|\bSELECT\b.{1,200}?\bFROM\b"
)
_CODE_LINEAR: Callable[[str], object] = re2.compile(_CODE.pattern).search
_LATEX = re.compile(r"\\[a-zA-Z$]|\$[^$\n]{1,60}\$(?!\d)")
_OPTION = re.compile(r"\n[ \t]*\(?[A-E][.):]\s")
_BULLET = re.compile(r"\n[ \t]*(?:[-*•]|\d{1,2}[.)])\s")
_SHORT = 7  # letters; longer words are called long
_FEW_BRACKETS = 2
_REMEMBERED_WORDS, _REMEMBERED_BYTES = 1 << 14, 32  # about 2 MB

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
    "hard": """prove proof derive rigorous rigorously theorem optimize optimise refactor debug deadlock
        concurrency distributed scalable architecture complexity tradeoff tradeoffs migrate formal
        formally""",
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


def _kinds_of_words() -> dict[bytes, tuple[int, ...]]:
    kinds: dict[bytes, tuple[int, ...]] = {}
    for at, words in enumerate(_KINDS.values()):
        for word in set(words.encode().split()):
            kinds[word] = (*kinds.get(word, ()), at)
    return kinds


_KIND_OF = _kinds_of_words()
_HASH = 4
_RECORD = _HASH + len(_KINDS) + 2
_UPPER = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_LOWER = _UPPER.lower()
_DIGITS = b"0123456789"
_HIGH = bytes(range(0x80, 0x100))

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
    "looks_like_code",
    "looks_like_latex",
    *(f"{name}_share" for name in _KIND_NAMES),
    "turns",
    "log_total_chars",
    "log_system_chars",
    "tools",
    "wants_json",
    "log_max_tokens",
)
DENSE_COLUMNS = len(DENSE_NAMES)


@dataclass(frozen=True, slots=True)
class Features:
    """One request as numbers.

    `dense`: float64[DENSE_COLUMNS], named by DENSE_NAMES. `hashed`: distinct column numbers
    int[k] of its words and word pairs, each below 2^16. `words`: the lowered tokens, as UTF-8, of the
    capped text.
    """

    dense: NDArray[np.float64]
    hashed: NDArray[np.intp]
    words: tuple[bytes, ...]
    text: str


def cap(text: str) -> str:
    """The first 1,100 and last 500 characters of a text; all of it when it is not longer."""
    if len(text) <= HEAD_CHARS + TAIL_CHARS:
        return text
    return f"{text[:HEAD_CHARS]}\n{text[-TAIL_CHARS:]}"


def extract(view: PromptView) -> Features:
    """Read a request once. Never raises, whatever the text; bounded by the cap."""
    text = cap(view.text)
    data = text.encode("utf-8", "replace")
    words = _TOKEN.findall(data.lower())
    table = np.frombuffer(b"".join(map(_record, words)), dtype=np.uint8).reshape(-1, _RECORD)
    hashes = np.ascontiguousarray(table[:, :_HASH]).view(np.uint32).ravel()
    counts = np.add.reduce(table[:, _HASH:], axis=0, dtype=np.uint16).tolist()
    return Features(_dense(view, text, data, words, counts), _columns(hashes), tuple(words), text)


class _Records(dict[bytes, bytes]):
    """What is asked of a word: its crc32, then a byte of 0 or 1 for each kind, for long, for number.

    A memory of a pure function: it is emptied when full, and no answer depends on what is in it.
    """

    def __missing__(self, word: bytes) -> bytes:
        flags = bytearray(_RECORD - _HASH)
        for kind in _KIND_OF.get(word, ()):
            flags[kind] = 1
        flags[-2:] = bytes((len(word) > _SHORT, word.isdigit()))
        record = crc32(word).to_bytes(_HASH, "little") + flags
        if len(word) <= _REMEMBERED_BYTES:
            if len(self) >= _REMEMBERED_WORDS:
                self.clear()
            self[word] = record
        return record


_record = _Records().__getitem__


def _columns(hashes: NDArray[np.uint32]) -> NDArray[np.intp]:
    """Distinct columns of the words and of the pairs of neighbouring words."""
    both = np.empty(max(0, 2 * len(hashes) - 1), dtype=np.uint32)
    both[: len(hashes)] = hashes
    pairs = both[len(hashes) :]
    np.multiply(hashes[:-1], _PAIR_MULTIPLIER, out=pairs)
    pairs ^= hashes[1:]
    pairs += pairs >> _HIGH_BITS
    both &= _MASK
    return distinct(both)


def distinct(columns: NDArray[np.uint32]) -> NDArray[np.intp]:
    """Sorted distinct numbers; a third of np.unique's time at these sizes. Sorts in place."""
    columns.sort()
    keep = np.empty(len(columns), dtype=np.bool_)
    keep[:1] = True
    np.not_equal(columns[1:], columns[:-1], out=keep[1:])
    return columns[keep].astype(np.intp)


def _dense(
    view: PromptView, text: str, data: bytes, words: list[bytes], counts: list[int]
) -> NDArray[np.float64]:
    count = max(1, len(words))
    *kinds, longer, numbers = counts
    upper, digits = _having(data, _UPPER), _having(data, _DIGITS)
    letters = upper + _having(data, _LOWER)
    lines = data.count(b"\n")
    log = math.log1p
    return np.array(
        (
            log(len(view.text)),
            log(len(words)),
            letters / max(1, count - numbers),
            longer / count,
            len(set(words)) / count,
            log(numbers),
            digits / max(1, len(data)),
            log(_having(data, b"+=*^/")),
            log(_having(data, b"([{")),
            log(_having(data, b";_<>")),
            log(_having(data, b"\\$")),
            log(lines),
            log(data.count(b"?")),
            log(data.count(b". ") + data.count(b".\n")),
            log(_having(data, b"\"'")),
            upper / max(1, len(data)),
            0.0 if text.isascii() else _having(data, _HIGH) / len(data),
            float(len(_OPTION.findall(text))) if lines else 0.0,
            log(len(_BULLET.findall(text))) if lines else 0.0,
            float(data.count(b"(") > _FEW_BRACKETS and _reads_as_code(text)),
            float((b"\\" in data or b"$" in data) and _LATEX.search(text) is not None),
            *[kind / count for kind in kinds],
            log(view.turns),
            log(view.total_chars),
            log(len(view.system)),
            log(len(view.tool_names)),
            float(view.wants_json),
            log(view.max_tokens or 0),
        ),
        dtype=np.float64,
    )


def _reads_as_code(text: str) -> bool:
    """By RE2, a sixth of the time; beyond ASCII its word boundaries are not Python's."""
    found = _CODE_LINEAR(text) if text.isascii() else _CODE.search(text)
    return found is not None


def _having(data: bytes, letters: bytes) -> int:
    """How many bytes of `data` are among `letters`; a C loop."""
    return len(data) - len(data.translate(None, letters))
