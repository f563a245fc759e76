"""A head that was fitted in another process scores as the one that was fitted there."""

from __future__ import annotations

import numpy as np
import pytest

from app.classify.complexity import Complexity, GainFeatures, GainHead, fit_head
from app.classify.features import extract
from app.classify.head_archive import head_from_bytes, head_to_bytes
from app.domain.decisions import PromptView


def taught(count: int) -> tuple[list[GainFeatures], GainHead]:
    complexity, random = Complexity(), np.random.default_rng(0)
    texts = [
        f"Prove that {at} is odd, step by step." if at % 2 else f"Who wrote book {at}?"
        for at in range(count)
    ]
    points = [
        complexity.features_of(extract(PromptView(text, total_chars=len(text)))) for text in texts
    ]
    head = fit_head(points, [float(at % 2 and random.random() < 0.8) for at in range(count)])
    assert head is not None
    return points, head


@pytest.mark.parametrize("count", [100, 1_100])
def test_a_restored_head_gives_every_point_the_same_score(count):
    points, head = taught(count)
    assert (head.trees is not None) == (count > 1_000)
    again = head_from_bytes(head_to_bytes(head))
    assert again.labels == count
    for point in points[:50]:
        assert again.probability(point) == head.probability(point)


@pytest.mark.parametrize("rubbish", [b"", b"rubbish", head_to_bytes(taught(60)[1])[:-400]])
def test_other_bytes_are_refused(rubbish):
    with pytest.raises(ValueError, match="router head"):
        head_from_bytes(rubbish)
