"""From YAML text and an environment to plain values that remember where they stood.

PyYAML's own constructors drop the positions, keep only the last of two equal keys and follow
recursive aliases for ever. So the text is composed into nodes, and the nodes are walked here: each
value's line is kept under its path, equal keys are a problem, and `${NAME}` is expanded in string
values only, after parsing, so that no value of the environment can change the structure of the
file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import yaml

from app.settings_problems import Path, Problem, did_you_mean, dotted, shown

if TYPE_CHECKING:
    from collections.abc import Mapping

_DEEPEST = 64
_VARIABLE = re.compile(r"\$(\$)?\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<fallback>[^}]*))?\}")
_UNFINISHED = re.compile(r"(?<!\$)\$\{")


@dataclass(slots=True)
class Source:
    """A configuration on its way to `Settings`: plain values, their lines, what is wrong so far."""

    file: str
    """The name that problems carry."""
    values: dict[str, object] = field(default_factory=dict)
    """The whole file as plain dicts, lists and scalars, variables expanded."""
    lines: dict[Path, int] = field(default_factory=dict)
    """Line, from 1, of each value that stands in the file."""
    raw: dict[Path, str] = field(default_factory=dict)
    """Strings as written, where expansion changed them: an error quotes these, never a variable's
    value.
    """
    problems: list[Problem] = field(default_factory=list)
    """Found so far, in no particular order."""

    def report(
        self, path: Path, message: str, mend: str, value: object = None, line: int | None = None
    ) -> None:
        """Add a problem at `path`; without a `line`, at the nearest part that has one."""
        written: object = self.raw.get(path, value)
        self.problems.append(
            Problem(
                file=self.file,
                line=self.line_of(path) if line is None else line,
                path=dotted(path),
                value=None if written is None else shown(path, written),
                message=message,
                mend=mend,
            )
        )

    def line_of(self, path: Path) -> int | None:
        """The line of `path`, else of its nearest parent that has one."""
        for length in range(len(path), -1, -1):
            if (line := self.lines.get(path[:length])) is not None:
                return line
        return None


def parse(text: str, file: str, env: Mapping[str, str]) -> Source:
    """Read YAML (or JSON, which is YAML) and expand its variables; problems stay in the result."""
    source = Source(file)
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is not None:
            values = _Walk(source, loader, env).value(node, ())
            if isinstance(values, dict):
                source.values = values
            else:
                source.report((), "is not a mapping of sections", "Begin with `providers:`.")
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        line = None if mark is None else mark.line + 1
        what = " ".join(str(part) for part in (exc.context, exc.problem) if part)
        source.problems.append(
            Problem(file, line, "", None, f"is not YAML: {what}", "Mend the syntax at that line.")
        )
    except yaml.YAMLError as exc:
        source.problems.append(
            Problem(file, None, "", None, f"is not YAML: {exc}", "Save it as UTF-8 text.")
        )
    return source


class _Walk:
    """One pass over the nodes of a file."""

    def __init__(self, source: Source, loader: yaml.SafeLoader, env: Mapping[str, str]) -> None:
        self.source = source
        self.loader = loader
        self.env = env

    def value(self, node: yaml.Node, path: Path) -> object:
        self.source.lines.setdefault(path, node.start_mark.line + 1)
        if len(path) > _DEEPEST:
            self.source.report(
                path[:4], "is nested too deeply", "Look for an alias that holds itself."
            )
            return None
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        return self._scalar(node, path)

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, object]:
        merged = any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value)
        if merged:
            self.loader.flatten_mapping(node)
        found: dict[str, object] = {}
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key is None:
                self.source.report(path, "has a key that is not a word", "Keys are plain words.")
                continue
            at = (*path, key)
            if key in found and not merged:
                first = self.source.lines[at]
                self.source.report(
                    at,
                    f"stands twice, first at line {first}",
                    "Keep one; the other would be lost.",
                    line=key_node.start_mark.line + 1,
                )
                continue
            self.source.lines[at] = key_node.start_mark.line + 1
            found[key] = self.value(value_node, at)
        return found

    def _scalar(self, node: yaml.Node, path: Path) -> object:
        try:
            value: object = self.loader.construct_object(node)
        except (yaml.YAMLError, ValueError) as exc:
            reason = exc.problem if isinstance(exc, yaml.MarkedYAMLError) else str(exc)
            self.source.report(
                path, f"cannot be read: {reason}", "Put it in quotes.", str(node.value)
            )
            return None
        if isinstance(value, str) and "$" in value:
            return self._expanded(value, path)
        if value is not None and not isinstance(value, str | int | float | bool):
            return str(
                node.value
            )  # A date or a binary: nothing here takes one, so it is its own text.
        return value

    def _expanded(self, text: str, path: Path) -> str:
        def fill(match: re.Match[str]) -> str:
            if match[1]:
                return match[0][1:]
            name, fallback = match["name"], match["fallback"]
            found = self.env.get(name)
            if fallback is not None:
                return found or fallback
            if found is None:
                near = did_you_mean(name, self.env) if name not in self.env else ""
                hint = f" {near}" if near.startswith("Did you mean") else ""
                self.source.report(
                    path,
                    f"needs the environment variable {name}, which is not set",
                    f"Set {name}, or write ${{{name}:-a default}}.{hint}",
                    text,
                )
                return ""
            return found

        expanded = _VARIABLE.sub(fill, text)
        if _UNFINISHED.search(_VARIABLE.sub("", text)):
            self.source.report(
                path,
                "holds a `${` that names no variable",
                "Write ${NAME} or ${NAME:-default}; `$${` stands for a plain `${`.",
                text,
            )
        if expanded != text:
            self.source.raw[path] = text
        return expanded
