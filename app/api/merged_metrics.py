"""Merges the metrics pages of several workers, in Prometheus' text format.

Counters and histograms are summed, and so are gauges that count something. Other gauges (a state, a bound, a
limit) take the maximum, a start time the minimum.
"""

from __future__ import annotations

from collections.abc import Sequence

_SUMMED_GAUGES = frozenset(
    {
        b"slipstream_in_flight",
        b"slipstream_body_bytes",
        b"slipstream_event_loop_tasks",
        b"slipstream_deployment_in_flight",
        b"slipstream_tool_waiting",
        b"slipstream_upstream_connections",
        b"slipstream_semantic_audited_hits",
        b"slipstream_semantic_alarms",
        b"slipstream_metric_labels_refused",
        b"process_resident_memory_bytes",
        b"process_virtual_memory_bytes",
        b"process_open_fds",
    }
)
_EARLIEST = b"process_start_time_seconds"


def merge_pages(pages: Sequence[bytes]) -> bytes:
    """Merge pages into one; families and series keep the order of their first occurrence."""
    heads: dict[bytes, list[bytes]] = {}
    series: dict[bytes, dict[bytes, float]] = {}
    kinds: dict[bytes, bytes] = {}
    for page in pages:
        family, known = b"", set(heads)
        for line in page.splitlines():
            if line.startswith(b"#"):
                words = line.split(None, 3)
                family = words[2]
                if words[1] == b"TYPE":
                    kinds[family] = words[3]
                if family not in known:
                    heads.setdefault(family, []).append(line)
                continue
            name, _, number = line.rpartition(b" ")
            cells = series.setdefault(family, {})
            value = float(number)
            cells[name] = (
                value if name not in cells else _merged_value(family, kinds, cells[name], value)
            )
    lines: list[bytes] = []
    for family, head in heads.items():
        lines += head
        lines += [b"%s %s" % (name, repr(v).encode()) for name, v in series.get(family, {}).items()]
    return b"\n".join([*lines, b""])


def _merged_value(family: bytes, kinds: dict[bytes, bytes], one: float, other: float) -> float:
    if family == _EARLIEST:
        return min(one, other)
    if kinds.get(family) == b"gauge" and family not in _SUMMED_GAUGES:
        return max(one, other)
    return one + other
