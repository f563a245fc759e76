"""`python -m bench.flame STACKS SVG`: a flame graph of collapsed stacks, as one still picture.

Reads what `py-spy record --format raw` writes: a line a stack, `outer;inner;innermost COUNT`. Widths are
shares of all samples, the outermost call is at the bottom; a title names what a box is too narrow for.
No script is in the picture, so it can be looked at wherever pictures are.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

WIDTH_PX, ROW_PX, LETTER_PX, LEAST_PX = 1200, 17, 6.6, 0.4
_COLOURS = ("#e8b04a", "#e59a4f", "#df8453", "#ecc25a", "#d9744f")


@dataclass(slots=True)
class Box:
    """A call by its callers: how many samples were in it, and what it called."""

    samples: int = 0
    calls: dict[str, Box] = field(default_factory=dict)


class StackError(ValueError):
    """A line that is no stack; the text says which."""


def gathered(lines: Iterable[str]) -> Box:
    """All stacks as one tree. Raises ``StackError``."""
    root = Box()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        stack, _, count = line.rstrip().rpartition(" ")
        if not stack or not count.isdigit():
            raise StackError(f"line {number} is not 'call;call COUNT': {line.strip()[:80]!r}")
        at = root
        at.samples += int(count)
        for name in stack.split(";"):
            at = at.calls.setdefault(name, Box())
            at.samples += int(count)
    return root


def drawn(root: Box, title: str) -> str:
    """The picture, as SVG."""
    boxes = list(_placed(root, 0.0, 0, max(1, root.samples)))
    rows = 1 + max((depth for _, _, _, depth, _ in boxes), default=0)
    height = (rows + 2) * ROW_PX
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH_PX} {height}" '
        f'font-family="monospace" font-size="11"><rect width="100%" height="100%" fill="#fffdf7"/>'
        f'<text x="6" y="14" font-size="13">{escape(title)} ({root.samples} samples)</text>'
    )
    return "\n".join([head, *(_rect(box, height) for box in boxes), "</svg>\n"])


_Placed = tuple[str, float, float, int, int]
"""Name, left and width in pixels, depth, samples."""


def _placed(box: Box, left: float, depth: int, total: int) -> Iterator[_Placed]:
    for name, call in sorted(box.calls.items()):
        width = call.samples / total * WIDTH_PX
        if width >= LEAST_PX:
            yield name, left, width, depth, call.samples
            yield from _placed(call, left, depth + 1, total)
        left += width


def _rect(placed: _Placed, height: int) -> str:
    name, left, width, depth, samples = placed
    top = height - (depth + 1) * ROW_PX
    colour = _COLOURS[sum(name.encode()) % len(_COLOURS)]
    shown = name[: int(width / LETTER_PX)] if width > 4 * LETTER_PX else ""
    return (
        f"<g><title>{escape(name)}: {samples} samples</title>"
        f'<rect x="{left:.1f}" y="{top}" width="{max(0.3, width - 0.3):.1f}" height="{ROW_PX - 1}" '
        f'fill="{colour}"/><text x="{left + 2:.1f}" y="{top + 12}">{escape(shown)}</text></g>'
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Draw one. 2 where the stacks cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m bench.flame", description=__doc__)
    parser.add_argument("stacks", type=Path)
    parser.add_argument("svg", type=Path)
    parser.add_argument("--title", default="Where the time goes")
    asked = parser.parse_args(argv)
    try:
        root = gathered(asked.stacks.read_text(encoding="utf-8").splitlines())
    except (OSError, StackError) as exc:
        print(f"flame: {asked.stacks}: {exc}", file=sys.stderr)
        return 2
    asked.svg.write_text(drawn(root, asked.title), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
