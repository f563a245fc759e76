"""Serialisation of a fitted head, for the way from the process that fits to the one that serves."""

from __future__ import annotations

import io

import numpy as np

from app.classify.complexity import GainHead, LinearCalibration
from app.learn.archive_errors import ARCHIVE_READ_ERRORS
from app.learn.gbdt import Gbdt
from app.learn.hashed_linear import HashedLinear
from app.learn.isotonic import Isotonic


def head_to_bytes(head: GainHead) -> bytes:
    """Serialise without pickle; `head_from_bytes` restores the same scores."""
    trees = b"" if head.trees is None else head.trees.to_bytes()
    buffer, line = io.BytesIO(), head.linear_calibration
    np.savez(
        buffer,
        numbers=np.array(
            [head.labels, head.lower_bound, head.trees_weight, line.intercept, line.slope]
        ),
        weights=head.linear.weights,
        idf=head.linear.idf,
        dense=head.linear.dense,
        bias=head.linear.bias,
        trees=np.frombuffer(trees, dtype=np.uint8),
        stated_at=head.isotonic_calibration.x,
        stated=head.isotonic_calibration.y,
    )
    return buffer.getvalue()


def head_from_bytes(data: bytes) -> GainHead:
    """Restore what `head_to_bytes` wrote. Raises ValueError on any other bytes."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            labels, lower_bound, trees_weight, intercept, slope = archive["numbers"].tolist()
            trees = archive["trees"].tobytes()
            return GainHead(
                labels=int(labels),
                lower_bound=lower_bound,
                linear=HashedLinear(
                    archive["weights"], archive["idf"], archive["dense"], archive["bias"]
                ),
                trees=Gbdt.from_bytes(trees) if trees else None,
                trees_weight=trees_weight,
                isotonic_calibration=Isotonic(archive["stated_at"], archive["stated"]),
                linear_calibration=LinearCalibration(intercept, slope),
            )
    except ARCHIVE_READ_ERRORS as exc:
        raise ValueError(f"router head: these {len(data)} bytes cannot be restored: {exc}") from exc
