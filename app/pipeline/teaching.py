"""What the router learns from: verdicts on answers, turned into labels, and the refit beside serving.

A routed request is remembered by where it lies (``Point``: counts and hashes, never its text) and by
the tier that answered. A verdict that comes later (``POST /v1/feedback``) becomes a label of the
powerful model's gain:

* the fast answer was bad: the powerful one would have been worth it (gain 1);
* the fast answer was good: nothing to gain (0);
* the powerful answer was bad: it did not help either (0);
* the powerful answer was good: says nothing of what the fast one would have been, and is not a label.

The learner decides when a refit is due; it runs in a thread, one at a time, and a head that does not
rank newer labels at least as well does not take over. Not thread-safe but for the refit: one event loop
owns it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from app.classify.calibration import apgr
from app.classify.classifier import Classifier
from app.classify.complexity import GainHead, Point, fit_head, score
from app.classify.features import extract
from app.domain.decisions import PromptView, Tier
from app.routing.learning import Label, RouterLearner

REMEMBERED = 1_000
"""Routed requests that a verdict can still reach; as many as the trace ring remembers."""
_log = logging.getLogger("slipstream.router")


class RouteTeacher:
    """Turns verdicts into labels and labels into a better head."""

    def __init__(self, classifier: Classifier, remembered: int = REMEMBERED) -> None:
        """Teach ``classifier``'s complexity score."""
        self._classifier = classifier
        self._remembered = remembered
        self._seen: OrderedDict[tuple[str, str], tuple[Point, Tier]] = OrderedDict()
        self._refitting: asyncio.Task[None] | None = None
        self.learner: RouterLearner[Point, GainHead] = RouterLearner(_fit, score, _judge)

    def routed(self, tenant: str, request_id: str, view: PromptView, tier: Tier) -> None:
        """Remember a request that the score decided, for a verdict that may come."""
        point = self._classifier.complexity.point(extract(view))
        self._seen[tenant, request_id] = (point, tier)
        if len(self._seen) > self._remembered:
            self._seen.popitem(last=False)

    def verdict(self, tenant: str, request_id: str, *, good: bool) -> str:
        """Take a verdict: ``learned``, ``no label`` (says nothing about the gain) or ``unknown``."""
        seen = self._seen.pop((tenant, request_id), None)
        if seen is None:
            return "unknown"
        point, tier = seen
        if tier is Tier.POWERFUL and good:
            return "no label"
        gain = 1.0 if tier is Tier.FAST and not good else 0.0
        if self.learner.observe(Label(point, gain)) and self._refitting is None:
            self._refitting = asyncio.get_running_loop().create_task(self._refit(), name="refit")
        return "learned"

    async def _refit(self) -> None:
        try:
            report = await asyncio.to_thread(self.learner.refit)
            self._classifier.complexity.head = self.learner.champion
            if report is not None:
                _log.info(
                    "router refit on %d labels: APGR %.3f before, %.3f after; %s",
                    report.labels,
                    report.champion,
                    report.challenger,
                    "swapped" if report.swapped else "kept",
                )
        finally:
            self._refitting = None

    async def aclose(self) -> None:
        """Wait for a refit that is running: a thread cannot be stopped."""
        if self._refitting is not None:
            await self._refitting


def _fit(labels: Sequence[Label[Point]]) -> GainHead | None:
    return fit_head(
        [label.features for label in labels],
        [label.gain for label in labels],
        [label.weight for label in labels],
    )


def _judge(scores: Sequence[float], gains: Sequence[float], weights: Sequence[float]) -> float:
    return apgr(np.array(scores), np.array(gains), weight=np.array(weights))
