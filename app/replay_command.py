"""``slipstream replay TRACE``: what other settings would have done with recorded traffic.

Reads a trace; calls no gateway and no model. The first configuration (``--config``) is the
one that the trace was recorded under; each ``--set`` changes it, each ``--settings`` is a file of its own.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from app.settings import Problem, SettingsError, load

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.lanes.rules import Lanes
    from app.settings import Settings
    from app.whatif.compare import Candidate

_WRONG = 2
_DEFAULT_RESAMPLES = 200
_MOST_RESAMPLES = 10_000
_BAR = 24
_KEY = re.compile(r"[a-z_]+(?:\.[a-z_]+)+")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "trace",
        metavar="TRACE",
        help="ledger.sqlite, the CSV of GET /v1/ledger, the JSON of GET /v1/traces, or lines of"
        " at_s and prompt or messages",
    )
    parser.add_argument(
        "--config", metavar="FILE", help="what it was recorded under; else built in"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="changes",
        metavar="NAME:KEY=VALUE[,KEY=VALUE...]",
        help="other settings, such as thrifty:routing.fast_share=0.9,cache.exact.ttl_s=60; repeatable",
    )
    parser.add_argument(
        "--settings",
        action="append",
        default=[],
        metavar="FILE",
        help="other settings, a whole configuration; repeatable",
    )
    parser.add_argument(
        "--calls", metavar="TRACE", help="another trace, whose calls say what a model takes"
    )
    parser.add_argument(
        "--most-fast", type=_share, metavar="SHARE", help="largest fast_share to propose"
    )
    parser.add_argument("--json", metavar="FILE", help="also write the figures as JSON")
    parser.add_argument("--html", metavar="FILE", help="also write a report with plots, one file")
    parser.add_argument("--seed", type=_count, default=0, help="of all draws (%(default)s)")
    parser.add_argument(
        "--resamples",
        type=_resamples,
        default=_DEFAULT_RESAMPLES,
        help="of the bootstrap (%(default)s)",
    )


def run(options: argparse.Namespace) -> int:
    """Print the table; 2 where the trace or the settings are wrong."""
    candidates = _candidates(options)
    # numpy and the classifier's tables: other commands do without.
    from app.whatif.compare import Comparison
    from app.whatif.recorded_calls import RecordedCalls
    from app.whatif.report_html import report_page
    from app.whatif.report_text import report_table, report_values
    from app.whatif.trace_reader import read_trace
    from app.whatif.traffic import TraceError

    progress = _bar(sys.stderr)
    try:
        traffic = read_trace(Path(options.trace))
        sources = [traffic.arrivals]
        if options.calls:
            sources.append(read_trace(Path(options.calls)).arrivals)
        comparison = Comparison(
            traffic,
            candidates,
            RecordedCalls(*sources),
            resamples=options.resamples,
            seed=options.seed,
            progress=progress,
        )
        report = comparison.report(options.most_fast)
    except TraceError as exc:
        sys.stderr.write("\n".join(exc.problems) + "\n")
        return _WRONG
    except OSError as exc:
        sys.stderr.write(f"{exc.filename}: cannot be read: {exc.strerror}\n")
        return _WRONG
    sys.stdout.write(report_table(report))
    if options.json:
        Path(options.json).write_text(
            json.dumps(report_values(report), indent=1) + "\n", encoding="utf-8"
        )
    if options.html:
        Path(options.html).write_text(report_page(report), encoding="utf-8")
    return 0


def _candidates(options: argparse.Namespace) -> list[Candidate]:
    """All configurations, the recorded one first. Raises SettingsError."""
    from app.whatif.compare import Candidate

    found = [("recorded", load(options.config))]
    found += [_changed(text, options.config) for text in options.changes]
    found += [(Path(file).stem, load(file)) for file in options.settings]
    names = [name for name, _ in found]
    for name in names:
        if names.count(name) > 1:
            raise SettingsError([_problem(name, "names two settings", "Give each its own name.")])
    return [Candidate(name, settings, _lanes(settings)) for name, settings in found]


def _changed(text: str, config: str | None) -> tuple[str, Settings]:
    """The settings of one ``--set``, applied like environment variables and so checked like any."""
    name, separator, changes = text.partition(":")
    if not separator or not name.strip() or "=" in name:
        raise SettingsError([_problem(text, "has no name", "Write NAME:KEY=VALUE.")])
    over: dict[str, str] = {}
    for change in changes.split(","):
        key, equals, value = change.partition("=")
        key = key.strip()
        if not equals or not _KEY.fullmatch(key):
            mend = "Write KEY=VALUE, such as routing.fast_share=0.5; for lists use --settings FILE."
            raise SettingsError([_problem(text, f"{change!r} is no change", mend)])
        over[key] = value
    try:
        return name, load(config, changes=over)
    except SettingsError as exc:
        told = [
            replace(each, file=f"--set {name}") if each.file.startswith("$") else each
            for each in exc.problems
        ]
        raise SettingsError(told) from exc


def _problem(text: str, message: str, mend: str) -> Problem:
    return Problem(f"--set {text}", None, "", None, message, mend)


def _lanes(settings: Settings) -> Lanes | None:
    """The lanes as ``bootstrap`` has them."""
    if not settings.lanes.enabled:
        return None
    from app.lanes.builtin import built_in_rules
    from app.lanes.rules import Lanes
    from app.operator_lanes import rule_of

    own = map(rule_of, settings.lanes.rules)
    return Lanes([*own, *(built_in_rules() if settings.lanes.built_in else ())])


def _bar(out: TextIO) -> Callable[[int, int, str], None]:
    """A progress bar on a terminal; elsewhere nothing."""
    if not out.isatty():
        return lambda _done, _total, _what: None

    def draw(done: int, total: int, what: str) -> None:
        full = _BAR * done // max(1, total)
        ends = done >= total and what == "done"
        text = "" if ends else f"[{'#' * full}{'.' * (_BAR - full)}] {done}/{total} {what[:40]}"
        out.write(f"\r\x1b[K{text}")
        out.flush()

    return draw


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0.0 <= share <= 1.0:
        raise argparse.ArgumentTypeError(f"{text!r} is no share of 0 to 1")
    return share


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of 0 or more")
    return int(text)


def _resamples(text: str) -> int:
    count = _count(text)
    if not 1 <= count <= _MOST_RESAMPLES:
        raise argparse.ArgumentTypeError(f"{text} is not within 1 and {_MOST_RESAMPLES}")
    return count
