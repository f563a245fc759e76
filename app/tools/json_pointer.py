"""JSON pointers (RFC 6901): which part of an answer is the result."""

from __future__ import annotations

from collections.abc import Mapping

from app.errors import ToolError


def resolve_pointer(value: object, pointer: str) -> object:
    """The part of ``value`` at ``pointer``; raises ``ToolError`` where it has none. "" is the whole."""
    found = value
    for raw in pointer.split("/")[1:]:
        step = raw.replace("~1", "/").replace("~0", "~")
        if isinstance(found, Mapping) and step in found:
            found = found[step]
        elif isinstance(found, list) and _is_index(step) and int(step) < len(found):
            found = found[int(step)]
        else:
            raise ToolError(f"the answer holds nothing at {pointer}", code="tool_no_result")
    return found


def _is_index(step: str) -> bool:
    return step.isascii() and step.isdigit() and (step == "0" or not step.startswith("0"))
