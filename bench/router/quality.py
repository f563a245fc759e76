"""The quality of the router's scores (APGR, calibration): without labels, by learning curve, and online."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.classify.calibration import apgr, apgr_interval, expected_calibration_error
from app.classify.complexity import Complexity, GainFeatures, GainHead, fit_head, score
from app.classify.features import extract
from app.learn.hashed_linear import HashedLinear, HashedRows, fit_hashed
from app.pipeline.router_refit import new_learner
from app.routing.learning import Label, RouterLearner, ShadowSampler
from bench.router.data import Pair, view
from bench.router.embed import minilm
from bench.router.plain_scorer import plain_score
from bench.router.report import Figure

Floats = NDArray[np.float64]

SEEDS = 5
ONLINE_SEEDS = 6
TEST_ROWS = 2_500
SHADOW_SHARE = 0.05
_NEIGHBOURS = 25
_MIN_STREAM = 1_000
_PLAIN_REFIT, _PLAIN_SCALE = 50, 0.015
_NEURAL_ROWS = 2_000
_TELLING = 0.018  # where chance alone gives more, an error of 0.02 cannot be told
_KEYWORDS = re.compile(
    r"(?i)\b(?:why|explain|prove|analy[sz]e|compare|design|derive|step by step)\b"
)


@dataclass(frozen=True, slots=True)
class Stream:
    """Prompts of one kind of traffic with their features and gains."""

    name: str
    rows: tuple[Pair, ...]
    points: tuple[GainFeatures, ...]
    gain: Floats

    def __len__(self) -> int:
        return len(self.rows)


def streams_of(rows: Sequence[Pair], complexity: Complexity) -> tuple[Stream, list[Stream]]:
    """The mixed stream of all rows, and one stream for each set and pair of models in it."""
    points = [complexity.features_of(extract(view(row.prompt))) for row in rows]

    def stream(name: str, at: Sequence[int]) -> Stream:
        return Stream(
            name,
            tuple(rows[one] for one in at),
            tuple(points[one] for one in at),
            np.array([rows[one].gain for one in at]),
        )

    parts: dict[str, list[int]] = {}
    for at, row in enumerate(rows):
        parts.setdefault(f"{row.set} {row.pair}", []).append(at)
    return stream("mixed", range(len(rows))), [stream(name, at) for name, at in parts.items()]


def by_pair(mixed: Stream) -> list[Stream]:
    """The mixed stream of each pair of models, where a file holds several."""
    places: dict[str, list[int]] = {}
    for at, row in enumerate(mixed.rows):
        places.setdefault(row.pair, []).append(at)
    if len(places) == 1:
        return []
    return [
        Stream(
            name,
            tuple(mixed.rows[one] for one in at),
            tuple(mixed.points[one] for one in at),
            mixed.gain[at],
        )
        for name, at in places.items()
        if len(at) >= _MIN_STREAM
    ]


def without_labels(mixed: Stream, parts: Sequence[Stream]) -> list[Figure]:
    """APGR of the prior; on no set may its 95 % interval lie wholly below 0.5, random."""
    figures: list[Figure] = []
    below = 0
    for stream in (mixed, *parts):
        scores = np.array([score(None, point) for point in stream.points])
        low, high = apgr_interval(scores, stream.gain)
        below += high < 0.5
        note = f"[{low:.3f}, {high:.3f}] n={len(stream)}"
        figures.append(Figure(f"prior, {stream.name}", apgr(scores, stream.gain), note=note))
    for name, scores in _baselines(mixed).items():
        figures.append(Figure(f"{name}, mixed", apgr(scores, mixed.gain)))
    figures.append(Figure("sets where the prior is below a coin", float(below), 0.0, "<="))
    return figures


def _baselines(stream: Stream) -> dict[str, Floats]:
    return {
        "random": np.zeros(len(stream)),
        "length": np.array([float(len(row.prompt)) for row in stream.rows]),
        "keywords": np.array([float(len(_KEYWORDS.findall(row.prompt))) for row in stream.rows]),
    }


def learning_curve(stream: Stream, bars: dict[int, float | None]) -> list[Figure]:
    """APGR after n labels drawn at random, on prompts outside them: mean of the seeds."""
    figures: list[Figure] = []
    for labels, bar in bars.items():
        if len(stream) < labels + 300:
            continue
        runs = [_train_and_test(stream, labels, seed) for seed in range(SEEDS)]
        table = {name: np.array([run[name] for run in runs]) for name in runs[0]}
        for name, values in table.items():
            own = name == "router"
            note = f"± {values.std():.3f} over {SEEDS} seeds"
            label = f"{name}, {labels} labels, {stream.name}"
            figures.append(Figure(label, float(values.mean()), bar if own else None, note=note))
    return figures


def calibration(stream: Stream) -> list[Figure]:
    """Calibration error of P(the powerful model is better), five-fold cross-validation."""
    if len(stream) < _MIN_STREAM:
        return []
    order = np.random.default_rng(0).permutation(len(stream))
    stated = np.empty(len(stream))
    for test in np.array_split(order, 5):
        train = np.setdiff1d(order, test)
        head = fit_head([stream.points[at] for at in train], stream.gain[train].tolist())
        stated[test] = [score(head, stream.points[at]) for at in test]
    better = (stream.gain > 0).astype(np.float64)
    coin = np.random.default_rng(1).random((20, len(stream))) < stated
    floor = np.mean([expected_calibration_error(stated, one.astype(np.float64)) for one in coin])
    return [
        Figure(
            f"calibration error (ECE), {stream.name}",
            expected_calibration_error(stated, better),
            0.02 if floor < _TELLING else None,
            "<=",
            f"a perfect forecaster's would be {floor:.3f} here; n={len(stream)}",
        ),
        Figure(f"APGR, five folds, {stream.name}", apgr(stated, stream.gain)),
    ]


def _train_and_test(stream: Stream, labels: int, seed: int) -> dict[str, float]:
    order = np.random.default_rng(seed).permutation(len(stream))
    train, test = order[:labels], order[labels : labels + TEST_ROWS]
    head = fit_head([stream.points[at] for at in train], stream.gain[train].tolist(), seed=seed)
    scores = np.array([score(head, stream.points[at]) for at in test])
    near = _neighbours(_word_vectors(stream), stream.gain, train, test)
    return {
        "router": apgr(scores, stream.gain[test]),
        "kNN on words": apgr(near, stream.gain[test]),
    }


def neural_baseline(stream: Stream) -> list[Figure]:
    """KNN on MiniLM vectors, and the router, on the same sample."""
    if len(stream) < _NEURAL_ROWS:
        return []
    picked = np.random.default_rng(7).permutation(len(stream))[:_NEURAL_ROWS].tolist()
    rows = tuple(stream.rows[at] for at in picked)
    sample = Stream("sample", rows, tuple(stream.points[at] for at in picked), stream.gain[picked])
    vectors = minilm([row.prompt for row in rows])
    if vectors is None:
        return []
    table: dict[str, list[float]] = {}
    for labels in (100, 1_000):
        for seed in range(SEEDS):
            order = np.random.default_rng(seed).permutation(len(sample))
            train, test = order[:labels], order[labels:]
            near = _neighbours(vectors, sample.gain, train, test)
            own = _train_and_test(sample, labels, seed)["router"]
            table.setdefault(f"kNN on MiniLM, {labels} labels", []).append(
                apgr(near, sample.gain[test])
            )
            table.setdefault(f"router, {labels} labels", []).append(own)
    note = f"{_NEURAL_ROWS} prompts, {SEEDS} seeds"
    return [Figure(name, float(np.mean(values)), note=note) for name, values in table.items()]


def _word_vectors(stream: Stream) -> Floats:
    """Bags of words by feature hashing into 256 signed columns, which about preserves their cosine."""
    out = np.zeros((len(stream), 256))
    for row, point in zip(out, stream.points, strict=True):
        sign = 1.0 - 2.0 * ((point.hashed >> 8) & 1)
        np.add.at(row, point.hashed & 255, sign)
    unit: Floats = out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-9)
    return unit


def _neighbours(
    vectors: Floats, gain: Floats, train: NDArray[np.intp], test: NDArray[np.intp]
) -> Floats:
    near = np.argsort(-(vectors[test] @ vectors[train].T), axis=1)[:, :_NEIGHBOURS]
    out: Floats = gain[train][near].mean(axis=1)
    return out


def online(stream: Stream) -> list[Figure]:
    """APGR in the last half of the stream: two baselines, 5 % shadow labels, every label.

    The bar is a share of what every label gains, and that has two readings. Over the prior that is
    shipped, which holds most of it already, so that a better prior makes the share worse; and over a
    scorer with weights set by hand, the zero of the issue's own figures, where a better prior counts.
    """
    if len(stream) < _MIN_STREAM:
        return []
    runs, plains = [], []
    hand = np.array([plain_score(point.dense) for point in stream.points])
    for seed in range(ONLINE_SEEDS):
        order = np.random.default_rng(100 + seed).permutation(len(stream))
        last = order[len(order) // 2 :]
        before = np.array([score(None, stream.points[at]) for at in last])
        shadow, share = _serve(stream, order, seed, SHADOW_SHARE)
        full, _ = _serve(stream, order, seed, None)
        plain = _serve_plainly(stream, order, seed)
        ranked = (before, hand[last], shadow, full)
        runs.append([apgr(one, stream.gain[last]) for one in ranked] + [share])
        plains.append(apgr(plain, stream.gain[last]))
    table = np.array(runs)
    before_, hand_, shadow_, full_, share_ = (float(part) for part in table.mean(axis=0))
    over_coin = (shadow_ - 0.5) / max(1e-9, full_ - 0.5)
    plain_ = float(np.mean(plains))
    name = stream.name
    return [
        Figure(f"prior, last half, {name}", before_),
        Figure(f"scorer with weights set by hand, last half, {name}", hand_),
        Figure(f"5 % shadow, last half, {name}", shadow_, note=f"labelled {share_:.1%}"),
        Figure(f"every label, last half, {name}", full_),
        Figure(f"labelled share, {name}", share_, SHADOW_SHARE, "<="),
        _share_won(f"the prior, {name}", table[:, (0, 2, 3)]),
        _share_won(f"a hand-set scorer, {name}", table[:, (1, 2, 3)]),
        Figure(f"share of the full-label gain over a coin, {name}", over_coin),
        Figure(f"plain refit at 5 %, last half, {name}", plain_),
        Figure(
            f"share of the full-label gain over a coin, plain refit, {name}",
            (plain_ - 0.5) / max(1e-9, full_ - 0.5),
        ),
    ]


def _share_won(zero: str, runs: Floats) -> Figure:
    """The share of the full-label gain over a baseline that few labels won. `runs`: baseline, few, every."""
    drawn = np.random.default_rng(5).integers(0, len(runs), (500, len(runs)))
    low, high = np.quantile([_won(runs[at]) for at in drawn], (0.05, 0.95))
    note = f"90 % interval over {len(runs)} orders [{low:.2f}, {high:.2f}]"
    return Figure(f"share of the full-label gain over {zero}", _won(runs), 0.80, note=note)


def _won(runs: Floats) -> float:
    before, shadow, full = runs.mean(axis=0)
    return float((shadow - before) / (full - before)) if full > before else 1.0


def _serve(
    stream: Stream, order: NDArray[np.intp], seed: int, share: float | None
) -> tuple[Floats, float]:
    """Serve the stream in `order`, learning on the way; scores of its last half as served."""
    learner: RouterLearner[GainFeatures, GainHead] = new_learner()
    budget = ShadowSampler(share, horizon=len(order), seed=seed) if share is not None else None
    scores = np.empty(len(order))
    looked = 0
    for place, at in enumerate(order):
        point = stream.points[at]
        scores[place] = score(learner.champion, point)
        spread = float(np.sqrt(scores[place] * (1 - scores[place])))
        propensity = 1.0 if budget is None else budget.sample(spread)
        if propensity is None:
            continue
        looked += 1
        if learner.observe(Label(point, float(stream.gain[at]), propensity)):
            learner.refit()
    return scores[len(order) // 2 :], looked / len(order)


def _serve_plainly(stream: Stream, order: NDArray[np.intp], seed: int) -> Floats:
    """As `_serve`, but the share is drawn evenly, and a ridge on hashed words alone, refitted every 50
    labels, takes the prior's place: what is left without topics, pace, contest and a lasting prior.
    """
    looked = np.random.default_rng(seed).random(len(order)) < SHADOW_SHARE
    scores = np.empty(len(order))
    model: HashedLinear | None = None
    known: list[int] = []
    for place, at in enumerate(order.tolist()):
        point = stream.points[at]
        scores[place] = score(None, point) if model is None else model.one(point.hashed)
        if not looked[place]:
            continue
        known.append(at)
        if len(known) % _PLAIN_REFIT == 0:
            gain = stream.gain[known]
            rows = HashedRows.of([stream.points[one].hashed for one in known])
            penalty = max(float(gain.var()), 1e-3) / _PLAIN_SCALE
            model = fit_hashed(rows, gain[:, None], penalty=penalty)
    return scores[len(order) // 2 :]
