"""Exact arithmetic in a request: a small recursive-descent parser over rationals, never `eval`.

Bounds make every input cheap: 80 characters, 15 digits a number, exponents up to 64, values up to
10^40, nesting up to 12. Input outside them, or that may mean something else ("24/7", "9/11",
"(555)-123-4567", "2024-01-05 + 30", "3!", "0x10"), is declined, and a model answers. So is 0^0, and
outside an English sentence "1.234", which is a thousand in many locales.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction

from app.lanes.rules import Case, Groups, Rule

_MAX_CHARS = 80
_MAX_DIGITS = 15
_MAX_EXPONENT = 64
_MAX_VALUE = 10**40
_MAX_DEPTH = 12
_SHOWN_DECIMALS = 10

_TOKEN = re.compile(r"\s*(?:(\d[\d,]*(?:\.\d+)?|\.\d+)|(\*\*|[-+*/^()×÷·−xX]))")
_GROUPED = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+")
_SPELLED = {"×": "*", "·": "*", "x": "*", "X": "*", "÷": "/", "−": "-", "^": "**"}
_OPERATION = re.compile(r"[\d)]\s*(?:[-+*/^×÷·−]|[xX])\s*[\d(.+-]")
_LOOKS_LIKE_A_NAME = re.compile(r"\d+[-/xX]\d+(?:[-/xX]\d+)*")
_AROUND_A_NAME = str.maketrans("", "", "+()")  # of a telephone number
_A_DATE = re.compile(r"(?<!\d)(?:\d{4}-\d{1,2}-\d{1,2}|\d{1,2}([-/.])\d{1,2}\1(?:19|20)\d\d)(?!\d)")
_HEXADECIMAL = re.compile(r"(?<!\d)0[xX]\d")
_PARTS_THOUSANDS_OR_DECIMALS = re.compile(r"(?<![\d.,])[1-9]\d{0,2}\.\d{3}(?![\d.,])")

_ASK = (
    r"(?:what(?:'s|’s|\s+is|\s+are)|how\s+much\s+(?:is|are)|"
    r"(?P<order>calculate|compute|evaluate|work\s+out))"
)


_Value = int | Fraction
"""Whole numbers stay ints: a Fraction costs ten times as much."""
_Token = int | Fraction | str


class _NoValueError(Exception):
    """The text is no expression, or leaves the bounds."""


class _DivisionByZeroError(Exception):
    """The expression is well formed but has no value."""


def evaluate(expression: str) -> int | Fraction | None:
    """The exact value of an expression of + - * / ** ( ), or None when it is none or out of bounds.

    Raises ZeroDivisionError when it divides by zero.
    """
    if len(expression) > _MAX_CHARS:
        return None
    try:
        parser = _Parser(_tokens(expression))
        value = parser.sum(0)
    except _NoValueError:
        return None
    except _DivisionByZeroError as exc:
        raise ZeroDivisionError(f"{expression!r} divides by zero") from exc
    return value if parser.done else None


def format_value(value: int | Fraction) -> tuple[str, bool]:
    """A value as decimal text, and whether that text is exact (else rounded to 10 digits)."""
    if value.denominator == 1:
        return str(value.numerator), True
    scaled = value * 10**_SHOWN_DECIMALS
    if scaled.denominator == 1:
        whole, rest = divmod(abs(scaled.numerator), 10**_SHOWN_DECIMALS)
        sign = "-" if value < 0 else ""
        return f"{sign}{whole}.{rest:0{_SHOWN_DECIMALS}d}".rstrip("0"), True
    return f"{float(value):.10g}", False


class _Parser:
    """Recursive descent: sum > product > sign > power > atom. Each value is checked for its size."""

    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens = tokens
        self._at = 0

    @property
    def done(self) -> bool:
        return self._at == len(self._tokens)

    def sum(self, depth: int) -> _Value:
        value = self._product(depth)
        while (sign := self._peek()) in {"+", "-"}:
            self._at += 1
            other = self._product(depth)
            value = _bounded(value + other if sign == "+" else value - other)
        return value

    def _product(self, depth: int) -> _Value:
        value = self._signed(depth)
        while (sign := self._peek()) in {"*", "/"}:
            self._at += 1
            other = self._signed(depth)
            if sign == "/" and not other:
                raise _DivisionByZeroError
            value = _bounded(value * other if sign == "*" else _divided(value, other))
        return value

    def _signed(self, depth: int) -> _Value:
        if depth > _MAX_DEPTH:
            raise _NoValueError
        if self._peek() in {"+", "-"}:
            sign = self._tokens[self._at]
            self._at += 1
            value = self._signed(depth + 1)
            return -value if sign == "-" else value
        return self._power(depth)

    def _power(self, depth: int) -> _Value:
        base = self._atom(depth)
        if self._peek() != "**":
            return base
        self._at += 1
        exponent = self._signed(depth + 1)  # right-associative, and may carry a sign
        if exponent.denominator != 1 or abs(exponent.numerator) > _MAX_EXPONENT:
            raise _NoValueError
        if not base and exponent < 0:
            raise _DivisionByZeroError
        if not base and not exponent:  # 1 to some, undefined to others
            raise _NoValueError
        size = max(base.numerator.bit_length(), base.denominator.bit_length())
        if size * abs(exponent.numerator) > 4 * _MAX_VALUE.bit_length():
            raise _NoValueError
        power = base**exponent.numerator if exponent >= 0 else Fraction(base) ** exponent.numerator
        return _bounded(power)

    def _atom(self, depth: int) -> _Value:
        part = self._peek()
        self._at += 1
        if part is not None and not isinstance(part, str):
            return part
        if part == "(":
            value = self.sum(depth + 1)
            if self._peek() != ")":
                raise _NoValueError
            self._at += 1
            return value
        raise _NoValueError

    def _peek(self) -> _Token | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None


def _tokens(text: str) -> list[_Token]:
    tokens: list[_Token] = []
    at, text = 0, text.rstrip()
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise _NoValueError
        at = found.end()
        tokens.append(_number(found[1]) if found[1] else _SPELLED.get(found[2], found[2]))
    return tokens


def _number(text: str) -> _Value:
    plain = text.replace(",", "")
    leading_zero = len(plain) > 1 and plain[0] == "0" and plain[1] != "."
    if not _GROUPED.fullmatch(text) or leading_zero or len(plain) > _MAX_DIGITS + 1:
        raise _NoValueError
    return int(plain) if plain.isdigit() else Fraction(plain)


def _divided(value: _Value, by: _Value) -> _Value:
    return value // by if value % by == 0 else Fraction(value) / by


def _bounded(value: _Value) -> _Value:
    if abs(value.numerator) > _MAX_VALUE or value.denominator > _MAX_VALUE:
        raise _NoValueError
    return value


def _answer(groups: Groups) -> str | None:
    expression = " ".join(groups["expression"].split())
    if _is_ambiguous(expression, groups) or _OPERATION.search(expression) is None:
        return None
    try:
        value = evaluate(expression)
    except ZeroDivisionError:
        return f"{expression} is undefined: it divides by zero."
    if value is None:
        return None
    text, exact = format_value(value)
    return f"{expression} {'=' if exact else '≈'} {text}"


def _is_ambiguous(expression: str, groups: Groups) -> bool:
    """Whether it may be a name, a telephone number, a date, or a number in another notation."""
    if "order" not in groups and "equals" not in groups:
        if _LOOKS_LIKE_A_NAME.fullmatch(expression.translate(_AROUND_A_NAME)):
            return True
        if "ask" not in groups and not any(mark in expression for mark in "+*×÷^("):
            return True
    if "ask" not in groups and has_ambiguous_separator(expression):
        return True
    return _A_DATE.search(expression) is not None or _HEXADECIMAL.search(expression) is not None


def has_ambiguous_separator(text: str) -> bool:
    """Whether a number in it means one thing in English and another where a point parts thousands."""
    return _PARTS_THOUSANDS_OR_DECIMALS.search(text) is not None


def _percent(groups: Groups) -> str | None:
    try:
        share, whole = _number(groups["share"]), _number(groups["whole"])
    except _NoValueError:
        return None
    text, exact = format_value(Fraction(share * whole) / 100)
    return f"{groups['share']}% of {groups['whole']} {'=' if exact else '≈'} {text}"


def _root(groups: Groups) -> str | None:
    try:
        value = _number(groups["radicand"])
    except _NoValueError:
        return None
    top, bottom = math.isqrt(value.numerator), math.isqrt(value.denominator)
    if top * top == value.numerator and bottom * bottom == value.denominator:
        text, exact = format_value(Fraction(top, bottom))
    else:
        text, exact = f"{math.sqrt(value):.10g}", False
    return f"√{groups['radicand']} {'=' if exact else '≈'} {text}"


_NUMBER = r"(?:\d[\d,]*(?:\.\d+)?|\.\d+)"

ARITHMETIC_RULES = (
    Rule(
        "arithmetic",
        rf"(?:(?P<ask>{_ASK})\s*:?\s+)?"
        r"(?P<expression>[-+(−]*[\d.][-+*/^()×÷·−xX\d.,\s]*[\d)])\s*(?P<equals>=\s*)?[?.]?",
        _answer,
        (
            Case("What is 12 * (3 + 4)?", "12 * (3 + 4) = 84"),
            Case("17 + 25", "17 + 25 = 42"),
            Case("calculate 10 / 4", "10 / 4 = 2.5"),
            Case("1/3 =", "1/3 ≈ 0.3333333333"),
            Case("2^10?", "2^10 = 1024"),
            Case("What is 7 / 0?", "7 / 0 is undefined: it divides by zero."),
            Case("What is 9/11?", None),
            Case("what is 24/7", None),
            Case("555-1234", None),
            Case("2024-01-05", None),
            Case("What is 9**9**9?", None),
            Case("(555)-123-4567", None),
            Case("2024-10-12 + 30", None),
            Case("3 * 5!", None),
        ),
    ),
    Rule(
        "percentage",
        rf"(?:{_ASK}\s+)?(?P<share>{_NUMBER})\s*(?:%|percent)\s+of\s+(?P<whole>{_NUMBER})\s*[?.=]?",
        _percent,
        (Case("What is 15% of 80?", "15% of 80 = 12"), Case("15% of my salary", None)),
    ),
    Rule(
        "square_root",
        rf"(?:{_ASK}\s+)?(?:the\s+)?(?:square\s+root\s+of|sqrt\s*\(?)\s*(?P<radicand>{_NUMBER})\s*\)?\s*[?.=]?",
        _root,
        (
            Case("What is the square root of 144?", "√144 = 12"),
            Case("sqrt(2)", "√2 ≈ 1.414213562"),
        ),
    ),
)
"""Arithmetic, percentages and square roots."""
