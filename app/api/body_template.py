"""Templates of request bodies: what a client repeats around the one text that changes.

Theory of operation. An application that asks alike things (the same instructions, the same options, another
question) sends bodies that differ in the last message's text alone. Reading such a body and printing it for
its cache key costs as much as all other questions about it, so the body that the reader has read is
remembered as what stands before and behind that text. A later body *is* that request with another text if
it begins and ends with the same bytes, and what stands between is surely the inside of one JSON string.

The reader stays the judge. A shape is made only if the reader, given a text of our own in that place, reads
the same request with our text as the last message's content: so the place is a whole string of its own, and
whatever string stands there is read as that content. Inside a text only what is printed as it was read is
known here (no escape but of a quote or a line's end, no control character, sound UTF-8): so its cache key
is the one that reading would give. Everything else goes to the reader.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

import msgspec

from app.api.fast_request import RequestPlan
from app.cache.key import plain_key_input
from app.domain.chat import PlainRequest
from app.providers.upstream_request import splice_plain

MAX_BODY_BYTES: Final = 4_096
"""Longer bodies are not remembered; their number is bounded as well."""
_TEXT: Final = b"5f0c a text of the gateway's own 9be1"
_CONTROL: Final = bytes(range(0x20)) + b"\x7f"

Read = Callable[[bytes], PlainRequest | None]


@dataclass(frozen=True, slots=True, eq=False)
class BodyTemplate:
    """A parsed body without its last text."""

    plan: RequestPlan
    prefix: bytes
    suffix: bytes
    begin: int
    """Offset of the text: the length of ``before``."""
    end: int
    """End of the text, as a negative offset from the body's end."""
    key_prefix: bytes
    key_suffix: bytes
    upstream_prefix: bytes
    """The beginning of the body that is sent upstream."""
    upstream_suffix: bytes

    def text_of(self, raw: bytes) -> bytes | None:
        """The raw text of ``raw`` if it is this template with another text; else None."""
        if not raw.startswith(self.prefix) or not raw.endswith(self.suffix):
            return None
        text = raw[self.begin : self.end]
        # Shorter than both together: they overlap, and nothing is left between.
        return text if text and is_plain_json_text(text) else None

    def key(self, text: bytes) -> bytes:
        """As ``plain_key`` of the body with ``text``."""
        return sha256(b"".join((self.key_prefix, text, self.key_suffix))).digest()


def is_plain_json_text(text: bytes) -> bool:
    """Whether ``text`` is surely the inside of a JSON string that decodes and encodes to itself."""
    if len(text.translate(None, _CONTROL)) != len(text):
        return False
    if b"\\" in text or b'"' in text:
        quotes = text.count(b'\\"')
        # No backslash is itself escaped, each escapes a quote or a line's end, and no quote goes without.
        if (
            b"\\\\" in text
            or text.count(b"\\") != quotes + text.count(b"\\n")
            or text.count(b'"') != quotes
        ):
            return False
    if not text.isascii():
        try:
            text.decode()
        except UnicodeDecodeError:
            return False
    return True


def learn_body(
    raw: bytes, plain: PlainRequest, plan: RequestPlan, read: Read
) -> BodyTemplate | None:
    """The template of ``raw``, which was parsed as ``plain``; None where there is none."""
    said = getattr(plain.turns[-1], "content", None)
    if len(raw) > MAX_BODY_BYTES or not isinstance(said, str) or not said:
        return None
    printed = msgspec.json.encode(said)
    begin = raw.rfind(printed) + 1
    end = begin + len(printed) - 2
    before, behind = raw[:begin], raw[end:]
    if not begin or _TEXT in before or _TEXT in behind:
        return None
    probe = b"".join((before, _TEXT, behind))
    with_ours = read(probe)
    if with_ours is None or not _same_but_for_text(plain, with_ours):
        return None
    key = plain_key_input(plan.key_start, with_ours).split(_TEXT)
    sent = probe if plan.keeps_body else splice_plain(probe, plan.model_fields, False)  # noqa: FBT003 - by position there
    parts = sent.split(_TEXT) if sent is not None else []
    if len(key) != len(parts) or len(key) != 2:  # noqa: PLR2004 - what is before, and what is behind
        return None
    return BodyTemplate(plan, before, behind, begin, -len(behind), *key, *parts)


def _same_but_for_text(plain: PlainRequest, with_ours: PlainRequest) -> bool:
    """Whether the two parsed requests differ in the last text alone, which is ours in the second."""
    *earlier, last = plain.turns
    *again, ours = with_ours.turns
    return (
        plain[1:] == with_ours[1:]
        and earlier == again
        and getattr(last, "role", None) == getattr(ours, "role", "")
        and getattr(ours, "content", None) == _TEXT.decode()
    )
