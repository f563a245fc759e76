"""What a request looks like in numbers: one pass over its words, no model, no network.

Plan: the text is capped (first 1,100 + last 500 characters: what a question is about stands at its
ends) and split at white space, and each piece ("country?") is looked up once in a memory of pieces:
its tokens' crc32, and a byte for each thing in it that is counted (a digit, a bracket, a word about
time). Only pieces that are not remembered are read by the regular expression. Words and word pairs
are hashed into 2^16 columns for the linear heads; counts and shares make the dense row for the trees.
A request of 2,000 tokens costs about 0.2 ms.

Invariant: the features depend on the text and the counts of the request alone, so that what was
learned by one worker holds for every other.
"""

from __future__ import annotations

import math
import re
import struct
import sys
from itertools import chain
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple, TypeAlias
from zlib import crc32

import numpy as np
import re2

from app.domain.decisions import PromptView
from app.domain.language import LANGUAGES, PLACES_OF_WORD, language_of_votes
from app.learn.hashed_linear import HASH_BITS, HASH_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

HEAD_CHARS, TAIL_CHARS = 1_100, 500
# As arrays of no dimension: numpy takes a third longer to read a scalar.
_MASK = np.array(HASH_COLUMNS - 1, dtype=np.uint32)
_HIGH_BITS = np.array(HASH_BITS, dtype=np.uint32)
_PAIR_MULTIPLIER = np.array(0x9E3779B1, dtype=np.uint32)

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
_REMEMBERED_PIECES, _REMEMBERED_BYTES = 1 << 15, 24  # about 8 MB
_Piece: TypeAlias = tuple[bytes, bytes, tuple[bytes, ...]]
_HASHES_OF, _COUNTED_OF, _WORDS_OF = itemgetter(0), itemgetter(1), itemgetter(2)

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

# What is counted of a text: long words, numbers, words common in a language, kinds, languages, and bytes.
_LONG, _NUMBER, _COMMON_WORD, _KIND = 0, 1, 2, 3
_LANGUAGE = _KIND + len(_KINDS)
_BYTE = _LANGUAGE + len(LANGUAGES)
_BYTE_CLASSES = (
    *(b"0123456789", b"(", b"[{", b"+=*^/", b";_<>", b"\\$", b"?", b"\"'"),
    bytes(range(0x80, 0x100)),
)
_COUNTS = _BYTE + len(_BYTE_CLASSES) + 1
_CLASS_OF_BYTE = bytes(
    _BYTE + next((at for at, each in enumerate(_BYTE_CLASSES) if byte in each), len(_BYTE_CLASSES))
    for byte in range(256)
)
_UPPER = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_LOWER = _UPPER.lower()
_IS_LONG, _IS_NUMBER = bytes((_LONG,)), bytes((_NUMBER,))
_HASH = 4


def _counts_of_words() -> dict[bytes, bytes]:
    """A byte for each count of kinds and languages that a word belongs to; words in none are left out."""
    found: dict[bytes, bytes] = {}
    for at, words in enumerate(_KINDS.values(), _KIND):
        for word in set(words.encode().split()):
            found[word] = found.get(word, b"") + bytes((at,))
    for word, places in PLACES_OF_WORD.items():
        lanes = (_COMMON_WORD, *(_LANGUAGE + place for place in places))
        found[word] = found.get(word, b"") + bytes(lanes)
    return found


_COUNTS_OF = _counts_of_words()

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
_DENSE = struct.Struct(f"{DENSE_COLUMNS}d")


class Features(NamedTuple):
    """One request as numbers: a tuple, as a frozen dataclass takes four times as long to make.

    `dense`: float64[DENSE_COLUMNS], named by DENSE_NAMES. `hashed`: distinct column numbers
    int[k] of its words and word pairs, each below 2^16. `text`: capped. `language`: what its words in
    ASCII are clearly in.
    """

    dense: NDArray[np.float64]
    hashed: NDArray[np.intp]
    text: str
    language: str | None
    pieces: list[_Piece]

    @property
    def words(self) -> tuple[bytes, ...]:
        """The lowered tokens of the capped text, as UTF-8."""
        return tuple(chain.from_iterable(map(_WORDS_OF, self.pieces)))


def cap(text: str) -> str:
    """The first 1,100 and last 500 characters of a text; all of it when it is not longer."""
    if len(text) <= HEAD_CHARS + TAIL_CHARS:
        return text
    return f"{text[:HEAD_CHARS]}\n{text[-TAIL_CHARS:]}"


def extract(view: PromptView) -> Features:
    """Read a request once. Never raises, whatever the text; bounded by the cap."""
    text = cap(view.text)
    data = text.encode("utf-8", "replace")
    split = data.lower().split()
    pieces = list(map(_piece, split))
    hashes = np.frombuffer(b"".join(map(_HASHES_OF, pieces)), dtype=np.uint32)
    things = np.frombuffer(b"".join(map(_COUNTED_OF, pieces)), dtype=np.uint8)
    counts = np.bincount(things, minlength=_COUNTS).tolist()
    distinct_share = len(set(split)) / max(1, len(split))
    sizes = len(b"".join(split)), len(hashes), distinct_share
    return Features(
        _dense(view, text, data, sizes, counts),
        _columns(hashes),
        text,
        language_of_votes(counts[_COMMON_WORD], counts[_LANGUAGE:_BYTE]),
        pieces,
    )


class _Pieces(dict[bytes, "_Piece"]):
    """Of a lowered piece of text without white space: its tokens' crc32 end to end, a byte for each thing
    in it that is counted, its tokens.

    A memory of a pure function: it is emptied when full, and no answer depends on what is in it.
    """

    def __missing__(self, piece: bytes) -> _Piece:
        words = (piece,) if piece.isalpha() else tuple(_TOKEN.findall(piece))
        hashes = b"".join([crc32(word).to_bytes(_HASH, sys.byteorder) for word in words])
        counted = [_counts(word) for word in words]
        counted.append(piece.translate(_CLASS_OF_BYTE, _LOWER))
        record = hashes, b"".join(counted), words
        if len(piece) <= _REMEMBERED_BYTES:
            if len(self) >= _REMEMBERED_PIECES:
                self.clear()
            self[piece] = record
        return record


_piece = _Pieces().__getitem__


def _counts(word: bytes) -> bytes:
    """A byte for each count that a word belongs to."""
    known = _COUNTS_OF.get(word, b"")
    if len(word) > _SHORT:
        known += _IS_LONG
    return known + _IS_NUMBER if word.isdigit() else known


def _columns(hashes: NDArray[np.uint32]) -> NDArray[np.intp]:
    """Distinct columns of the words and of the pairs of neighbouring words."""
    count = len(hashes)
    both = np.empty(max(0, 2 * count - 1), dtype=np.uint32)
    both[:count] = hashes
    pairs = both[count:]
    np.multiply(hashes[:-1], _PAIR_MULTIPLIER, pairs)
    pairs ^= hashes[1:]
    pairs += pairs >> _HIGH_BITS
    both &= _MASK
    return distinct(both)


def distinct(columns: NDArray[np.uint32]) -> NDArray[np.intp]:
    """Sorted distinct numbers; a third of np.unique's time at these sizes. Sorts in place."""
    columns.sort()
    if len(columns) < 2:  # noqa: PLR2004
        return columns.astype(np.intp)
    keep = np.empty(len(columns), dtype=np.bool_)
    keep[0] = True
    np.not_equal(columns[1:], columns[:-1], keep[1:])
    return columns[keep].astype(np.intp)


def _dense(
    view: PromptView, text: str, data: bytes, sizes: tuple[int, int, float], counts: list[int]
) -> NDArray[np.float64]:
    """The dense row. `sizes`: bytes that are no white space, tokens, share of different pieces."""
    visible, words, distinct_share = sizes
    count, size = max(1, words), max(1, len(data))
    digits, opened, brackets, operators, marks, latex, asked, quotes, high, _ = counts[_BYTE:]
    letters = visible - sum(counts[_BYTE:])
    upper = len(data) - len(data.translate(None, _UPPER))
    lines = data.count(b"\n")
    log = math.log1p
    row = _DENSE.pack(
        log(len(view.text)),
        log(words),
        letters / max(1, count - counts[_NUMBER]),
        counts[_LONG] / count,
        distinct_share,
        log(counts[_NUMBER]),
        digits / size,
        log(operators),
        log(brackets + opened),
        log(marks),
        log(latex),
        log(lines),
        log(asked),
        log(data.count(b". ") + data.count(b".\n")),
        log(quotes),
        upper / size,
        high / size,
        float(len(_OPTION.findall(text))) if lines else 0.0,
        log(len(_BULLET.findall(text))) if lines else 0.0,
        float(opened > _FEW_BRACKETS and _reads_as_code(text)),
        float(latex > 0 and _LATEX.search(text) is not None),
        *[kind / count for kind in counts[_KIND:_LANGUAGE]],
        log(view.turns),
        log(view.total_chars),
        log(len(view.system)),
        log(len(view.tool_names)),
        float(view.wants_json),
        log(view.max_tokens or 0),
    )
    return np.frombuffer(row)


def _reads_as_code(text: str) -> bool:
    """By RE2, a sixth of the time; beyond ASCII its word boundaries are not Python's."""
    found = _CODE_LINEAR(text) if text.isascii() else _CODE.search(text)
    return found is not None
