"""What is changed in an answer on its way to the client, because an output contract says so."""

from __future__ import annotations

from typing import NamedTuple, Protocol


class AnswerEdit(NamedTuple):
    """The changes; usage is never among them."""

    hides_reasoning: bool = False
    keeps_signatures: bool = False
    """Hidden reasoning leaves its block and the vendor's signature behind, empty, because the client has to
    hand them back: a turn that called tools cannot go on without.
    """
    prefill: str = ""
    """The beginning of the answer that the gateway wrote for the model, which gave the rest."""


class AnswerEditor(Protocol):
    """Makes the changes in an answer of the client's own dialect; all else keeps its bytes."""

    def edit_frames(self, data: bytes) -> bytes:
        """Complete frames of a stream, changed; empty where nothing of them is left."""
        ...

    def edit_answer(self, body: bytes) -> bytes:
        """A whole answer, changed."""
        ...
