"""Cacheability on EverGreenQA and tool need on MetaTool."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.classify.cacheability import STABLE_FROM
from app.classify.evergreen import EvergreenScorer
from app.classify.features import extract
from app.classify.text_classifier import LinearTextClassifier
from bench.router.build import features_of, fit_tool_need
from bench.router.data import SHARED, read_evergreen, read_metatool, view
from bench.router.report import Figure

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_LEAK = 0.02
_CHANGING_WORDS = (
    "current",
    "latest",
    "now",
    "today",
    "most",
    "recent",
    "last",
    "how old",
    "this year",
)


def cacheability(tools: Path) -> list[Figure]:
    """The shipped model on held-out questions, beside length and keyword baselines."""
    folder = tools / "evergreenqa"
    path = folder / "dev.csv" if (folder / "dev.csv").exists() else folder / "test.csv"
    trained = {
        text.lower()
        for name in ("train.csv", "train_synth.csv")
        for source in (SHARED / "tools" / "evergreenqa" / name, folder / name)
        if source.exists()
        for text, _ in read_evergreen(source)
    }
    rows = [row for row in read_evergreen(path) if row[0].lower() not in trained]
    evergreen = EvergreenScorer(LinearTextClassifier.shipped("evergreen"))
    label = np.array([stable for _, stable in rows])
    scores = {
        "evergreen": np.array([evergreen.score(extract(view(text))) for text, _ in rows]),
        "length": np.array([-float(len(text)) for text, _ in rows]),
        "keywords": np.array(
            [-float(sum(word in text.lower() for word in _CHANGING_WORDS)) for text, _ in rows]
        ),
        "random": np.random.default_rng(0).random(len(rows)),
    }
    own = scores["evergreen"]
    recall, leak = _served(own, label, STABLE_FROM)
    figures = [
        Figure("F1 (weighted) at 0.5", _weighted_f1(own > 0.5, label), 0.90, note=f"n={len(rows)}"),
        Figure("cacheable recall at 2 % volatile leakage", _recall_at_leak(own, label), 0.60),
        Figure(f"recall at the shipped threshold {STABLE_FROM}", recall),
        Figure(f"leakage at the shipped threshold {STABLE_FROM}", leak, _LEAK, "<="),
    ]
    figures += [Figure(f"AUROC, {name}", auroc(score, label)) for name, score in scores.items()]
    return figures


def tool_need(tools: Path) -> list[Figure]:
    """P(any tool): five-fold cross-validation, and the shipped model on held-out rows."""
    rows = read_metatool(tools / "metatool" / "Task1.json")
    shared = SHARED / "tools" / "metatool" / "Task1.json"
    known = {text for text, _ in read_metatool(shared)} if shared.exists() else set[str]()
    label = np.array([needed for _, needed in rows])
    texts = features_of(rows)
    score = np.empty(len(rows))
    for fold in np.array_split(np.random.default_rng(0).permutation(len(rows)), 5):
        head = fit_tool_need([rows[at] for at in np.setdiff1d(np.arange(len(rows)), fold)])
        score[fold] = [head.score(texts[at]) for at in fold]
    length = np.array([float(len(text)) for text, _ in rows])
    figures = [
        Figure("AUROC, five folds", auroc(score, label), 0.97, note=f"n={len(rows)}"),
        Figure("accuracy at 0.5, five folds", float(((score > 0.5) == label).mean())),
        Figure("AUROC, length", auroc(length, label)),
    ]
    new = np.array([text not in known for text, _ in rows])
    if new.sum() >= 50 and len(np.unique(label[new])) == 2:
        shipped = LinearTextClassifier.shipped("tool_need")
        fresh = np.array([shipped.score(text) for text, one in zip(texts, new, strict=True) if one])
        note = f"n={int(new.sum())}"
        figures.append(
            Figure("AUROC, shipped table, new rows", auroc(fresh, label[new]), note=note)
        )
    return figures


def auroc(score: Floats, label: Bools) -> float:
    """AUROC: P(a positive scores above a negative), ties count half."""
    yes, no = score[label], np.sort(score[~label])
    below = np.searchsorted(no, yes, "left") + np.searchsorted(no, yes, "right")
    return float(below.mean() / 2 / max(1, len(no)))


def _weighted_f1(said: Bools, label: Bools) -> float:
    total = 0.0
    for positive in (True, False):
        hit = float(((said == positive) & (label == positive)).sum())
        f1 = 2 * hit / max(1.0, float((said == positive).sum() + (label == positive).sum()))
        total += f1 * float((label == positive).mean())
    return total


def _recall_at_leak(score: Floats, label: Bools) -> float:
    """Recall of stable questions at the threshold that admits 2 % of the changing ones."""
    changing = np.sort(score[~label])[::-1]
    threshold = changing[int(_LEAK * len(changing))]
    return float((score[label] > threshold).mean())


def _served(score: Floats, label: Bools, threshold: float) -> tuple[float, float]:
    kept = score >= threshold
    return float(kept[label].mean()), float(kept[~label].mean())
