"""The lines of many turns, printed at once as a block of bytes with a row for each.

Theory of operation. Lines of one kind differ in a dozen numbers and the request's id, so each field has a
place in the row: as wide as the widest of its column. Numbers are printed by numpy, all at once: their
digits are looked up or reckoned column by column, and what is not needed of a place is left NUL. Then the
block is one string of bytes, out of which NULs, which JSON text never holds, are taken.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from itertools import accumulate, chain

import numpy as np
import orjson
from numpy.typing import NDArray

from app.telemetry.turn_batch import Columns, TurnBatch

_Numbers = NDArray[np.int64]
_Texts = NDArray[np.void]
"""A text for each turn, all of one width; NUL is no character."""
_Pieces = list["bytes | _Texts"]
"""Of a line, from left to right: what is the same in all, and what is not."""
_TABLED = 4
"""Numbers of so few digits are looked up."""
_WIDEST = 15
"""Digits; numbers beyond are left to others."""
_MOST_LAYOUTS = 256


class LineBlock:
    """Prints blocks; one thread owns it."""

    def __init__(self, seconds: Mapping[int, str]) -> None:
        """``seconds`` gives the text of an instant, up to the second."""
        self._seconds = seconds
        self._tables = [_digits(np.arange(10**width), width) for width in range(1, _TABLED + 1)]
        self._thousandths = _rows([b".%03d" % each for each in range(1000)])
        self._layouts: dict[tuple[int, ...], np.dtype[np.void]] = {}

    def text(self, turns: TurnBatch, common: str) -> str | None:
        """The lines of ``turns``, which are of one kind, know the same things and used no tools.

        ``common`` is what they have in common, as it is printed. None: some number is not for here.
        """
        first, of, many = turns[0], turns.columns, len(turns)
        names, columns = ["total_ms", "upstream_ms"], [of.total_s, of.upstream_s]
        if first.ttft_s is not None:
            names.append("ttft_ms")
            columns.append(of.known(of.ttft_s))
        if first.overhead_s is not None:
            names.append("overhead_ms")
            columns.append(of.known(of.overhead_s))
        in_seconds = len(names)
        names += of.stages
        stages = of.stages.values()
        counts: tuple[Sequence[int], ...] = ()
        if first.usage is not None:
            counts = (of.tokens.prompt, of.tokens.cached, of.tokens.output)
        height = 1 + len(names) + len(counts)
        # Packed: numpy takes numbers out of tuples at twice the cost.
        packed = struct.pack(
            f"{height * many}d",
            *of.started_unix_s,
            *chain(*columns),
            *chain(*stages),
            *chain(*counts),
        )
        numbers = np.frombuffer(packed).reshape(height, many).copy()
        numbers[0] = (numbers[0] + numbers[1]) * 1e3  # when it ended, in milliseconds
        numbers[1 : 1 + in_seconds] *= 1e6
        numbers[1 + in_seconds : 1 + len(names)] /= 1e3
        numbers[1 : 1 + len(names)] += 0.5
        whole = numbers.astype(np.int64)
        if whole.min() < 0 or whole.max() >= 10**_WIDEST:
            return None
        pieces = self._stamps(whole[0])
        pieces += (b'","request_id":"', _rows_of(of.request_id))
        pieces += (f'",{common},"cost_usd":'.encode(), _of_numbers(of.cost_usd))
        if counts:
            named = ("input_tokens", "cached_tokens", "output_tokens")
            for name, printed in zip(named, self._printed(whole[1 + len(names) :]), strict=True):
                pieces += (f',"{name}":'.encode(), printed)
        pieces += self._times(whole[1 : 1 + len(names)], names, in_seconds)
        pieces.append(_end(of, len(names) > in_seconds))
        return self._joined(pieces, many)

    def _times(self, microseconds: _Numbers, names: Sequence[str], in_seconds: int) -> _Pieces:
        """The durations as milliseconds."""
        milliseconds = microseconds // 1000
        rest = self._thousandths[microseconds - milliseconds * 1000]
        pieces: _Pieces = []
        for place, (name, whole) in enumerate(zip(names, self._printed(milliseconds), strict=True)):
            opened = ',"stages_ms":{' if place == in_seconds else ","
            pieces += (f'{opened}"{name}":'.encode(), whole, rest[place])
        return pieces

    def _printed(self, columns: _Numbers) -> list[_Texts]:
        """Each column's numbers, which are not negative."""
        widths = [len(str(high)) for high in columns.max(axis=1).tolist()]
        return [
            self._tables[width - 1][column] if width <= _TABLED else _digits(column, width)
            for column, width in zip(columns, widths, strict=True)
        ]

    def _stamps(self, milliseconds: _Numbers) -> _Pieces:
        """When each turn ended."""
        seconds = milliseconds // 1000
        first, last = int(seconds.min()), int(seconds.max())
        rest = self._thousandths[milliseconds - seconds * 1000]
        if first == last:
            return [b'{"timestamp":"' + self._seconds[first].encode(), rest, b"Z"]
        known, places = np.unique(seconds, return_inverse=True)
        texts = _rows([self._seconds[each].encode() for each in known.tolist()])
        return [b'{"timestamp":"', texts[places], rest, b"Z"]

    def _joined(self, pieces: _Pieces, many: int) -> str:
        """Put the pieces side by side, and take the lines out of the block."""
        texts = [piece for piece in pieces if not isinstance(piece, bytes)]
        row = [piece if isinstance(piece, bytes) else bytes(piece.itemsize) for piece in pieces]
        sizes = tuple(
            [len(piece) if isinstance(piece, bytes) else -piece.itemsize for piece in pieces]
        )
        layout = self._layouts.get(sizes) or self._lay_out(sizes)
        block = bytearray(b"".join(row) * many)
        rows = np.frombuffer(block, layout)
        for name, text in zip(layout.names or (), texts, strict=True):
            rows[name] = text
        return block.replace(b"\0", b"").decode()

    def _lay_out(self, sizes: tuple[int, ...]) -> np.dtype[np.void]:
        """A row of pieces of these sizes; a field for each that has a negative one."""
        if len(self._layouts) >= _MOST_LAYOUTS:
            self._layouts.clear()
        ends = [*accumulate(map(abs, sizes))]
        fields = [(size, end + size) for size, end in zip(sizes, ends, strict=True) if size < 0]
        made = self._layouts[sizes] = np.dtype(
            {
                "names": [f"f{place}" for place in range(len(fields))],
                "formats": [f"V{-size}" for size, _ in fields],
                "offsets": [offset for _, offset in fields],
                "itemsize": ends[-1],
            }
        )
        return made


def _end(of: Columns, in_stages: bool) -> bytes:  # noqa: FBT001 - once a block
    """What closes a line."""
    if not of.timed:
        return b"}\n"
    return b"}}\n" if in_stages else b',"stages_ms":{}}\n'


def _rows(texts: Sequence[bytes]) -> _Texts:
    """A row for each text; all are of one width."""
    return np.frombuffer(b"".join(texts), f"V{len(texts[0])}")


def _rows_of(texts: Sequence[str]) -> _Texts:
    """A row for each text, which holds ASCII alone."""
    width = max(map(len, texts))
    block = "".join(texts)
    if len(block) < width * len(texts):
        block = "".join([text.ljust(width, "\0") for text in texts])
    return np.frombuffer(block.encode(), f"V{width}")


def _of_numbers(numbers: Sequence[float]) -> bytes | _Texts:
    """The number that all are, or a row for each."""
    if numbers.count(numbers[0]) == len(numbers):
        return orjson.dumps(numbers[0])
    return _rows_of(orjson.dumps(numbers)[1:-1].decode().split(","))


def _digits(numbers: _Numbers, width: int) -> _Texts:
    """The digits of each number below the ``width``th power of ten, right-aligned, without leading zeros."""
    powers = 10 ** np.arange(width - 1, -1, -1)
    digits = (numbers[:, None] // powers % 10 + ord("0")).astype(np.uint8)
    digits[:, :-1][numbers[:, None] < powers[:-1]] = 0
    return digits.view(f"V{width}")[:, 0]
