"""Unit conversion by exact factors: "convert 10 km to miles", "how many feet are in 3 metres?".

Only units with one meaning are listed: no "ton", no "ounce" of volume, no month or year, no
currency; and a symbol is declined where its capitals make it another unit: "Mg" is no milligram, "Mb" no
megabyte. Volumes are US measures and the answer says so. Factors are the exact legal definitions.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from app.lanes.arithmetic import has_ambiguous_separator
from app.lanes.rules import Case, Groups, Rule

_MAX_DIGITS = 15
_SHOWN_DECIMALS = 6


@dataclass(frozen=True, slots=True)
class _Unit:
    """A unit as `value * factor + offset` of its dimension's base unit, and how it is written."""

    dimension: str
    factor: Fraction
    shown: str
    offset: Fraction = Fraction(0)


_TABLE: tuple[tuple[str, str, str, str], ...] = (
    # dimension, factor to the base unit, how it is shown, spellings
    ("length", "1", "m", "m|metre|meter"),
    ("length", "1000", "km", "km|kilometre|kilometer"),
    ("length", "0.01", "cm", "cm|centimetre|centimeter"),
    ("length", "0.001", "mm", "mm|millimetre|millimeter"),
    ("length", "0.000001", "µm", "µm|micrometre|micrometer|micron"),
    ("length", "1609.344", "mi", "mi|mile"),
    ("length", "0.9144", "yd", "yd|yard"),
    ("length", "0.3048", "ft", "ft|foot|feet"),
    ("length", "0.0254", "in", "inch|inche"),
    ("length", "1852", "nautical miles", "nmi|nautical mile"),
    ("mass", "1", "kg", "kg|kilo|kilogram|kilogramme"),
    ("mass", "0.001", "g", "g|gram|gramme"),
    ("mass", "0.000001", "mg", "mg|milligram"),
    ("mass", "1000", "t", "tonne|metric ton"),
    ("mass", "0.45359237", "lb", "lb|pound"),
    ("mass", "0.028349523125", "oz", "oz|ounce"),
    ("mass", "6.35029318", "st", "stone"),
    ("volume", "1", "L", "l|litre|liter"),
    ("volume", "0.001", "mL", "ml|millilitre|milliliter"),
    ("volume", "3.785411784", "US gal", "gallon|us gallon"),
    ("volume", "0.473176473", "US pt", "us pint"),
    ("volume", "0.2365882365", "US cups", "us cup"),
    ("volume", "0.0295735295625", "US fl oz", "fl oz|fluid ounce|us fluid ounce"),
    ("time", "1", "s", "s|sec|second"),
    ("time", "0.001", "ms", "ms|millisecond"),
    ("time", "60", "min", "min|minute"),
    ("time", "3600", "h", "h|hr|hour"),
    ("time", "86400", "days", "day"),
    ("time", "604800", "weeks", "week"),
    ("speed", "1", "m/s", "m/s|metres per second|meters per second"),
    ("speed", "5/18", "km/h", "km/h|kph|kmh|kilometres per hour|kilometers per hour"),
    ("speed", "0.44704", "mph", "mph|miles per hour"),
    ("speed", "463/900", "kn", "knot"),
    ("data", "1", "bytes", "byte"),
    ("data", "1/8", "bits", "bit"),
    ("data", "1000", "kB", "kb|kilobyte"),
    ("data", "1000000", "MB", "mb|megabyte"),
    ("data", "1000000000", "GB", "gb|gigabyte"),
    ("data", "1000000000000", "TB", "tb|terabyte"),
    ("data", "1024", "KiB", "kib|kibibyte"),
    ("data", "1048576", "MiB", "mib|mebibyte"),
    ("data", "1073741824", "GiB", "gib|gibibyte"),
    ("area", "1", "m²", "m2|m²|square metre|square meter"),
    ("area", "1000000", "km²", "km2|km²|square kilometre|square kilometer"),
    ("area", "0.09290304", "ft²", "ft2|ft²|square foot|square feet|sq ft"),
    ("area", "10000", "ha", "hectare"),
    ("area", "4046.8564224", "acres", "acre"),
)
_DEGREES = (
    ("1", "0", "°C", "c|°c|celsius|degrees celsius|degrees c|degree celsius"),
    ("5/9", "-160/9", "°F", "f|°f|fahrenheit|degrees fahrenheit|degrees f|degree fahrenheit"),
    ("1", "-273.15", "K", "k|kelvin"),
)


def _units() -> dict[str, _Unit]:
    units: dict[str, _Unit] = {}
    for dimension, factor, shown, spellings in _TABLE:
        unit = _Unit(dimension, Fraction(factor), shown)
        for word in spellings.split("|"):
            units[word] = unit
            units[word + "s"] = unit
    for factor, offset, shown, spellings in _DEGREES:
        unit = _Unit("temperature", Fraction(factor), shown, Fraction(offset))
        units.update(dict.fromkeys(spellings.split("|"), unit))
    return units


_UNITS = _units()


_MEGA = frozenset(
    ("m", "mm", "mg", "ml", "ms")
)  # a capital M means millions, or mole, not thousandths
_BITS = frozenset(("kb", "kbs", "mb", "mbs", "gb", "gbs", "tb", "tbs", "kib", "mib", "gib"))


def _another(symbol: str) -> bool:
    """Whether a symbol stands for another unit than the one of its lower-case spelling."""
    lowered = symbol.lower()
    if lowered in _MEGA:
        return symbol[0] == "M"
    if lowered not in _BITS or symbol.rstrip("sS")[-1] == "B":
        return False
    return symbol[0].isupper() or lowered.startswith("kb")  # "mb" in no capitals is a megabyte's


def convert(amount: str, source: str, target: str) -> str | None:
    """Convert `amount source` to `target`, exactly where six decimals suffice, else "≈"; None =
    decline.
    """
    plain = amount.replace(",", "")
    if len(plain) > _MAX_DIGITS or _another(source) or _another(target):
        return None
    value = Fraction(1) if plain.lower() in {"a", "an", "one"} else Fraction(plain)
    unit, wanted = (_UNITS.get(" ".join(name.lower().split())) for name in (source, target))
    if unit is None or wanted is None or unit.dimension != wanted.dimension or unit == wanted:
        return None
    base = value * unit.factor + unit.offset
    if unit.dimension == "temperature" and base < Fraction("-273.15"):
        return None
    result = (base - wanted.offset) / wanted.factor
    text, exact = _shown(result)
    left, _ = _shown(value)
    return f"{left} {unit.shown} {'=' if exact else '≈'} {text} {wanted.shown}"


def _shown(value: Fraction) -> tuple[str, bool]:
    scaled = value * 10**_SHOWN_DECIMALS
    if scaled.denominator == 1:
        decimal = Decimal(value.numerator) / Decimal(value.denominator)
        return f"{decimal.normalize():f}", True
    return f"{float(value):.6g}", False


def _answer(groups: Groups) -> str | None:
    if "ask" not in groups and "count" not in groups and has_ambiguous_separator(groups["amount"]):
        return None
    return convert(groups["amount"], groups["source"], groups["target"])


_AMOUNT = r"(?P<amount>-?\d{1,3}(?:,\d{3})+(?:\.\d+)?|-?\d{1,15}(?:\.\d{1,12})?)"
_UNIT = r"[a-zµ°²/2]+(?:\s+[a-z]+){0,3}?"  # lazy, or "feet are" would be a unit

UNIT_RULES = (
    Rule(
        "unit_conversion",
        r"(?P<ask>(?:please\s+)?convert\s+|what(?:'s|’s|\s+is|\s+are)\s+|how\s+much\s+(?:is|are)\s+)?"
        rf"{_AMOUNT}\s*(?P<source>{_UNIT})\s+(?:to|in|into|as)\s+(?P<target>{_UNIT})\s*[?.!]?",
        _answer,
        (
            Case("Convert 10 km to miles", "10 km ≈ 6.21371 mi"),
            Case("What is 100 F in C?", "100 °F ≈ 37.7778 °C"),
            Case("what is 20°C in fahrenheit?", "20 °C = 68 °F"),
            Case("3 feet in inches", "3 ft = 36 in"),
            Case("convert 10 pounds to euros", None),
            Case("convert 10 kg to miles", None),
            Case("convert 5 ML to L", None),
        ),
    ),
    Rule(
        "unit_count",
        rf"(?P<count>how\s+many)\s+(?P<target>{_UNIT})\s+(?:are\s+|is\s+)?(?:there\s+)?in\s+"
        r"(?P<amount>an?|one|-?\d{1,3}(?:,\d{3})+(?:\.\d+)?|-?\d{1,15}(?:\.\d{1,12})?)\s*"
        rf"(?P<source>{_UNIT})\s*\??",
        _answer,
        (
            Case("How many feet are in 3 meters?", "3 m ≈ 9.84252 ft"),
            Case("how many seconds are there in a day?", "1 days = 86400 s"),
            Case("How many people are in a team?", None),
            Case("How many days in a year?", None),
        ),
    ),
)
"""Conversions with the amount first, and "how many X in Y"."""
