"""What the router learns from: verdicts and shadow runs, turned into labels, and the refit beside serving.

A routed request is remembered by where it lies (``Point``: counts and hashes, never its text) and by
the tier that answered. A verdict that comes later (``POST /v1/feedback``) becomes a label of the
powerful model's gain:

* the fast answer was bad: the powerful one would have been worth it (gain 1);
* the fast answer was good: nothing to gain (0);
* the powerful answer was bad: it did not help either (0);
* the powerful answer was good: says nothing of what the fast one would have been, and is not a label.

Shadow runs (``app.pipeline.shadow``) bring labels with the propensity of having looked. The learner decides
when a refit is due; it runs in a process of its own (``app.pipeline.route_refit``), one at a time, on this
worker's labels and those that the host's other workers have saved, and a head that does not rank newer
labels at least as well does not take over. Labels outlive the process (``app.pipeline.label_files``). Not
thread-safe: one event loop owns it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict

from app.classify.classifier import Classifier
from app.classify.complexity import GainHead, Point
from app.domain.decisions import PromptView, Tier
from app.pipeline.label_files import LabelFiles
from app.pipeline.route_refit import RouteRefit, labels_of, new_learner, saved_of
from app.routing.learning import MAX_LABELS, Challenge, Label, RouterLearner

REMEMBERED = 1_000
"""Routed requests that a verdict can still reach; as many as the trace ring remembers."""
_SAVE_EVERY = 25
_log = logging.getLogger("slipstream.router")


class RouteTeacher:
    """Turns verdicts into labels and labels into a better head."""

    def __init__(self, classifier: Classifier) -> None:
        """Teach ``classifier``'s complexity score."""
        self._classifier = classifier
        self._seen: OrderedDict[tuple[str, str], tuple[Point, Tier]] = OrderedDict()
        self._working: asyncio.Task[None] | None = None
        self._due = False
        self._unsaved = 0
        self._refit = RouteRefit()
        self.files: LabelFiles | None = None
        """Where labels are kept; None: in memory alone."""
        self.learner: RouterLearner[Point, GainHead] = new_learner()

    def routed(self, tenant: str, request_id: str, view: PromptView, tier: Tier) -> None:
        """Remember a request that the score decided, for a verdict that may come."""
        self._seen[tenant, request_id] = (self.point(view), tier)
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)

    def point(self, view: PromptView) -> Point:
        """Where a request lies."""
        return self._classifier.complexity.point(self._classifier.features(view))

    def verdict(
        self, tenant: str, request_id: str, *, good: bool, answered: Tier | None = None
    ) -> str:
        """Take a verdict: ``learned``, ``no label`` (says nothing about the gain) or ``unknown``.

        ``answered``: the tier whose answer is judged, where it is another than the score's: a deadline or a
        race may have changed it.
        """
        seen = self._seen.pop((tenant, request_id), None)
        if seen is None:
            return "unknown"
        point, tier = seen
        tier = answered or tier
        if tier is Tier.POWERFUL and good:
            return "no label"
        self.learn(point, 1.0 if tier is Tier.FAST and not good else 0.0)
        return "learned"

    def learn(self, point: Point, gain: float, propensity: float = 1.0) -> None:
        """Take a label; refit and save beside serving when that is due."""
        self._due |= self.learner.observe(Label(point, gain, propensity))
        self._unsaved += 1
        wanted = self._due or (self.files is not None and self._unsaved >= _SAVE_EVERY)
        if wanted and self._working is None:
            self._working = asyncio.get_running_loop().create_task(self._work(), name="refit")

    def restore(self, files: LabelFiles) -> None:
        """Keep labels in ``files`` from now on, and take up those that are there. Up to a second of CPU."""
        self.files = files
        for saved in files.own():
            self.learner.observe(Label(saved.point, saved.gain, saved.propensity))
        others = labels_of(files.others())
        known = _no_more((*others, *self.learner.snapshot()), len(others))
        self.adopt(self.learner.challenge(known))

    async def _work(self) -> None:
        """Refit if that is due, and save."""
        try:
            due, self._due, self._unsaved = self._due, False, 0
            labels = tuple(self.learner.labels)
            if due:
                learner = self.learner
                known, champion, drifts = learner.snapshot(), learner.champion, learner.drifts
                self.adopt(await asyncio.to_thread(self._challenge, known, champion, drifts))
            if self.files is not None:
                await asyncio.to_thread(self.files.save, saved_of(labels))
        finally:
            self._working = None

    def _challenge(
        self, labels: tuple[Label[Point], ...], champion: GainHead | None, drifts: int
    ) -> Challenge[GainHead] | None:
        """Fit and contest in a process; None when nothing was learned."""
        others = [] if self.files is None else self.files.others()
        known = _no_more((*labels_of(others), *labels), len(others))
        try:
            return self._refit.run(known, champion, drifts)
        except (OSError, ValueError) as exc:
            _log.warning("router refit: %s; the next one is tried with the next labels", exc)
            return None

    def adopt(self, challenge: Challenge[GainHead] | None) -> None:
        """Let a head that held its own decide from now on."""
        report = self.learner.adopt(challenge)
        self._classifier.complexity.head = self.learner.champion
        if report is not None:
            _log.info(
                "router refit on %d labels: APGR %.3f before, %.3f after; %s",
                report.labels,
                report.champion,
                report.challenger,
                "swapped" if report.swapped else "kept",
            )

    async def settled(self) -> None:
        """Wait for a refit that is running."""
        if self._working is not None:
            await self._working

    async def aclose(self) -> None:
        """End a refit that is running, and save what is not yet."""
        self._refit.stop()
        await self.settled()
        if self.files is not None:
            if self._unsaved:
                await asyncio.to_thread(self.files.save, saved_of(tuple(self.learner.labels)))
            self.files.close()


def _no_more(labels: tuple[Label[Point], ...], others: int) -> tuple[Label[Point], ...]:
    """As many labels as one refit reads: of the others' first, every second, third ... and no more than
    half of them all; then the newest of our own. However many workers there are, a refit takes as long.
    """
    if len(labels) <= MAX_LABELS:
        return labels
    own = labels[others:][-max(MAX_LABELS // 2, MAX_LABELS - others) :]
    step = -(-others // (MAX_LABELS - len(own))) if others else 1
    return (*labels[:others:step], *own)
