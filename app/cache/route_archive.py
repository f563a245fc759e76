"""A route's state as bytes and back, exactly: models, labels, bound and alarms.

A numpy archive without pickle: arrays for vectors and models, one JSON text for the rest. The
format has a version; bytes of another version, of another encoder build or damaged ones raise
`ArchiveError`, and the route then starts in shadow mode, as if new. Names in the archive are older
than those in the code and stay.
"""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

import numpy as np

from app.cache.bound import DriftDetector, EntryRecord, Limits, PseudoCounts, Threshold
from app.cache.route_state import RouteState
from app.cache.text_view import analyse
from app.cache.token_weights import TokenWeights
from app.cache.verifier import (
    AGREEMENT_COLUMNS,
    PAIR_COLUMNS,
    Idf,
    LabelledQuestion,
    RouteVerifier,
)
from app.learn.archive_errors import ARCHIVE_READ_ERRORS
from app.learn.gbdt import Gbdt
from app.learn.isotonic import Isotonic

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

VERSION: Final = 1
# The state's attributes, by their names in the archive.
_COUNTERS: Final = {
    "closed": "closed",
    "fitted_at": "fitted_at",
    "labels": "labels",
    "requests": "requests",
    "hits": "hits",
    "alarms": "alarms",
    "audited": "audited",
    "audited_wrong": "audited_wrong",
    "careful": "on_probation",
    "earning": "probation_left",
    "unseen": "hits_since_informative",
}
_FLAGS: Final = frozenset({"closed", "careful"})


class ArchiveError(ValueError):
    """The bytes are not a state that this version, with this encoder build, can go on from."""


def dump(state: RouteState, build_id: str) -> bytes:
    """Write a state; `build_id` names the encoder that its vectors and scores come from."""
    arrays: dict[str, NDArray[np.generic]] = {}
    verifier = state.verifier
    if verifier.fitted:
        arrays |= verifier.arrays()
    if state.curve is not None:
        arrays |= {"curve_x": state.curve.x, "curve_y": state.curve.y}
    if state.any_right_curve is not None:
        arrays |= {"reach_x": state.any_right_curve.x, "reach_y": state.any_right_curve.y}
    for name, kept in (("unbiased", state.unbiased), ("biased", state.biased)):
        if kept:
            arrays[f"{name}_vectors"] = np.stack([q.vector for q in kept])
    head = {
        "version": VERSION,
        "build": build_id,
        "limits": asdict(state.limits),
        "audit_rate": state.audit_rate,
        "borrowed": asdict(state.pseudo_counts),
        "threshold": None if state.threshold is None else _threshold_fields(state.threshold),
        "drift": asdict(state.drift),
        "confirmed": state.confirmed_at_s,
        "trusted_from_s": state.trusted_from_s,
        "entries": {k: [r.right, r.wrong] for k, r in state.entries.items()},
        "counters": {name: getattr(state, of_state) for name, of_state in _COUNTERS.items()},
        "denied": list(state.denied),
        "became": state.replaced_by,
        "rareness": verifier.idf.to_json(),
        "unbiased": [[q.view.text, q.answer_group, q.at_s] for q in state.unbiased],
        "biased": [[q.view.text, q.answer_group, q.at_s] for q in state.biased],
    }
    arrays["head"] = np.frombuffer(json.dumps(head).encode(), dtype=np.uint8)
    buffer = io.BytesIO()
    # numpy's stub gives the first keyword a type of its own, which a mapping cannot meet.
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def load(data: bytes, build_id: str) -> RouteState:
    """Read a state back. Raises ArchiveError on any bytes that `dump` of this build did not write."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        head = json.loads(arrays["head"].tobytes())
        written = (head["version"], head["build"])
    except ARCHIVE_READ_ERRORS as exc:
        raise ArchiveError(f"these {len(data)} bytes are no route state: {exc}") from exc
    if written != (VERSION, build_id):
        raise ArchiveError(
            f"a route state of version and encoder {written}; these are {(VERSION, build_id)}"
        )
    try:
        return _restore(head, arrays)
    except (KeyError, TypeError, ValueError) as exc:
        raise ArchiveError(f"this route state is damaged: {exc}") from exc


def _restore(head: Mapping[str, object], arrays: Mapping[str, NDArray[np.generic]]) -> RouteState:
    fields = json.loads(json.dumps(head))  # plain values, checked by the constructors below
    state = RouteState(
        Limits(**fields["limits"]),
        audit_rate=float(fields["audit_rate"]),
        pseudo_counts=PseudoCounts(**fields["borrowed"]),
    )
    state.threshold = _threshold(fields["threshold"])
    # Absent from what earlier releases wrote, as are some counters and the times of labels.
    state.drift = DriftDetector(**fields.get("drift", {}))
    state.confirmed_at_s = {str(k): float(v) for k, v in fields.get("confirmed", {}).items()}
    state.trusted_from_s = float(fields.get("trusted_from_s", -1.0))
    state.entries = {k: EntryRecord(float(r), float(w)) for k, (r, w) in fields["entries"].items()}
    for name, of_state in _COUNTERS.items():
        value = fields["counters"].get(name, 0)
        setattr(state, of_state, bool(value) if name in _FLAGS else int(value))
    state.unbiased.extend(
        _questions(fields["unbiased"], arrays.get("unbiased_vectors"), counts=True)
    )
    state.biased.extend(_questions(fields["biased"], arrays.get("biased_vectors"), counts=False))
    state.denied = {str(each): None for each in fields.get("denied", ())}
    state.replaced_by = {str(k): str(v) for k, v in fields.get("became", {}).items()}
    idf = Idf.from_json(fields["rareness"])
    if "pair" in arrays:
        pair, agreement = _trees(arrays, "pair"), _trees(arrays, "agreement")
        if (pair.columns, agreement.columns) != (PAIR_COLUMNS, AGREEMENT_COLUMNS):
            # Fitted by a release that knew other features: its labels are as good as ever.
            state.threshold, state.fitted_at = None, 0
            return state
        tokens = TokenWeights(
            arrays["tokens"].astype(np.float32), float(arrays["intercept"].item())
        )
        state.verifier = RouteVerifier(idf, tokens, pair, agreement)
    state.curve, state.any_right_curve = _curve(arrays, "curve"), _curve(arrays, "reach")
    return state


def _threshold_fields(threshold: Threshold) -> dict[str, object]:
    fields = asdict(threshold)
    fields["strangest"] = fields.pop("max_unseen_share")
    return fields


def _threshold(fields: dict[str, float] | None) -> Threshold | None:
    if fields is None:
        return None
    limit = fields.pop("strangest", 1.0)
    return Threshold(**fields, max_unseen_share=limit)  # type: ignore[arg-type] # counts are written as int


def _trees(arrays: Mapping[str, NDArray[np.generic]], name: str) -> Gbdt:
    return Gbdt.from_bytes(arrays[name].tobytes())


def _curve(arrays: Mapping[str, NDArray[np.generic]], name: str) -> Isotonic | None:
    if f"{name}_x" not in arrays:
        return None
    x, y = arrays[f"{name}_x"], arrays[f"{name}_y"]
    return Isotonic(x.astype(np.float64), y.astype(np.float64))


def _questions(
    rows: Sequence[tuple[str, str] | tuple[str, str, float]],
    vectors: NDArray[np.generic] | None,
    *,
    counts: bool,
) -> list[LabelledQuestion]:
    if vectors is None:
        if rows:
            raise ValueError(f"{len(rows)} labelled questions without vectors")
        return []
    return [
        LabelledQuestion(
            analyse(row[0]), vector.astype(np.float32), row[1], counts, *map(float, row[2:])
        )
        for row, vector in zip(rows, vectors, strict=True)
    ]
