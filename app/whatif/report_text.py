"""A report as a table for a terminal and as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.whatif.compare import Report
    from app.whatif.estimate import Estimate, Figure

_HEAD = (
    "settings", "p50 s", "p80 s", "p95 s", "< 3 s %", "< 5 s %", "cost $", "hits %", "wrong <=", "SLO",
)  # fmt: skip


def report_table(report: Report) -> str:
    """The report in plain text, lines of at most some 120 characters."""
    rows = [_HEAD, *(_row(each) for each in report.estimates)]
    if report.proposal is not None:
        rows.append(_row(report.proposal, "proposed"))
    widths = [max(len(row[at]) for row in rows) for at in range(len(_HEAD))]
    lines = [
        (
            f"{report.file}: {report.requests:,} requests in {report.span_s:,.0f} s ({report.kind};"
            f" {report.failed:,} failed ones left out)"
        ),
        "",
        *("  ".join(_placed(row, widths)).rstrip() for row in rows),
        "",
        proposal_text(report),
        "",
        "Assumed:",
        *(f"- {each}" for each in report.assumptions),
    ]
    return "\n".join(lines) + "\n"


def proposal_text(report: Report) -> str:
    """What is proposed, in words."""
    best, careful = report.proposal, report.least_fast
    if best is None:
        return (
            f"None of {report.tried} settings with a fast_share up to {report.most_fast:g} holds 80 % under"
            " 3 s and 95 % under 5 s with its whole interval."
        )
    said = (
        f"Cheapest of {report.tried} settings that hold 80 % under 3 s and 95 % under 5 s with their"
        f" whole interval, fast_share at most {report.most_fast:g}:"
        f"\n  {best.name} (fast_share {best.fast_share:g}, ${best.figures.cost_usd.value:.4f})"
    )
    if careful is not None and careful.fast_share < best.fast_share:
        said += f"\nSmallest fast_share that holds: {careful.name} (${careful.figures.cost_usd.value:.4f})"
    return said


def report_values(report: Report) -> dict[str, object]:
    """The report as JSON values; times in seconds, money in USD, shares 0 to 1."""
    return {
        "trace": {
            "file": report.file,
            "kind": report.kind,
            "requests": report.requests,
            "failed": report.failed,
            "span_s": report.span_s,
        },
        "resamples": report.resamples,
        "seed": report.seed,
        "slo": {"under_3s": 0.80, "under_5s": 0.95},
        "settings": [_estimate(each) for each in report.estimates],
        "proposal": None if report.proposal is None else _estimate(report.proposal),
        "least_fast": None if report.least_fast is None else _estimate(report.least_fast),
        "most_fast": report.most_fast,
        "tried": report.tried,
        "assumptions": list(report.assumptions),
    }


def cells(estimate: Estimate) -> tuple[str, ...]:
    """An estimate's figures as texts, in the order of the table's columns."""
    times = (estimate.figures.p50_s, estimate.figures.p80_s, estimate.figures.p95_s)
    shares = (estimate.figures.under_3s, estimate.figures.under_5s)
    return (
        *(f"{each.value:.3g}" for each in times),
        *(f"{each.value:.1%} ({each.low:.0%}-{each.high:.0%})" for each in shares),
        f"{estimate.figures.cost_usd.value:.4f}",
        f"{estimate.figures.hit_ratio.value:.1%}",
        f"{estimate.error_bound:.2%}",
        estimate.verdict,
    )


def _row(estimate: Estimate, name: str = "") -> tuple[str, ...]:
    return (name or estimate.name, *(cell.replace("%", "") for cell in cells(estimate)[:5]),
            *cells(estimate)[5:])  # fmt: skip


def _placed(row: tuple[str, ...], widths: list[int]) -> list[str]:
    first = row[0].ljust(widths[0])
    return [first, *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]


def _estimate(estimate: Estimate) -> dict[str, object]:
    return {
        "name": estimate.name,
        "fast_share": estimate.fast_share,
        "exact_ttl_s": estimate.exact_ttl_s,
        "slo": estimate.verdict,
        "p50_s": _figure(estimate.figures.p50_s),
        "p80_s": _figure(estimate.figures.p80_s),
        "p95_s": _figure(estimate.figures.p95_s),
        "under_3s": _figure(estimate.figures.under_3s),
        "under_5s": _figure(estimate.figures.under_5s),
        "cost_usd": _figure(estimate.figures.cost_usd),
        "hit_ratio": _figure(estimate.figures.hit_ratio),
        "error_bound": estimate.error_bound,
        "answered_by": dict(estimate.sources),
    }


def _figure(figure: Figure) -> dict[str, float]:
    return {"value": figure.value, "low": figure.low, "high": figure.high}
