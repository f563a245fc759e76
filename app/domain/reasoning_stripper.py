"""Strip reasoning that a model writes into its answer's text.

Open models write ``<think> ... </think>`` before they answer, and servers without a parser for it pass that
on as text. Only blocks at the very beginning of an answer are stripped: elsewhere the tag is ordinary text.
"""

from __future__ import annotations

_TAGS = {"<think>": "</think>", "<thinking>": "</thinking>"}


class ReasoningStripper:
    """Strips the reasoning from an answer's text, piece by piece."""

    __slots__ = ("_closing", "_held", "_taken", "answer_begun")

    def __init__(self) -> None:
        """Start before the first piece."""
        self._held = ""
        self._closing = ""
        """The closing tag of the open block; "" = none."""
        self._taken = False
        self.answer_begun = False
        """The answer itself has begun: all further text passes unchanged."""

    def feed(self, text: str) -> str:
        """Add a piece; returns what is certainly part of the answer."""
        if self.answer_begun:
            return text
        held = self._held + text
        while True:
            if self._closing:
                end = held.find(self._closing)
                if end < 0:
                    self._held = held[1 - len(self._closing) :]
                    return ""
                held, self._closing, self._taken = held[end + len(self._closing) :], "", True
            begun = held.lstrip()
            tag = next((tag for tag in _TAGS if begun.startswith(tag)), "")
            if tag:
                held, self._closing = begun[len(tag) :], _TAGS[tag]
                continue
            if not begun or any(tag.startswith(begun) for tag in _TAGS):
                self._held = held
                return ""
            self.answer_begun, self._held = True, ""
            return begun if self._taken else held

    def flush(self) -> str:
        """The answer has ended: returns held-back text that is not reasoning."""
        held, self._held, self.answer_begun = self._held, "", True
        if self._closing:
            return ""
        return held.lstrip() if self._taken else held


def strip_reasoning(text: str) -> str:
    """The text of a complete answer without the reasoning at its beginning."""
    reader = ReasoningStripper()
    return reader.feed(text) + reader.flush()
