"""Which of many wordings stand in a text, in one pass over it: an RE2 set, linear in the text."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import re2

OnePass = Callable[[str], list[int] | None]
"""The places of those wordings that are there; None or empty where none is. Raises ``UnicodeEncodeError``
on half a surrogate pair.
"""


def one_pass(wordings: Iterable[str], *, case_sensitive: bool = True) -> OnePass:
    """Compile ``wordings``: milliseconds, so once a process."""
    options = re2.Options()
    options.case_sensitive = case_sensitive
    options.log_errors = False
    automaton = re2.Set.SearchSet(options)
    for wording in wordings:
        automaton.Add(wording)
    automaton.Compile()
    match: OnePass = automaton.Match
    return match
