"""``slipstream router report``: the learning curve of the router on this gateway's own labels.

It reads the labels under ``state.data_dir``, also while gateways run, and changes nothing. Heads are fitted
on the oldest 50, 100, 200 ... labels and evaluated on the held-out newest quarter. The metric is APGR,
weighted by inverse propensity, with a bootstrap interval: 0.5 is random.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from app.domain.decisions import Tier
from app.settings import load

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.classify.labels import SavedLabel
    from app.settings import Settings

_FIRST = 50
_MIN_HOLDOUT = 20


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's words and options."""
    words = parser.add_subparsers(title="what to do", metavar="WHAT", required=True)
    report = words.add_parser("report", help="Print the learning curve.", allow_abbrev=False)
    report.add_argument("--config", metavar="FILE", help="configuration; else the built-in one")


def run(options: argparse.Namespace) -> int:
    """Print the report of all labels that can be read; 1 where a file cannot be, each said on stderr."""
    from app.classify.topics import Topics  # numpy: other commands do without
    from app.pipeline.router_label_files import read_all

    folder = label_folder(load(options.config))
    labels, faults = read_all(folder, len(Topics.shipped().names))
    for fault in faults:
        sys.stderr.write(f"slipstream: {fault}; the report leaves it out\n")
    sys.stdout.write("\n".join(report(labels, str(folder))) + "\n")
    return 1 if faults else 0


def label_folder(settings: Settings) -> Path:
    """Where the labels of these settings' pair of tiers lie, by the names that their models have upstream.

    What one pair's labels taught says nothing of another's: 0.505-0.538 between vendors, where 0.5 is a coin.
    """
    names = {
        tier: sorted({each.model for each in settings.models if each.tier is tier}) for tier in Tier
    }
    pair = hashlib.sha256(json.dumps(names).encode()).hexdigest()[:12]
    return Path(settings.state.data_dir) / "router" / pair


def report(labels: Sequence[SavedLabel], where: str) -> list[str]:
    """The report's lines. ``labels``: oldest first."""
    from app.classify.complexity import fit_head, score

    gained = sum(label.gain > 0 for label in labels)
    lines = [f"{where}: {len(labels)} labels, the powerful answer was better in {gained}"]
    held = len(labels) // 4
    if held < _MIN_HOLDOUT:
        return [*lines, f"too few to evaluate: a first report takes {4 * _MIN_HOLDOUT}"]
    known, holdout = labels[: len(labels) - held], labels[len(labels) - held :]
    lines.append(f"{'labels':>8}  {'APGR':>6}  95 % interval, on the newest {held} labels")
    prior = [score(None, label.features) for label in holdout]
    lines.append(_line("prior", prior, holdout))
    size = _FIRST
    while True:
        size = min(size, len(known))
        head = fit_head(
            [label.features for label in known[:size]],
            [label.gain for label in known[:size]],
            [1.0 / max(0.05, label.propensity) for label in known[:size]],
        )
        scores = [score(head, label.features) for label in holdout]
        lines.append(_line(str(size), scores, holdout, "" if head else "nothing to learn from"))
        if size == len(known):
            return lines
        size *= 2


def _line(name: str, scores: list[float], holdout: Sequence[SavedLabel], note: str = "") -> str:
    import numpy as np

    from app.classify.calibration import apgr, apgr_interval

    gain = np.array([label.gain for label in holdout])
    weight = np.array([1.0 / max(0.05, label.propensity) for label in holdout])
    value = apgr(np.array(scores), gain, weight=weight)
    low, high = apgr_interval(np.array(scores), gain, weight=weight)
    return f"{name:>8}  {value:6.3f}  {low:.3f} to {high:.3f}  {note}".rstrip()
