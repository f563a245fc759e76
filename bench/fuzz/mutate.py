"""Break a sound input a little: bytes anywhere, or values within the JSON that it holds."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence

_ODD_BYTES = (
    b"\r\n", b"\n", b"\n\n", b"\r", b"\x00", b" ", b":", b"data:", b"data: [DONE]\n\n", b"event: ping\n",
    b"event: error\n", b"\xef\xbb\xbf", b"\xff", b"\xed\xa0\x80", b"\xf0\x9f", b'"', b"\\", b"{", b"}",
    b"[" * 40, b"]", b"null", b"0\r\n\r\n", b"ffffffffffffffff\r\n", b"HTTP/1.1 200 OK\r\n", b"-1",
    b"content-length: 5\r\n", b"transfer-encoding: chunked\r\n", b"1e999", b"\\ud800", b"\xe2\x80\xa8",
    b'"usage":{}', b'"error":{}', b'"type":"message_stop"', b'"finish_reason":"stop"', b"9" * 30,
)  # fmt: skip
_ODD_VALUES: tuple[object, ...] = (
    None, True, False, 0, -1, 2**63, 2**200, 1e308, 0.5, "", "x", "\u2028", "stop", "error", "{}", "[", [],
    {}, [[]], [None], {"": None}, [{}], {"type": "text"}, {"type": "text", "text": 1}, {"index": 10**9},
    "data: x", "tool_calls", "text", "\x00", "a" * 3000, [1, "a", None], {"id": {}}, "data:image/png;base64,",
)  # fmt: skip


class Mutator:
    """Draws from its own seeded generator: the same seed breaks the same way."""

    def __init__(self, seed: int) -> None:
        """Begin the sequence of ``seed``."""
        self.random = random.Random(seed)

    def broken(self, sound: bytes, others: Sequence[bytes]) -> bytes:
        """``sound`` after one to four changes of its bytes; may take a piece of one of ``others``."""
        draw = self.random
        data = bytearray(sound)
        for _ in range(draw.choice((1, 1, 1, 2, 2, 3, 4))):
            at, until = self._span(len(data))
            kind = draw.randrange(8)
            if kind == 0 and data:
                data[min(at, len(data) - 1)] ^= 1 << draw.randrange(8)
            elif kind == 1:
                del data[at:until]
            elif kind == 2:
                data[at:at] = data[at:until]
            elif kind == 3:
                del data[at:]
            elif kind == 4:
                other = draw.choice(others)
                begin, end = self._span(len(other))
                data[at:until] = other[begin:end]
            elif kind == 5:
                data[at:at] = draw.randbytes(draw.randrange(1, 5))
            else:
                data[at : draw.choice((at, until))] = draw.choice(_ODD_BYTES)
        return bytes(data)

    def broken_value(self, sound: object) -> object:
        """``sound``, a JSON value, with one to three of its values replaced, dropped or doubled."""
        value: object = json.loads(json.dumps(sound))
        for _ in range(self.random.choice((1, 1, 2, 3))):
            value = self._changed(value)
        return value

    def broken_stream(self, sound: bytes) -> bytes:
        """``sound``, a stream of events, with values in the JSON of one or two events replaced."""
        draw = self.random
        lines = sound.split(b"\n")
        places = [at for at, line in enumerate(lines) if line.startswith(b"data: {")]
        for _ in range(draw.choice((1, 1, 2))):
            at = draw.choice(places)
            value = self.broken_value(json.loads(lines[at][6:].removesuffix(b"\r")))
            lines[at] = b"data: " + json.dumps(value).encode()
        if draw.random() < 0.2:
            events = b"\n".join(lines).split(b"\n\n")
            draw.shuffle(events)
            return b"\n\n".join(events)
        return b"\n".join(lines)

    def split(self, data: bytes) -> list[bytes]:
        """``data`` in one to six pieces, none empty."""
        draw = self.random
        if len(data) < 2:
            return [data] if data else []
        if draw.random() < 0.05 and len(data) < 3000:
            return [data[at : at + 1] for at in range(len(data))]
        cuts = sorted({draw.randrange(1, len(data)) for _ in range(draw.randrange(6))})
        return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]

    def _span(self, size: int) -> tuple[int, int]:
        at = self.random.randrange(size + 1)
        return at, min(size, at + self.random.choice((1, 2, 4, 16, 64, 300)))

    def _changed(self, value: object) -> object:
        """``value`` with one place in it changed, chosen by a walk from the top."""
        draw = self.random
        if isinstance(value, dict) and value and draw.random() < 0.9:
            key = draw.choice(list(value))
            what = draw.random()
            if what < 0.12:
                return {k: v for k, v in value.items() if k != key}
            other = draw.choice(("index", "type", "x", "role", "id"))
            return {
                **value,
                **({other: value[key]} if what < 0.2 else {key: self._changed(value[key])}),
            }
        if isinstance(value, list) and value and draw.random() < 0.9:
            at = draw.randrange(len(value))
            what = draw.random()
            if what < 0.1:
                return [*value, value[at]]
            changed = [] if what < 0.2 else [self._changed(value[at])]
            return [*value[:at], *changed, *value[at + 1 :]]
        return draw.choice(_ODD_VALUES)
