"""Train the router: verdicts and shadow runs become labels, and labels a refit beside serving.

A routed request is remembered by its features (``GainFeatures``: counts and hashes, never its text) and the
tier that answered. A later verdict (``POST /v1/feedback``) becomes a label of the powerful model's gain:

* the fast answer was bad: the powerful one would have been worth it (gain 1);
* the fast answer was good: nothing to gain (0);
* the powerful answer was bad: it did not help either (0);
* the powerful answer was good: no label, as it says nothing of the fast one.

Shadow runs (``app.pipeline.shadow``) add labels with the propensity of their sampling. The learner decides
when a refit is due; it runs in a process of its own (``app.pipeline.router_refit``), one at a time, on this
worker's labels and those that the host's other workers have saved; a head that ranks newer labels worse
than the serving one is not adopted. Labels outlive the process (``app.pipeline.router_label_files``). Not
thread-safe: one event loop owns it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict

from app.classify.classifier import Classifier
from app.classify.complexity import GainFeatures, GainHead
from app.domain.decisions import PromptView, Tier
from app.pipeline.router_label_files import LabelFiles
from app.pipeline.router_refit import RouterRefit, from_saved, new_learner, to_saved
from app.routing.learning import MAX_LABELS, Challenge, Label, RouterLearner

MAX_ROUTED = 1_000
"""Routed requests kept for a verdict; as many as the trace ring keeps."""
_SAVE_EVERY = 25
_log = logging.getLogger("slipstream.router")


class RouterTrainer:
    """Turns verdicts into labels, and labels into the complexity classifier's next head."""

    def __init__(self, classifier: Classifier) -> None:
        """Train the complexity score of ``classifier``."""
        self._classifier = classifier
        self._routed: OrderedDict[tuple[str, str], tuple[GainFeatures, Tier]] = OrderedDict()
        self._refit_task: asyncio.Task[None] | None = None
        self._due = False
        self._unsaved = 0
        self._refit = RouterRefit()
        self.files: LabelFiles | None = None
        """Where labels are saved; None: in memory only."""
        self.learner: RouterLearner[GainFeatures, GainHead] = new_learner()

    def record_routed(self, tenant: str, request_id: str, view: PromptView, tier: Tier) -> None:
        """Remember a request that the score routed, for a later verdict."""
        self._routed[tenant, request_id] = (self.point_of(view), tier)
        if len(self._routed) > MAX_ROUTED:
            self._routed.popitem(last=False)

    def point_of(self, view: PromptView) -> GainFeatures:
        """The features of a request, without its text."""
        return self._classifier.complexity.features_of(self._classifier.features(view))

    def record_verdict(
        self, tenant: str, request_id: str, *, good: bool, answered: Tier | None = None
    ) -> str:
        """Take a verdict; returns ``learned``, ``no label`` (it says nothing of the gain) or ``unknown``.

        ``answered``: the tier that answered, where a deadline or a race changed the score's choice.
        """
        seen = self._routed.pop((tenant, request_id), None)
        if seen is None:
            return "unknown"
        point, tier = seen
        tier = answered or tier
        if tier is Tier.POWERFUL and good:
            return "no label"
        self.add_label(point, 1.0 if tier is Tier.FAST and not good else 0.0)
        return "learned"

    def add_label(self, point: GainFeatures, gain: float, propensity: float = 1.0) -> None:
        """Add a label; refit and save beside serving when due."""
        self._due |= self.learner.observe(Label(point, gain, propensity))
        self._unsaved += 1
        wanted = self._due or (self.files is not None and self._unsaved >= _SAVE_EVERY)
        if wanted and self._refit_task is None:
            self._refit_task = asyncio.get_running_loop().create_task(
                self._refit_and_save(), name="refit"
            )

    def restore(self, files: LabelFiles) -> None:
        """Save labels to ``files`` from now on, and load those that exist. Up to a second of CPU."""
        self.files = files
        for saved in files.own():
            self.learner.observe(Label(saved.features, saved.gain, saved.propensity))
        others = from_saved(files.others())
        known = _sample((*others, *self.learner.snapshot()), len(others))
        self.adopt_head(self.learner.challenge(known))

    async def _refit_and_save(self) -> None:
        """Refit if due, and save."""
        try:
            due, self._due, self._unsaved = self._due, False, 0
            labels = tuple(self.learner.labels)
            if due:
                learner = self.learner
                known, champion, drifts = learner.snapshot(), learner.champion, learner.drifts
                self.adopt_head(await asyncio.to_thread(self._challenge, known, champion, drifts))
            if self.files is not None:
                await asyncio.to_thread(self.files.save, to_saved(labels))
        finally:
            self._refit_task = None

    def _challenge(
        self, labels: tuple[Label[GainFeatures], ...], champion: GainHead | None, drifts: int
    ) -> Challenge[GainHead] | None:
        """Fit and compare in a process of its own; None when there is nothing to learn."""
        others = [] if self.files is None else self.files.others()
        known = _sample((*from_saved(others), *labels), len(others))
        try:
            return self._refit.run(known, champion, drifts)
        except (OSError, ValueError) as exc:
            _log.warning("router refit: %s; it is tried again with the next labels", exc)
            return None

    def adopt_head(self, challenge: Challenge[GainHead] | None) -> None:
        """Let the challenge's winner score from now on."""
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

    async def drained(self) -> None:
        """Wait for a running refit."""
        if self._refit_task is not None:
            await self._refit_task

    async def aclose(self) -> None:
        """Stop a running refit, and save unsaved labels."""
        self._refit.stop()
        await self.drained()
        if self.files is not None:
            if self._unsaved:
                await asyncio.to_thread(self.files.save, to_saved(tuple(self.learner.labels)))
            self.files.close()


def _sample(
    labels: tuple[Label[GainFeatures], ...], others: int
) -> tuple[Label[GainFeatures], ...]:
    """At most ``MAX_LABELS``: every n-th of the other workers' (the first ``others`` of ``labels``), up to
    half of all, then the newest of our own. So a refit takes as long with any number of workers.
    """
    if len(labels) <= MAX_LABELS:
        return labels
    own = labels[others:][-max(MAX_LABELS // 2, MAX_LABELS - others) :]
    step = -(-others // (MAX_LABELS - len(own))) if others else 1
    return (*labels[:others:step], *own)
