"""Edits of an answer on its way to the client, required by an output contract."""

from __future__ import annotations

from typing import NamedTuple, Protocol


class AnswerEdit(NamedTuple):
    """The edits; usage is never changed."""

    hides_reasoning: bool = False
    keeps_signatures: bool = False
    """Keep the emptied blocks of hidden reasoning with their signatures: the client must send them back to
    continue a turn with tool calls.
    """
    prefill: str = ""
    """The start of the answer, written by the gateway and continued by the model."""


class AnswerEditor(Protocol):
    """Applies the edits to an answer in the client's own dialect; all other bytes are kept."""

    def edit_frames(self, data: bytes) -> bytes:
        """Edit complete frames of a stream; empty where nothing is left of them."""
        ...

    def edit_answer(self, body: bytes) -> bytes:
        """Edit a complete JSON answer."""
        ...
