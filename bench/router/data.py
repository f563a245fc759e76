"""The public data of the router's benchmark, read with every row checked."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

from app.domain.decisions import PromptView

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"


@dataclass(frozen=True, slots=True)
class Pair:
    """One prompt with the quality, 0 to 1, of the fast and of the powerful model's answer."""

    set: str
    pair: str
    domain: str
    prompt: str
    fast: float
    powerful: float

    @property
    def gain(self) -> float:
        """The powerful model's gain."""
        return self.powerful - self.fast


class DataError(ValueError):
    """An invalid data file; the message names the file, the line and the fault."""


def read_pairs(path: Path) -> list[Pair]:
    """Read {set, pair, domain, prompt, fast, powerful} a line. Raises DataError naming the line."""
    rows: list[Pair] = []
    for at, line in _lines(path):
        try:
            row = json.loads(line)
            one = Pair(
                str(row["set"]),
                str(row["pair"]),
                str(row.get("domain", row["set"])),
                str(row["prompt"]),
                float(row["fast"]),
                float(row["powerful"]),
            )
        except (ValueError, KeyError, TypeError) as exc:
            raise DataError(f"{path}:{at}: no pair with its qualities: {exc!r}") from exc
        if not (0 <= one.fast <= 1 and 0 <= one.powerful <= 1):
            raise DataError(f"{path}:{at}: qualities must lie in 0..1")
        rows.append(one)
    if not rows:
        raise DataError(f"{path}: no rows")
    return rows


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with path.open(encoding="utf-8") as file:
            yield from ((at, line) for at, line in enumerate(file, 1) if line.strip())
    except OSError as exc:
        raise DataError(f"{path}: cannot be read: {exc.strerror}") from exc


def in_build_half(prompt: str) -> bool:
    """Whether a prompt of the public sets trains the shipped artefacts; the other half tests them."""
    return crc32(prompt.encode("utf-8", "replace")) % 2 == 0


def read_evergreen(path: Path) -> list[tuple[str, bool]]:
    """(English question, its answer never changes) of an EverGreenQA file."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        return [
            (row["English"].strip(), row["is_evergreen"].strip() in {"1", "True"}) for row in rows
        ]
    except (OSError, KeyError, AttributeError) as exc:
        raise DataError(f"{path}: not a file of EverGreenQA: {exc!r}") from exc


def read_metatool(path: Path) -> list[tuple[str, bool]]:
    """(query, needs a tool) of MetaTool's task 1."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return [(str(row["query"]), row["label"] == "positive") for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise DataError(f"{path}: not MetaTool's task 1: {exc!r}") from exc


def read_bfcl(path: Path) -> list[tuple[str, int]]:
    """(question, number of functions offered) of a BFCL file."""
    out: list[tuple[str, int]] = []
    for at, line in _lines(path):
        try:
            row = json.loads(line)
            turns = row["question"][0]
            text = next(turn["content"] for turn in turns if turn["role"] == "user")
        except (ValueError, KeyError, IndexError, TypeError, StopIteration) as exc:
            raise DataError(f"{path}:{at}: not a BFCL question: {exc!r}") from exc
        out.append((str(text), len(row.get("function", ()))))
    return out


@dataclass(frozen=True, slots=True)
class AgentTurn:
    """A request with the tools on offer and those that its right answer calls, in order."""

    tools: tuple[str, ...]
    text: str
    called: tuple[str, ...]


_CLASS_FILES = {
    "GorillaFileSystem": "gorilla_file_system", "MathAPI": "math_api",
    "MessageAPI": "message_api", "TwitterAPI": "posting_api", "TicketAPI": "ticket_api",
    "TradingBot": "trading_bot", "TravelAPI": "travel_booking",
    "VehicleControlAPI": "vehicle_control",
}  # fmt: skip


def read_agent_turns(folder: Path) -> list[AgentTurn]:
    """The users' turns of BFCL's multi-turn conversations. Raises DataError naming the file and the line."""
    offered = {
        name: [
            _json(docs, at, line)["name"]
            for docs in [folder / "bfcl_multi_turn_func_doc" / f"{file}.json"]
            for at, line in _lines(docs)
        ]
        for name, file in _CLASS_FILES.items()
    }
    path = folder / "bfcl_possible_answer_BFCL_v4_multi_turn_base.json"
    answers = {
        row["id"]: row["ground_truth"] for row in (_json(path, *one) for one in _lines(path))
    }
    path = folder / "bfcl_BFCL_v4_multi_turn_base.json"
    turns: list[AgentTurn] = []
    for at, line in _lines(path):
        row = _json(path, at, line)
        try:
            left_out = row.get("excluded_function", ())
            classes = sorted(row["involved_classes"])
            tools = tuple(name for one in classes for name in offered[one] if name not in left_out)
            for said, calls in zip(row["question"], answers[row["id"]], strict=True):
                called = tuple(call.split("(")[0].split(".")[-1] for call in calls)
                text = next((one["content"] for one in said if one["role"] == "user"), "")
                if text:
                    turns.append(AgentTurn(tools, str(text), called))
        except (KeyError, TypeError, ValueError) as exc:
            raise DataError(f"{path}:{at}: not a conversation of BFCL: {exc!r}") from exc
    return turns


def _json(path: Path, at: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as exc:
        raise DataError(f"{path}:{at}: not JSON: {exc}") from exc
    if not isinstance(row, dict):
        raise DataError(f"{path}:{at}: not an object")
    return row


def view(text: str) -> PromptView:
    """A single plain request of this text."""
    return PromptView(text=text, total_chars=len(text))
