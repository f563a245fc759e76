"""Reasoning that a model writes into its answer's text, taken out of it.

Open models say ``<think> ... </think>`` before they answer, and servers without a parser for it hand that on
as text. Only blocks at the very beginning of an answer are taken for such: further on the tag is a word like
any other.
"""

from __future__ import annotations

_TAGS = {"<think>": "</think>", "<thinking>": "</thinking>"}


class ReasoningStripper:
    """Takes an answer's text in, piece by piece; gives it without its reasoning."""

    __slots__ = ("_closing", "_held", "_taken", "answer_begun")

    def __init__(self) -> None:
        """Stand before the first word."""
        self._held = ""
        self._closing = ""
        """The tag that ends the block that is open; "" = none is."""
        self._taken = False
        self.answer_begun = False
        """The answer itself has begun: whatever comes passes as it is."""

    def feed(self, text: str) -> str:
        """Take a piece; give what is surely answer."""
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
        """The answer has ended: what was held back and is no reasoning."""
        held, self._held, self.answer_begun = self._held, "", True
        if self._closing:
            return ""
        return held.lstrip() if self._taken else held


def strip_reasoning(text: str) -> str:
    """A whole answer's text without the reasoning at its beginning."""
    reader = ReasoningStripper()
    return reader.feed(text) + reader.flush()
