"""What the gateway itself says at the end of a run: which parts are missing, and the parts alone
when time ran out.

The model is told which tools did not finish, and may say so; a reader must be able to rely on it,
so the gateway names them as well. When even the model's own answer did not fit into the time, the
results that are there are the answer.
"""

from __future__ import annotations

from collections.abc import Sequence

from app.domain.run_events import CallEnded

_PART_CHARS = 600


def missing_parts(left_out: Sequence[str]) -> str:
    """The closing note that names what an answer does without; empty when nothing is missing."""
    if not left_out:
        return ""
    names = ", ".join(dict.fromkeys(left_out))
    return f"\n\n(Not in time, so left out: {names}.)"


def partial_answer(ended: Sequence[CallEnded]) -> str:
    """The results that are there, for when no model could write an answer in time."""
    parts = [
        f"- {call.name}: {_short(call.text)}" for call in ended if call.outcome in {"ok", "cached"}
    ]
    if not parts:
        return "No answer could be made in the time that was given."
    return "\n".join(
        ["There was no time to write an answer. These are the results so far:", *parts]
    )


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _PART_CHARS else line[: _PART_CHARS - 1] + "…"
