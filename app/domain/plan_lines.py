"""Read a plan that a model writes, line by line, while it writes it: pure text work.

One JSON object a line is one call: ``{"id": "t", "tool": "get_ticket", "arguments": {...}}``, with
``"each"`` to call the tool for every element of a list, ``"after"`` for an order that no value
carries. Everything else that it writes is prose; fences and brackets around the lines are neither.

A line is complete when its object is: no JSON object is the beginning of a longer one, so nothing
waits for the newline.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from app.domain.chat import Json
from app.domain.plan import Node, NodeKind, node

_LONGEST_LINE_CHARS = 64 * 1024
_SHOWN_CHARS = 80
_ID_CHARS = 64


@dataclass(frozen=True, slots=True)
class PlanLine:
    """One line that meant to be a call: the call, or what is wrong with it."""

    node: Node | None = None
    error: str = ""
    tool: str = ""
    arguments: Mapping[str, object] | None = None


class PlanReader:
    """Takes a model's text in as it comes; gives prose (``str``) and plan lines in their order."""

    __slots__ = ("_line", "_prose", "lines")

    def __init__(self) -> None:
        """Read nothing yet."""
        self._line = ""
        self._prose = False
        """The line that is being read turned out to be prose, and its beginning is given."""
        self.lines = 0
        """Plan lines so far, right or wrong."""

    def feed(self, text: str) -> Iterator[str | PlanLine]:
        """More text; what it completes."""
        while text:
            end = text.find("\n")
            piece, text = (text, "") if end < 0 else (text[: end + 1], text[end + 1 :])
            yield from self._take(piece)

    def end(self) -> Iterator[str | PlanLine]:
        """The text is over: what was not complete is told as it is."""
        line, self._line = self._line, ""
        yield from self._whole(line)

    def _take(self, piece: str) -> Iterator[str | PlanLine]:
        if self._prose:
            self._prose = not piece.endswith("\n")
            yield piece
            return
        self._line += piece
        begins = self._line.lstrip(" \t,")
        if not begins.strip():
            if piece.endswith("\n"):
                self._line = ""
        elif begins[0] == "{":
            if piece.endswith("\n") or len(begins) > _LONGEST_LINE_CHARS:
                line, self._line = self._line, ""
                yield from self._whole(line)
            elif "}" in piece and _decoded(begins) is not None:
                self._line = ""
                yield from self._whole(begins)
        elif begins[0] in "`[]":
            if piece.endswith("\n"):
                self._line = ""
        else:
            line, self._line = self._line, ""
            self._prose = not line.endswith("\n")
            yield line

    def _whole(self, line: str) -> Iterator[str | PlanLine]:
        text = line.strip().strip(",").strip()
        if text.startswith("{"):
            self.lines += 1
            yield _read(text)


def _decoded(text: str) -> Json | None:
    """The object of a line; None where it is none, or holds what could not be written as JSON again."""
    try:
        found: object = json.loads(text.rstrip(" \t\r\n,"), parse_constant=_no_number)
        if "\\u" in text or "e" in text or "E" in text:
            json.dumps(found, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _no_number(text: str) -> float:
    raise ValueError(text)  # NaN and the infinities are not JSON


def _read(text: str) -> PlanLine:
    """A line as a node; its faults are told, not raised, for the model may mend them."""
    given = _decoded(text)
    if given is None:
        return PlanLine(error=f"the line {text[:_SHOWN_CHARS]!r} is not one JSON object")
    tool, arguments = str(given.get("tool") or ""), given.get("arguments", {})
    shown = arguments if isinstance(arguments, dict) else None
    fault = _fault(given)
    if fault:
        return PlanLine(error=fault, tool=tool, arguments=shown)
    kind, held = NodeKind.TOOL, arguments
    if given.get("each") is not None:
        kind, held = NodeKind.MAP, {"over": given["each"], "arguments": arguments}
    after = [str(each) for each in _list(given.get("after"))]
    made = node(str(given["id"]), kind, tool, held, after=after)
    if made.id in made.needs:
        return PlanLine(error=f"{made.id!r} refers to itself", tool=tool, arguments=shown)
    return PlanLine(made, tool=tool, arguments=shown)


def _fault(given: Json) -> str:
    """What is wrong with a line's form; empty when nothing is."""
    tool, node_id, after = given.get("tool"), given.get("id"), given.get("after", [])
    if not isinstance(tool, str) or not tool:
        return 'a line of the plan names no "tool"'
    if not isinstance(given.get("arguments", {}), dict):
        return f'the "arguments" of {tool!r} must be an object'
    if not isinstance(node_id, str) or not 0 < len(node_id) <= _ID_CHARS:
        return f'the call of {tool!r} needs an "id" of 1 to {_ID_CHARS} characters'
    if not isinstance(after, list) or not all(isinstance(each, str) for each in after):
        return f'the "after" of {node_id!r} must be a list of ids'
    return ""


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
