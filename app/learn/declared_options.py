"""The options that a parameter's declaration lists, and which of them a text mentions: pure, no learning.

A closed list predicts better than statistics: of ``economy, business, first`` the user says one. It is
in ``enum`` or, as often, only in the description: ``[Enum]: USD, EUR``, ``Options are: economy,
business``, ``'w' for words``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

_LIST = re.compile(
    r"(?:\[enum\]|options(?:\s+are)?|one of|either|values(?:\s+are)?)\s*:?\s*(.+)",
    re.IGNORECASE | re.DOTALL,
)
_ITEM = re.compile(r"""^[\s\["'(]*([\w][\w -]{0,39}?)[\s\]"').]*$""")
_GLOSSED = re.compile(r"""['"](\w{1,12})['"]\s+(?:for|means|=|:)\s+([a-z]{3,20})""")
_MOST_OPTIONS = 64
_MOST_WORDS = 4000
_LETTERS = re.compile(r"[A-Za-z0-9]+")
_SHORTEST_STEM = 4


def listed_options(schema: Mapping[str, object]) -> tuple[tuple[str, str], ...]:
    """Each listed value with the words that mean it; empty where the declaration lists none."""
    listed = schema.get("enum")
    if isinstance(listed, list):
        return tuple((each, each) for each in listed[:_MOST_OPTIONS] if isinstance(each, str))
    described = schema.get("description")
    return _described(described) if isinstance(described, str) else ()


@lru_cache(maxsize=512)
def _described(text: str) -> tuple[tuple[str, str], ...]:
    glossed = _GLOSSED.findall(text)
    if len(glossed) > 1:
        return tuple(glossed[:_MOST_OPTIONS])
    found = _LIST.search(text)
    if found is None:
        return ()
    items = [_ITEM.match(each) for each in re.split(r",|/|\bor\b", found[1])]
    if len(items) <= 1 or any(each is None for each in items):
        return ()
    return tuple((each[1], each[1]) for each in items[:_MOST_OPTIONS] if each is not None)


def mentioned_options(schema: Mapping[str, object], text: str) -> list[str]:
    """The listed values that ``text`` mentions, in its order."""
    listed = listed_options(schema)
    if not listed:
        return []
    low = " " + " ".join(_stem(each) for each in _LETTERS.findall(text[:_MOST_WORDS])) + " "
    found: dict[str, int] = {}
    for value, words in listed:
        at = low.find(" " + " ".join(_stem(each) for each in _LETTERS.findall(words)) + " ")
        if at >= 0:
            found[value] = at
    return sorted(found, key=lambda value: found[value])


def _stem(word: str) -> str:
    """A word that a text and a list may spell differently: without its plural, in small letters."""
    low = word.lower()
    return low[:-1] if len(low) > _SHORTEST_STEM and low.endswith("s") else low
