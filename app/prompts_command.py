"""``slipstream lint`` and ``slipstream warm``: prompts from the command line, for CI and for schedules."""

from __future__ import annotations

import argparse
import http.client
import json
import sys
from pathlib import Path
from urllib.parse import urlsplit

from app.domain.decisions import Tier
from app.domain.models import Model
from app.domain.usage import Price
from app.prompts.lint import Finding, costs
from app.prompts.lint_report import lint_all, parse_requests, report
from app.prompts.spans import UnreadableError
from app.prompts.usage_statistics import ModelCacheStats
from app.settings import load

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
    parser.add_argument(
        "--config",
        metavar="GATEWAY",
        help="a configuration whose prices say what each finding costs in USD",
    )
    parser.add_argument(
        "--per-hour",
        type=float,
        default=0.0,
        help="how many such requests come in an hour (%(default)s)",
    )


def run_lint(options: argparse.Namespace) -> int:
    """Lint a file; see the exit codes above."""
    text = sys.stdin.buffer.read() if options.file == "-" else Path(options.file).read_bytes()
    try:
        results = lint_all(parse_requests(text), options.minimum_tokens)
    except (UnreadableError, KeyError) as error:
        print(f"{options.file}: no request that can be read: {error}", file=sys.stderr)
        return WRONG
    models, facts = _models(options.config), ModelCacheStats(options.minimum_tokens)
    worst = False
    for number, rendered, findings in results:
        worst = worst or any(
            _LEVELS.index(each.severity) <= _LEVELS.index(options.level) for each in findings
        )
        model = models.get(rendered.model) or Model("", "", "", Tier.FAST)
        if options.json:
            said = report(rendered, findings, model, facts, options.per_hour)
            print(json.dumps({"request": number, "findings": said["findings"]}))
            continue
        for each in findings:
            print(
                f"{options.file}:{number}: {each.severity}: {each.rule} at {each.pointer or '/'} "
                f"(bytes {each.span.start}-{each.span.end}): {each.why}; "
                f"costs {_cost(each, model, facts, options.per_hour)}; {each.fix}"
            )
    return FOUND if worst else CLEAN


def _models(config: str | None) -> dict[str, Model]:
    """The models of a configuration with their prices; none where none is named. Raises ``SettingsError``."""
    if config is None:
        return {}
    return {
        each.name: Model(
            each.name,
            each.provider,
            each.model,
            each.tier,
            Price(**each.price.model_dump()),
        )
        for each in load(config).models
    }


def _cost(finding: Finding, model: Model, facts: ModelCacheStats, per_hour: float) -> str:
    """The cost of a finding per request, and per hour where the traffic is known."""
    ms, usd = costs(finding, model, facts)
    told = f"{ms:.0f} ms"
    if model.name:
        told += f" and {usd:.6f} USD"
    if per_hour:
        told += f" a request, {ms * per_hour / 1e3:.0f} s"
        told += f" and {usd * per_hour:.4f} USD an hour" if model.name else " an hour"
    return told


def warm_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``warm``."""
    parser.add_argument("file", metavar="FILE", help="a request, an array of them, or one a line")
    parser.add_argument(
        "--url", default="http://127.0.0.1:8080", help="the gateway to ask (%(default)s)"
    )
    parser.add_argument(
        "--keep-s", type=float, default=0.0, help="keep it alive for so many seconds (%(default)s)"
    )
    parser.add_argument("--key", default="", help="the gateway's key, where it needs one")


def run_warm(options: argparse.Namespace) -> int:
    """Have a running gateway prime the vendors' caches; 0 where all are primed, else 1."""
    where = urlsplit(options.url)
    kind = http.client.HTTPSConnection if where.scheme == "https" else http.client.HTTPConnection
    connection = kind(where.hostname or "127.0.0.1", where.port, timeout=_PATIENCE_S)
    headers = {"content-type": "application/json"}
    if options.key:
        headers["authorization"] = f"Bearer {options.key}"
    cold = False
    try:
        for number, body in enumerate(parse_requests(Path(options.file).read_bytes())):
            path = f"{where.path.rstrip('/')}/v1/prompts/warm?keep_s={options.keep_s}"
            connection.request("POST", path, body, headers)
            answer = connection.getresponse()
            said = json.loads(answer.read() or b"{}")
            primed = answer.status == http.client.OK and said.get("primed")
            cold = cold or not primed
            print(f"{options.file}:{number}: {'primed' if primed else 'not primed'}: {_line(said)}")
    finally:
        connection.close()
    return FOUND if cold else CLEAN


def _line(said: dict[str, object]) -> str:
    if "cost_usd" not in said:
        return str(said.get("detail") or said.get("title") or "no answer")
    return (
        f"{said['model']}: {said['written_tokens']} written, {said['cached_tokens']} read, "
        f"{said['uncached_tokens']} neither, {said['cost_usd']} USD"
    )


_PATIENCE_S = 90.0
