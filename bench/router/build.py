"""Build the shipped tables from the permissively licensed public data: `python -m bench.router.build`.

Every other prompt of the routing sets (by crc32) stays out, for the benchmark; EverGreenQA's dev part
too. No label of quality enters: topics are learned from the sets' own subject names.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from app.classify.evergreen import EvergreenScorer
from app.classify.features import Features, extract
from app.classify.text_classifier import LinearTextClassifier
from app.classify.topics import Topics
from app.learn.hashed_linear import HashedRows, fit_hashed
from bench.router import data

OUT = data.ROOT / "app" / "classify" / "artefacts"
LASTING_PENALTY = 2.0
TOOL_NEED_PENALTY = 0.5
_TOPIC_PENALTY = 0.5
_MIN_PROMPTS_A_COLUMN = 3
_MAX_A_TOPIC = 800


def topics(shared: Path) -> Topics:
    """Fit the table of topics."""
    texts = [
        (row.domain, row.prompt)
        for row in data.read_pairs(shared / "routing" / "pairs.jsonl")
        if data.in_build_half(row.prompt)
    ]
    tools = shared / "tools"
    texts += [
        ("question", text) for text, _ in data.read_evergreen(tools / "evergreenqa/train.csv")
    ]
    texts += [("request", text) for text, _ in data.read_metatool(tools / "metatool/Task1.json")]
    for name in ("live_simple", "simple_python"):
        rows = data.read_bfcl(tools / "bfcl" / f"BFCL_v4_{name}.json")
        texts += [("function", text) for text, _ in rows]
    return fit_topics(texts)


def fit_topics(texts: list[tuple[str, str]]) -> Topics:
    """Fit topics to (name, text) rows."""
    seen: dict[str, int] = {}
    kept = []
    for name, text in dict.fromkeys(texts):
        seen[name] = seen.get(name, 0) + 1
        if seen[name] <= _MAX_A_TOPIC:
            kept.append((name, text))
    names = sorted(seen)
    rows = HashedRows.of([extract(data.view(text)).hashed for _, text in kept])
    target = np.array([[float(name == one) for one in names] for name, _ in kept])
    model = fit_hashed(rows, target, penalty=_TOPIC_PENALTY, steps=25)
    frequency = np.bincount(rows.columns, minlength=len(model.idf))
    return Topics.of_linear(tuple(names), model, np.flatnonzero(frequency >= _MIN_PROMPTS_A_COLUMN))


def fit_evergreen(rows: list[tuple[str, bool]]) -> LinearTextClassifier:
    """Fit P(the answer never changes) to labelled questions."""
    cues = EvergreenScorer(None)
    texts = features_of(rows)
    return LinearTextClassifier.fit(
        texts,
        [label for _, label in rows],
        penalty=LASTING_PENALTY,
        cues=np.array([cues.cues(text.text) for text in texts]),
        balanced=True,
    )


def fit_tool_need(rows: list[tuple[str, bool]]) -> LinearTextClassifier:
    """Fit P(some tool is needed) to labelled requests."""
    labels = [label for _, label in rows]
    return LinearTextClassifier.fit(features_of(rows), labels, penalty=TOOL_NEED_PENALTY)


def features_of(rows: list[tuple[str, bool]]) -> list[Features]:
    """Features of the texts of labelled rows."""
    return [extract(data.view(text)) for text, _ in rows]


def main() -> int:
    """Write the three tables. The shared data is the first argument, or lies beside the project."""
    shared = Path(sys.argv[1]) if len(sys.argv) > 1 else data.SHARED
    OUT.mkdir(exist_ok=True)
    evergreen = shared / "tools" / "evergreenqa"
    dev = {text.lower() for text, _ in data.read_evergreen(evergreen / "dev.csv")}
    rows = data.read_evergreen(evergreen / "train.csv")
    rows += data.read_evergreen(evergreen / "train_synth.csv")
    tables = {
        "topics": topics(shared).to_bytes(),
        "evergreen": fit_evergreen([row for row in rows if row[0].lower() not in dev]).to_bytes(),
        "tool_need": fit_tool_need(
            data.read_metatool(shared / "tools/metatool/Task1.json")
        ).to_bytes(),
    }
    for name, content in tables.items():
        (OUT / f"{name}.npz").write_bytes(content)
        print(f"{name}.npz: {len(content):,} bytes")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
