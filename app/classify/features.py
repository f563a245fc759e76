"""Feature extraction: hashed words and bigrams, and a dense row of counts and shares; no model, no network.

Plan: the text is truncated (first 1,100 + last 500 characters: what a question is about stands at its ends)
and split at white space. Each piece ("country?") is looked up in a cache: its tokens' crc32, and a code for
each counted property (a digit, a bracket, a word about time). Only pieces that are not cached are tokenised
by the regular expression. Words and bigrams are hashed into 2^16 columns for the linear models; counts and
shares make the dense row for the trees. A request of 2,000 tokens costs about 0.2 ms.

Invariant: the features depend on the text and the counts of the request alone, so that what one worker
learned holds for every other.
"""

from __future__ import annotations

import math
import re
import struct
from functools import cache
from typing import TYPE_CHECKING, NamedTuple
from zlib import crc32

import numpy as np

from app.classify.pattern_set import PatternSet, compile_pattern_set
from app.domain.decisions import PromptView
from app.domain.language import LANGUAGE_INDEXES_OF_WORD, LANGUAGES, language_by_votes
from app.learn.hashed_linear import HASH_BITS, HASH_COLUMNS

if TYPE_CHECKING:
    from numpy.typing import NDArray

HEAD_CHARS, TAIL_CHARS = 1_100, 500
# As zero-dimensional arrays: numpy takes a third longer to convert a scalar.
_MASK = np.array(HASH_COLUMNS - 1, dtype=np.uint32)
_HIGH_BITS = np.array(HASH_BITS, dtype=np.uint32)
_PAIR_MULTIPLIER = np.array(0x9E3779B1, dtype=np.uint32)

_UINT32, _BOOL, _INTP = np.dtype(np.uint32), np.dtype(np.bool_), np.dtype(np.intp)

# Bytes, not characters: hashing needs bytes anyway, and every class below is ASCII.
_TOKEN = re.compile(rb"[a-z]+|[0-9]+(?:[.,][0-9]+)*|[\x80-\xff]+|[^\sa-z0-9]")
_CODE = re.compile(
    r"```|\bdef \w+\(|\bclass \w+[:({]|\bimport \w+|\bfunction\b[^\n]{0,80}\{|==|\bassert |;\s*\n"
    r"|#include|\bSELECT\b.{1,200}?\bFROM\b"
)
_LATEX = re.compile(r"\\[a-zA-Z$]|\$[^$\n]{1,60}\$(?!\d)")
# RE2 has no lookahead: this consumes the character that follows.
_LATEX_LINEAR = r"\\[a-zA-Z$]|\$[^$\n]{1,60}\$(?:[^\d]|\z)"
# The marker of a line that is an option (first group) or a bullet.
_LISTED = re.compile(r"\n[ \t]*(?:(\(?[A-E][.):])|[-*•]|\d{1,2}[.)])(?=\s)")
_LONG_WORD_OVER = 7  # letters
_FEW_BRACKETS = 2
_CACHED_PIECES, _CACHED_PIECE_BYTES = 40_000, 24  # about 10 MB

_WORD_CLASSES: dict[str, str] = {
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
_WORD_CLASS_NAMES = tuple(_WORD_CLASSES)

# Counters of a text: long words, numbers, words common in a language, word classes, languages, byte classes.
_LONG, _NUMBER, _COMMON_WORD, _KIND = 0, 1, 2, 3
_LANGUAGE = _KIND + len(_WORD_CLASSES)
_BYTE = _LANGUAGE + len(LANGUAGES)
_BYTE_CLASSES = (
    *(b"0123456789", b"(", b"[{", b"+=*^/", b";_<>", b"\\$", b"?", b"\"'"),
    bytes(range(0x80, 0x100)),
)
_COUNTERS = _BYTE + len(_BYTE_CLASSES) + 1
_CLASS_OF_BYTE = bytes(
    _BYTE + next((at for at, each in enumerate(_BYTE_CLASSES) if byte in each), len(_BYTE_CLASSES))
    for byte in range(256)
)
_UPPER = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_LOWER = _UPPER.lower()
_packed = struct.Struct("=I").pack
_LAST_CRC = 0xFFFFFF00
_LAST_CRC_ARRAY = np.array(_LAST_CRC, dtype=np.uint32)
# Characters that are a token by themselves, whatever is beside them.
_SINGLE_CHAR_TOKENS = frozenset(range(0x80)) - frozenset(b" \t\n\r\f\v0123456789" + _UPPER + _LOWER)


def _counter_code(count: int) -> bytes:
    """The code of a counter in a piece's record: a number that no word's crc32 is clipped to."""
    return _packed(_LAST_CRC + 1 + count)


def _counters_of_words() -> dict[bytes, bytes]:
    """By word, the codes of its word classes and languages; words in none are left out."""
    found: dict[bytes, bytes] = {}
    for at, words in enumerate(_WORD_CLASSES.values(), _KIND):
        for word in set(words.encode().split()):
            found[word] = found.get(word, b"") + _counter_code(at)
    for word, places in LANGUAGE_INDEXES_OF_WORD.items():
        lanes = (_COMMON_WORD, *(_LANGUAGE + place for place in places))
        found[word] = found.get(word, b"") + b"".join(map(_counter_code, lanes))
    return found


_IS_LONG, _IS_NUMBER = _counter_code(_LONG), _counter_code(_NUMBER)
_COUNTERS_OF_WORD = _counters_of_words()

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
    *(f"{name}_share" for name in _WORD_CLASS_NAMES),
    "turns",
    "log_total_chars",
    "log_system_chars",
    "tools",
    "wants_json",
    "log_max_tokens",
)
DENSE_COLUMNS = len(DENSE_NAMES)
# Logarithms of all counts that a truncated text can have: a look-up costs a twentieth.
_LOG_OF_COUNT = [math.log1p(count) for count in range(HEAD_CHARS + TAIL_CHARS + 2)]
_DENSE = struct.Struct(f"{DENSE_COLUMNS}d")


class Features(NamedTuple):
    """One request as numbers. A tuple, as a frozen dataclass takes four times as long to create.

    `dense`: float64[DENSE_COLUMNS], named by DENSE_NAMES. `hashed`: distinct column numbers
    int[k] of its words and bigrams, each below 2^16. `text`: truncated. `language`: of its ASCII words, where
    clear. `lowered`: the truncated text as UTF-8, its ASCII letters in lower case.
    """

    dense: NDArray[np.float64]
    hashed: NDArray[np.intp]
    text: str
    language: str | None
    lowered: bytes


def truncate_middle(text: str) -> str:
    """The first 1,100 and last 500 characters of a text; all of it when it is not longer."""
    if len(text) <= HEAD_CHARS + TAIL_CHARS:
        return text
    return f"{text[:HEAD_CHARS]}\n{text[-TAIL_CHARS:]}"


def extract(view: PromptView) -> Features:
    """Extract the features. Never raises, whatever the text; bounded, as the text is truncated."""
    text = truncate_middle(view.text)
    data = text.encode("utf-8", "replace")
    lowered = data.lower()
    pieces = lowered.split()
    codes = np.frombuffer(b"".join(map(_piece_record, pieces)), _UINT32)
    hashes = codes[codes <= _LAST_CRC_ARRAY]
    counters = np.maximum(codes, _LAST_CRC_ARRAY)
    counts = np.bincount(
        np.subtract(counters, _LAST_CRC_ARRAY, counters), None, _COUNTERS + 1
    ).tolist()[1:]
    distinct_share = len(set(pieces)) / max(1, len(pieces))
    sizes = len(b"".join(pieces)), len(hashes), distinct_share
    return Features(
        _dense(view, text, data, sizes, counts),
        _columns(hashes),
        text,
        language_by_votes(counts[_COMMON_WORD], counts[_LANGUAGE:_BYTE]),
        lowered,
    )


class _PieceCache(dict[bytes, bytes]):
    """Records of lower-case pieces without white space, native uint32 each: the tokens' crc32, and a code for
    each counted property.

    A cache of a pure function: it is cleared when full.
    """

    def __missing__(self, piece: bytes) -> bytes:
        if len(piece) > _CACHED_PIECE_BYTES:
            return _encode(piece)
        record = _encode_word(piece) if piece.isalpha() else self._encode_marked(piece)
        if len(self) >= _CACHED_PIECES:
            self.clear()
        self[piece] = record
        return record

    def _encode_marked(self, piece: bytes) -> bytes:
        """A piece with punctuation at its end or beginning is that character and the rest, mostly cached."""
        if len(piece) > 1:
            if piece[-1] in _SINGLE_CHAR_TOKENS:
                return self[piece[:-1]] + self[piece[-1:]]
            if piece[0] in _SINGLE_CHAR_TOKENS:
                return self[piece[:1]] + self[piece[1:]]
        return _encode(piece)


_piece_record = _PieceCache().__getitem__


def _encode_word(word: bytes) -> bytes:
    """The record of a token without its byte classes."""
    record = _packed(min(crc32(word), _LAST_CRC)) + _COUNTERS_OF_WORD.get(word, b"")
    return record + _IS_LONG if len(word) > _LONG_WORD_OVER else record


def _encode(piece: bytes) -> bytes:
    """The record of any piece."""
    words = _TOKEN.findall(piece)
    record = [_encode_word(word) for word in words]
    record += [_IS_NUMBER for word in words if word.isdigit()]
    record += [_counter_code(at) for at in piece.translate(_CLASS_OF_BYTE, _LOWER)]
    return b"".join(record)


def _columns(hashes: NDArray[np.uint32]) -> NDArray[np.intp]:
    """Distinct columns of the words and bigrams."""
    count = len(hashes)
    both = np.empty(max(0, 2 * count - 1), _UINT32)
    both[:count] = hashes
    pairs = both[count:]
    np.multiply(hashes[:-1], _PAIR_MULTIPLIER, pairs)
    pairs ^= hashes[1:]
    pairs += pairs >> _HIGH_BITS
    both &= _MASK
    return sorted_unique(both)


def sorted_unique(columns: NDArray[np.uint32]) -> NDArray[np.intp]:
    """Sorted distinct numbers; a third of np.unique's time at these sizes. Sorts in place."""
    columns.sort()
    if len(columns) < 2:  # noqa: PLR2004
        return columns.astype(np.intp)
    keep = np.empty(len(columns), _BOOL)
    keep[0] = True
    np.not_equal(columns[1:], columns[:-1], keep[1:])
    return columns[keep].astype(_INTP)


def _dense(
    view: PromptView, text: str, data: bytes, sizes: tuple[int, int, float], counts: list[int]
) -> NDArray[np.float64]:
    """The dense row. `sizes`: bytes without white space, tokens, share of distinct pieces."""
    visible, words, distinct_share = sizes
    count, size = max(1, words), max(1, len(data))
    digits, opened, brackets, operators, marks, latex, asked, quotes, high, _ = counts[_BYTE:]
    letters = visible - sum(counts[_BYTE:])
    upper = len(data) - len(data.translate(None, _UPPER))
    lines = data.count(b"\n")
    listed = _LISTED.findall(text) if lines else ()
    bullets = listed.count("")
    markup = _markup(text) if latex or opened > _FEW_BRACKETS else ()
    log, log_of = math.log1p, _LOG_OF_COUNT
    row = _DENSE.pack(
        log(len(view.text)),
        log_of[words],
        letters / max(1, count - counts[_NUMBER]),
        counts[_LONG] / count,
        distinct_share,
        log_of[counts[_NUMBER]],
        digits / size,
        log_of[operators],
        log_of[brackets + opened],
        log_of[marks],
        log_of[latex],
        log_of[lines],
        log_of[asked],
        log_of[data.count(b". ") + data.count(b".\n")],
        log_of[quotes],
        upper / size,
        high / size,
        float(len(listed) - bullets),
        log_of[bullets],
        float(opened > _FEW_BRACKETS and 0 in markup),
        float(latex > 0 and 1 in markup),
        *[kind / count for kind in counts[_KIND:_LANGUAGE]],
        log(view.turns),
        log(view.total_chars),
        log(len(view.system)) if view.system else 0.0,
        log(len(view.tool_names)) if view.tool_names else 0.0,
        float(view.wants_json),
        log(view.max_tokens) if view.max_tokens else 0.0,
    )
    return np.frombuffer(row)


def _markup(text: str) -> list[int]:
    """Whether a text looks like code (0) or LaTeX (1). By RE2 in a sixth of the time where the text is ASCII:
    beyond it RE2's word boundaries are not Python's.
    """
    if text.isascii():
        return _markup_linear()(text) or []
    return [at for at, each in enumerate((_CODE, _LATEX)) if each.search(text) is not None]


@cache
def _markup_linear() -> PatternSet:
    """Both patterns as one set; compiled once a process."""
    return compile_pattern_set((_CODE.pattern, _LATEX_LINEAR))
