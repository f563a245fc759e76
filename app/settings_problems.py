"""Problems of a configuration: file, line, path, value, and how to fix it.

All problems are collected before `SettingsError` is raised, so that one run shows them all.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.errors import GatewayError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Path = tuple[str | int, ...]
"""Keys and indices from the top of the file to a value."""

_SECRET_KEY = re.compile(r"(?i)(key|token|secret|password|authorization|cookie|credential)s?$")
_SECRET_PARENTS = frozenset({"headers", "env"})
_USERINFO = re.compile(r"(?<=://)[^/@\s]*@")
_LONGEST_VALUE = 60
_PLAIN_KEY = re.compile(r"^[A-Za-z_][A-Za-z0-9_-]*$")


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem."""

    file: str
    """The file's name, `$NAME` for a variable of the environment, or `(built in)`."""
    line: int | None
    """Line in the file, from 1; None where there is none to point at."""
    path: str
    """Where in the file, such as `models[2].tier`; empty for the file as a whole."""
    value: str | None
    """The offending value as it stands in the file, shortened and redacted; None where there is
    none.
    """
    message: str
    """What is wrong."""
    mend: str
    """How to fix it."""

    def __str__(self) -> str:
        """One line: where, what, and what to do."""
        where = self.file if self.line is None else f"{self.file}:{self.line}"
        at = f": {self.path}" if self.path else ""
        value = "" if self.value is None else f" (it is {self.value})"
        text = f"{where}{at}: {self.message}{value}. {self.mend}"
        return " ".join(text.split())


class SettingsError(GatewayError):
    """An invalid configuration; `problems` holds everything that is wrong with it."""

    code = "invalid_settings"

    def __init__(self, problems: Sequence[Problem]) -> None:
        """Join all problems into the message, one a line."""
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


def dotted(path: Path) -> str:
    """Write a path as its reader would: `models[2].price.input`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif _PLAIN_KEY.match(part):
            text += f".{part}" if text else part
        else:
            text += f"[{part!r}]"
    return text


def is_secret(path: Path) -> bool:
    """Whether the value at `path` may be a secret, by the names in the path."""
    names = [part for part in path if isinstance(part, str)]
    if not names:
        return False
    return bool(_SECRET_KEY.search(names[-1])) or any(
        name in _SECRET_PARENTS for name in names[:-1]
    )


def without_userinfo(text: str) -> str:
    """Blank the user and password of every URL in `text`."""
    return _USERINFO.sub("***@", text)


def shown(path: Path, value: object) -> str | None:
    """Write a value for an error text: short, redacted, None for whole sections."""
    if isinstance(value, dict | list | tuple):
        return None
    if is_secret(path) and value not in {"", None}:
        return "***"
    text = without_userinfo(repr(value) if isinstance(value, str) else _yaml_word(value))
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 1] + "…"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Suggest the nearest known word, or list the known ones."""
    choices = sorted(set(known))
    if not choices:
        return "There are none."
    near = difflib.get_close_matches(word, choices, n=1, cutoff=0.6)
    if not near:
        lowered = {choice.lower(): choice for choice in choices}
        near = [lowered[word.lower()]] if word.lower() in lowered else []
    if near:
        return f"Did you mean {near[0]!r}?"
    return f"Known here: {', '.join(choices)}."


def _yaml_word(value: object) -> str:
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
