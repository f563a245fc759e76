"""A report as one HTML file: tables and inline SVG, no script and nothing fetched from anywhere."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING

from app.whatif.report_text import cells, proposal_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.whatif.compare import Report
    from app.whatif.estimate import Estimate

_WIDE, _HIGH = 720, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 16, 44
_COLOURS = ("#1f6feb", "#d1242f", "#1a7f37", "#8250df", "#9a6700", "#0a7ea4", "#bf3989", "#57606a")
_DASHES = ("", "7 4", "2 3", "10 3 2 3")
_STYLE = """
:root{color-scheme:light dark;--fg:#1f2328;--bg:#fff;--line:#d0d7de}
@media(prefers-color-scheme:dark){:root{--fg:#e6edf3;--bg:#0d1117;--line:#3d444d}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--fg);background:var(--bg);
max-width:64rem;margin:2rem auto;padding:0 1rem}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.85rem;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .5rem;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}
th:first-child,td:first-child{text-align:left}svg{max-width:100%;height:auto}
svg text{fill:var(--fg);font-size:12px}
.grid{stroke:var(--line);fill:none}.slo{stroke:var(--fg);stroke-dasharray:2 4}
pre{white-space:pre-wrap;border-left:3px solid #1f6feb;padding:.3rem .8rem}
"""
_COLUMNS = (
    "Settings", "p50 s", "p80 s", "p95 s", "under 3 s", "under 5 s", "Cost, USD", "Hits", "Wrong, at most",
    "SLO",
)  # fmt: skip


def report_page(report: Report) -> str:
    """The whole document."""
    shown = list(report.estimates)
    if report.proposal is not None and report.proposal not in shown:
        shown.append(report.proposal)
    head = "".join(f'<th scope="col">{each}</th>' for each in _COLUMNS)
    rows = "".join(_row(each, proposed=each is report.proposal) for each in shown)
    assumed = "".join(f"<li>{escape(each)}</li>" for each in report.assumptions)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>What if: {escape(report.file)}</title>
<meta http-equiv="content-security-policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body><main>
<h1>What if</h1>
<p>{escape(report.file)}: {report.requests:,} requests in {report.span_s:,.0f} s ({report.kind});
{report.failed:,} failed ones left out. {report.resamples} resamples, seed {report.seed}.</p>
<div class="wide" tabindex="0" role="region" aria-label="Figures"><table>
<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>
<p>The promise: 80 % under 3 s, 95 % under 5 s. In brackets: 95 % intervals. It <em>holds</em> where the
intervals do, is <em>close</em> where only the values do.</p>
<pre>{escape(proposal_text(report))}</pre>
<h2>Share of the requests that are done by then</h2>
{_curves(shown)}
<h2>Cost against the share under 3 s</h2>
{_costs(shown)}
<h2>Who answered</h2>
{_answered(shown)}
<h2>Assumed</h2><ul>{assumed}</ul>
</main></body></html>
"""


def _row(estimate: Estimate, *, proposed: bool) -> str:
    name = escape(estimate.name) + (" <strong>(proposed)</strong>" if proposed else "")
    return (
        f"<tr><td>{name}</td>" + "".join(f"<td>{each}</td>" for each in cells(estimate)) + "</tr>"
    )


def _x(share: float) -> float:
    return _LEFT + share * (_WIDE - _LEFT - _RIGHT)


def _y(share: float) -> float:
    return _HIGH - _BOTTOM - share * (_HIGH - _BOTTOM - _TOP)


def _curves(shown: Sequence[Estimate]) -> str:
    """The distributions of the total time; the promise is marked by two crosses."""
    most_s = max(6.0, *(each.curve_s[98] for each in shown))
    step = _step(most_s)
    parts = [_open("Distribution of the total time")]
    for at in range(int(most_s / step) + 1):
        x = _x(at * step / most_s)
        parts.append(f'<path class="grid" d="M{x:.1f} {_TOP}V{_y(0):.1f}"/>')
        parts.append(
            f'<text x="{x:.1f}" y="{_y(0) + 16:.1f}" text-anchor="middle">{at * step:g}</text>'
        )
    parts += _shares()
    parts.append(f'<text x="{_x(0.5):.1f}" y="{_HIGH - 6}" text-anchor="middle">seconds</text>')
    for limit_s, share in ((3.0, 0.80), (5.0, 0.95)):
        x, y = _x(limit_s / most_s), _y(share)
        parts.append(f'<path class="slo" d="M{x:.1f} {_y(0):.1f}V{y:.1f}H{_LEFT}" fill="none"/>')
    for at, each in enumerate(shown):
        points = " ".join(
            f"{_x(min(1.0, seconds / most_s)):.1f},{_y(place / 100):.1f}"
            for place, seconds in enumerate(each.curve_s)
        )
        parts.append(
            f'<polyline fill="none" stroke="{_COLOURS[at % len(_COLOURS)]}" stroke-width="2"'
            f' stroke-dasharray="{_DASHES[at % len(_DASHES)]}" points="{points}"/>'
        )
    return "".join(parts) + "</svg>" + _legend(shown)


def _costs(shown: Sequence[Estimate]) -> str:
    most_usd = max(1e-9, *(each.figures.cost_usd.high for each in shown))
    parts = [_open("Cost against the share under 3 s"), *_shares()]
    for at in range(5):
        x = _x(at / 4)
        parts.append(
            f'<text x="{x:.1f}" y="{_y(0) + 16:.1f}" text-anchor="{"end" if at == 4 else "middle"}">'  # noqa: PLR2004
            f"{most_usd * at / 4:.3g}</text>"
        )
    parts.append(f'<text x="{_x(0.5):.1f}" y="{_HIGH - 6}" text-anchor="middle">USD</text>')
    parts.append(f'<path class="slo" d="M{_LEFT} {_y(0.8):.1f}H{_x(1):.1f}"/>')
    for at, each in enumerate(shown):
        colour = _COLOURS[at % len(_COLOURS)]
        x, y = _x(each.figures.cost_usd.value / most_usd), _y(each.figures.under_3s.value)
        parts.append(
            f'<path stroke="{colour}" fill="none" d="M{x:.1f} {_y(each.figures.under_3s.low):.1f}V'
            f"{_y(each.figures.under_3s.high):.1f}M{_x(each.figures.cost_usd.low / most_usd):.1f} {y:.1f}H"
            f'{_x(each.figures.cost_usd.high / most_usd):.1f}"/>'
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{colour}">'
            f"<title>{escape(each.name)}</title></circle>"
        )
    return "".join(parts) + "</svg>" + _legend(shown)


def _answered(shown: Sequence[Estimate]) -> str:
    names = sorted({name for each in shown for name in each.sources})
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    rows = "".join(
        f"<tr><td>{escape(each.name)}</td>"
        + "".join(f"<td>{each.sources.get(name, 0):,}</td>" for name in names)
        + "</tr>"
        for each in shown
    )
    table = (
        f'<table><thead><tr><th scope="col">Settings</th>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )
    return f'<div class="wide" tabindex="0" role="region" aria-label="Who answered">{table}</div>'


def _shares() -> list[str]:
    """The horizontal lines of 0 to 100 %."""
    return [
        f'<path class="grid" d="M{_LEFT} {_y(share):.1f}H{_x(1):.1f}"/>'
        f'<text x="{_LEFT - 6}" y="{_y(share) + 4:.1f}" text-anchor="end">{share:.0%}</text>'
        for share in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    ]


def _legend(shown: Sequence[Estimate]) -> str:
    marks = "".join(
        f'<li><svg width="34" height="10" aria-hidden="true"><line x1="0" y1="5" x2="34" y2="5"'
        f' stroke="{_COLOURS[at % len(_COLOURS)]}" stroke-width="3"'
        f' stroke-dasharray="{_DASHES[at % len(_DASHES)]}"/></svg> {escape(each.name)}</li>'
        for at, each in enumerate(shown)
    )
    return f'<ul style="list-style:none;padding:0">{marks}</ul>'


def _open(label: str) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDE} {_HIGH}" width="{_WIDE}" height="{_HIGH}" role="img"'
        f' aria-label="{label}">'
    )


def _step(most: float) -> float:
    """A round distance between marks: about eight of them."""
    rough = most / 8
    scale = 10.0 ** math.floor(math.log10(rough))
    return next(scale * each for each in (1, 2, 5, 10) if scale * each >= rough)
