"""A refit in a process of its own comes to what the learner itself would come to, and can be ended."""

from __future__ import annotations

import logging

import pytest

from app.classify.classifier import Classifier
from app.classify.complexity import Complexity, GainFeatures
from app.classify.features import extract
from app.domain.decisions import PromptView
from app.pipeline.router_refit import RouterRefit, new_learner
from app.pipeline.router_training import RouterTrainer
from app.routing.learning import Label


def labels(count: int) -> tuple[Label[GainFeatures], ...]:
    complexity = Complexity()
    texts = [
        f"Prove that {at} is odd, step by step." if at % 2 else f"Who wrote book {at}?"
        for at in range(count)
    ]
    views = [PromptView(text, total_chars=len(text)) for text in texts]
    return tuple(
        Label(complexity.features_of(extract(view)), float(at % 2 and at % 5 != 0), 0.5)
        for at, view in enumerate(views)
    )


def test_the_process_comes_to_the_head_that_the_learner_comes_to():
    known = labels(120)
    here, there = new_learner().challenge(known), RouterRefit().run(known, None, 3)
    assert here is not None
    assert there is not None
    assert there.drifts == 3
    assert (there.report.labels, there.report.swapped) == (120, here.report.swapped)
    assert there.report.challenger == pytest.approx(here.report.challenger, abs=0.02)
    for label in known[:20]:
        assert there.head.probability(label.features) == pytest.approx(
            here.head.probability(label.features), abs=1e-3
        )


def test_the_serving_head_is_a_party_of_the_contest():
    known = labels(120)
    first = RouterRefit().run(known, None, 0)
    assert first is not None
    again = RouterRefit().run(known, first.head, 0)
    assert again is not None
    assert again.report.champion > first.report.champion


def test_nothing_to_learn_is_no_challenge():
    assert RouterRefit().run((), None, 0) is None
    assert RouterRefit().run(labels(10), None, 0) is None


def test_a_stopped_refit_ends_at_once():
    refit = RouterRefit()
    refit.stop()
    with pytest.raises(OSError, match="ended with status"):
        refit.run(labels(60), None, 0)


@pytest.mark.anyio
async def test_a_refit_without_a_process_is_said_and_serving_goes_on(monkeypatch, caplog):
    monkeypatch.setattr("sys.executable", "/nonexistent/python")
    teacher = RouterTrainer(Classifier())
    with caplog.at_level(logging.WARNING):
        for label in labels(60):
            teacher.add_label(label.features, label.gain, label.propensity)
        await teacher.aclose()
    assert "router refit" in caplog.text
    assert teacher.learner.champion is None
