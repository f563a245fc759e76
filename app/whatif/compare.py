"""Compare configurations over one trace, and propose the cheapest that meets the latency objective.

The proposal walks a grid of ``fast_share`` (and, with prompts, of the exact cache's TTL)
around the first configuration. More fast traffic is almost always cheaper and faster, and a trace says
nothing of its effect on answer quality; so the grid ends at the largest ``fast_share`` that the operator
configured, or gave with ``--most-fast``.
"""

# ruff: noqa: ISC004 - lists of sentences that are longer than a line
from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from app.whatif.decision_replay import DecisionReplay, classify_arrivals
from app.whatif.estimate import Estimate, estimate_figures
from app.whatif.recorded_calls import DEFAULT_HIT_S, RecordedCalls
from app.whatif.tier_shift import TierShiftReplay
from app.whatif.traffic import TraceError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from app.lanes.rules import Lanes
    from app.settings import Settings
    from app.whatif.outcome import Outcomes
    from app.whatif.traffic import Traffic

_SHARES = tuple(step / 10 for step in range(11))
_TTLS_S = (60, 600, 3_600, 86_400)
_FEW_CALLS = 30
_PER_HIT = 5.0
"""The bound per semantic hit, as a multiple of ``max_error_rate``."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A configuration to evaluate."""

    name: str
    settings: Settings
    lanes: Lanes | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """The result of a comparison."""

    file: str
    kind: str
    requests: int
    failed: int
    span_s: float
    resamples: int
    seed: int
    estimates: tuple[Estimate, ...]
    proposal: Estimate | None
    """None: nothing in the grid meets the objective."""
    least_fast: Estimate | None
    """The candidate with the smallest fast share that meets the objective: the best for quality."""
    most_fast: float
    tried: int
    assumptions: tuple[str, ...]


class Comparison:
    """Evaluates candidates over one trace, with one seed."""

    def __init__(
        self,
        traffic: Traffic,
        candidates: Sequence[Candidate],
        evidence: RecordedCalls,
        *,
        resamples: int,
        seed: int,
        progress: Callable[[int, int, str], None],
    ) -> None:
        """The first of ``candidates`` is what the trace was recorded under."""
        self._traffic, self._candidates, self._evidence = traffic, tuple(candidates), evidence
        self._resamples, self._seed, self._progress = resamples, seed, progress
        self._known = None
        if traffic.has_prompts:
            total = len(traffic.arrivals)
            self._known = classify_arrivals(
                traffic.arrivals, lambda at: progress(at, total, "classifying")
            )

    def report(self, most_fast: float | None = None) -> Report:
        """Evaluate every candidate and the grid. Raises ``TraceError``."""
        bound = most_fast
        if bound is None:
            bound = max(each.settings.routing.fast_share for each in self._candidates)
        grid = self._grid(bound)
        total = len(self._candidates) + len(grid)
        found: list[Estimate] = []
        for each in self._candidates:
            self._progress(len(found), total, each.name)
            found.append(self.estimate(each))
        for at, each in enumerate(grid, len(found)):
            self._progress(at, total, each.name)
            with suppress(TraceError):  # it calls a tier without recorded calls: no proposal
                found.append(self.estimate(each))
        self._progress(total, total, "done")
        given, tried = found[: len(self._candidates)], found
        holding = [
            each for each in tried if each.verdict == "holds" and each.fast_share <= bound + 1e-9
        ]
        arrivals = self._traffic.arrivals
        return Report(
            file=self._traffic.file,
            kind=self._traffic.kind,
            requests=len(arrivals),
            failed=self._traffic.failed,
            span_s=arrivals[-1].at_s - arrivals[0].at_s,
            resamples=self._resamples,
            seed=self._seed,
            estimates=tuple(given),
            proposal=min(
                holding, key=lambda it: (it.figures.cost_usd.value, it.fast_share), default=None
            ),
            least_fast=min(
                holding, key=lambda it: (it.fast_share, it.figures.cost_usd.value), default=None
            ),
            most_fast=bound,
            tried=len(tried),
            assumptions=tuple(self._assumptions()),
        )

    def estimate(self, candidate: Candidate) -> Estimate:
        """The figures of one configuration."""
        settings = candidate.settings
        pools = self._evidence.pools(settings)
        rng = np.random.default_rng(self._seed)
        arrivals = self._traffic.arrivals
        outcomes: Outcomes
        if self._known is not None:
            outcomes = DecisionReplay(settings, pools, candidate.lanes, rng).run(
                arrivals, self._known
            )
        else:
            outcomes = TierShiftReplay(settings, self._candidates[0].settings, pools, rng).run(
                arrivals
            )
        numbers, curve = estimate_figures(outcomes, pools.all, self._resamples, self._seed)
        return Estimate(
            candidate.name,
            len(arrivals),
            numbers,
            error_bound=self._error_bound(settings, outcomes),
            sources=dict(outcomes.sources),
            curve_s=curve,
            fast_share=settings.routing.fast_share,
            exact_ttl_s=settings.cache.exact.ttl_s if settings.cache.exact.enabled else None,
        )

    def _error_bound(self, settings: Settings, outcomes: Outcomes) -> float:
        """Upper bound of the share of requests with a wrong hit: per request, and per hit where hits are
        known.
        """
        semantic = settings.cache.semantic
        if not (semantic.enabled and settings.cache.exact.enabled):
            return 0.0
        if self._known is not None:
            return semantic.max_error_rate
        by_meaning = outcomes.sources["semantic"] / len(outcomes.pool)
        return min(semantic.max_error_rate, _PER_HIT * semantic.max_error_rate * by_meaning)

    def _grid(self, bound: float) -> list[Candidate]:
        base = self._candidates[0]
        shares = sorted({bound, *(share for share in _SHARES if share <= bound)})
        exact = base.settings.cache.exact
        ttls = [exact.ttl_s]
        if self._known is not None and exact.enabled:
            ttls = sorted({exact.ttl_s, *_TTLS_S})
        return [
            Candidate(_named(share, ttl_s, ttls), _with(base.settings, share, ttl_s), base.lanes)
            for share in shares
            for ttl_s in ttls
        ]

    def _replayed_settings(self) -> Sequence[str]:
        """Prefixes of the settings that a replay of this trace takes into account."""
        always = (
            "routing.fast_share",
            "cache.exact.enabled",
            "cache.coalesce",
            "lanes.enabled",
            "models",
        )
        if self._known is not None:
            return (*always, "cache.exact.ttl_s", "cache.exact.max_bytes", "cache.sharing.scope",
                    "lanes.", "cache.semantic.", "routing.tenants", "routing.mean_")  # fmt: skip
        return (*always, "cache.semantic.")

    def _assumptions(self) -> list[str]:
        traffic, evidence = self._traffic, self._evidence
        calls = {
            model: sum(call.model == model for call in evidence.calls)
            for model in sorted(evidence.models)
        }
        counts = ", ".join(f"{model} {count:,}" for model, count in calls.items()) or "none"
        notes = [
            f"Calls that were never made take what recorded ones took, drawn whole ({counts}). These had the"
            " prompts that went to their tier then; more load does not make them slower.",
            "Retries, hedges, escalations and errors happen as often as in the recorded calls; failed"
            f" requests ({traffic.failed:,}) are left out. What becomes of the quality is in no trace.",
            "A moved call's prompt is priced as uncached; a kept call keeps its recorded tokens.",
            "Intervals are 95 %, by a bootstrap over blocks of requests and over the recorded calls; which"
            " requests hit, and which tier is asked, are those of one run.",
        ]
        notes += _ignored_settings(self._candidates, self._replayed_settings())
        few = [model for model, count in calls.items() if count < _FEW_CALLS]
        if few:
            notes.append(
                f"Fewer than {_FEW_CALLS} calls: {', '.join(few)}. Their times are a guess."
            )
        if not evidence.hits_known:
            notes.append(f"No hit is recorded: one takes {DEFAULT_HIT_S * 1e3:.0f} ms.")
        return notes + (_of_prompts() if traffic.has_prompts else _without_prompts(traffic))


def _ignored_settings(candidates: Sequence[Candidate], acted: Sequence[str]) -> list[str]:
    """For each configuration, the differences from the first that the replay ignores."""
    base = _flat(candidates[0].settings.model_dump(mode="json"))
    notes = []
    for each in candidates[1:]:
        mine = _flat(each.settings.model_dump(mode="json"))
        names = sorted(
            key
            for key in base.keys() | mine.keys()
            if base.get(key) != mine.get(key) and not key.startswith(tuple(acted))
        )
        if names:
            notes.append(f"Not acted on, of {each.name}: {', '.join(names[:10])}.")
    return notes


def _flat(values: Mapping[str, object], before: str = "") -> dict[str, object]:
    """Nested settings by dotted key."""
    flat: dict[str, object] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{before}{key}."))
        else:
            flat[before + key] = value
    return flat


def _of_prompts() -> list[str]:
    return [
        "Lanes, cache keys, life times, joined flights, classifier and router are the gateway's own code in"
        " virtual time, from an empty cache and a fresh router (shipped head, starting threshold).",
        "One worker's cache; answers are whole, may be kept and fill no room; prompts have 4 characters a"
        " token where no count is told.",
        "Hits by meaning are not replayed: the hit ratio is a lower bound, and the error bound is what"
        " cache.semantic.max_error_rate promises.",
    ]


def _without_prompts(traffic: Traffic) -> list[str]:
    how = (
        "by their recorded scores"
        if any(row.recorded and row.recorded.score is not None for row in traffic.arrivals)
        else "at random, as no scores are recorded"
    )
    notes = [
        "The trace was recorded under the first settings: with those it stays as it is.",
        f"No prompts are recorded: another fast_share moves calls between the tiers {how}.",
        "Without prompts another time to live or error rate cannot be judged: recorded hits stay, unless"
        " their cache is switched off.",
    ]
    if traffic.summed:
        notes.append(
            f"{traffic.summed:,} requests stand in summed rows of the ledger and have their mean's time:"
            " the spread is understated."
        )
    return notes


def _named(share: float, ttl_s: int, ttls: Sequence[int]) -> str:
    name = f"routing.fast_share={share:g}"
    return name if len(ttls) == 1 else f"{name},cache.exact.ttl_s={ttl_s:g}"


def _with(settings: Settings, share: float, ttl_s: int) -> Settings:
    # A target on the mean would move the share that is tried.
    tried = {"fast_share": share, "mean_usd": None, "mean_s": None}
    routing = settings.routing.model_copy(update=tried)
    exact = settings.cache.exact.model_copy(update={"ttl_s": ttl_s})
    cache = settings.cache.model_copy(update={"exact": exact})
    return settings.model_copy(update={"routing": routing, "cache": cache})
