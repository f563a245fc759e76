"""``slipstream lint`` and ``slipstream warm``: prompts from the command line, for CI and for schedules."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from app.domain.decisions import Tier
from app.domain.models import Model
from app.prompts.learned import ModelFacts
from app.prompts.lint_report import lint_all, report, requests_of
from app.prompts.spans import UnreadableError

CLEAN, FOUND, WRONG = 0, 1, 2
"""The exit codes: nothing found at or above the level asked for; something; the file cannot be read."""
_LEVELS = ("error", "warning", "info")


def lint_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``lint``."""
    parser.add_argument(
        "file", metavar="FILE", help="a request, an array of them, or one a line (- for input)"
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.add_argument(
        "--level",
        choices=_LEVELS,
        default="warning",
        help="least severity that fails (%(default)s)",
    )
    parser.add_argument(
        "--minimum-tokens",
        type=int,
        default=1024,
        help="shortest prefix that the model caches (%(default)s)",
    )


def run_lint(options: argparse.Namespace) -> int:
    """Lint a file; see the exit codes above."""
    text = sys.stdin.buffer.read() if options.file == "-" else Path(options.file).read_bytes()
    try:
        results = lint_all(requests_of(text), options.minimum_tokens)
    except (UnreadableError, KeyError) as error:
        print(f"{options.file}: no request that can be read: {error}", file=sys.stderr)
        return WRONG
    model, facts = Model("", "", "", Tier.FAST), ModelFacts(options.minimum_tokens)
    worst = False
    for number, rendered, findings in results:
        worst = worst or any(
            _LEVELS.index(each.severity) <= _LEVELS.index(options.level) for each in findings
        )
        if options.json:
            said = report(rendered, findings, model, facts)
            print(json.dumps({"request": number, "findings": said["findings"]}))
            continue
        for each in findings:
            print(
                f"{options.file}:{number}: {each.severity}: {each.rule} at {each.pointer or '/'} "
                f"(bytes {each.at.start}-{each.at.end}): {each.why}; {each.mend}"
            )
    return FOUND if worst else CLEAN
