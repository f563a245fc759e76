"""Metrics of several workers as those of one, on Prometheus' text format.

Counters and the parts of histograms add up; so do gauges that count what is there. Other gauges (a state,
a bound, a limit) show the highest, and a start time the earliest.
"""

from __future__ import annotations

from collections.abc import Sequence

_ADDED_GAUGES = frozenset(
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


def add_up(pages: Sequence[bytes]) -> bytes:
    """One page of several; families and series in the order in which they first come."""
    heads: dict[bytes, list[bytes]] = {}
    series: dict[bytes, dict[bytes, float]] = {}
    kinds: dict[bytes, bytes] = {}
    for page in pages:
        family, told = b"", set(heads)
        for line in page.splitlines():
            if line.startswith(b"#"):
                words = line.split(None, 3)
                family = words[2]
                if words[1] == b"TYPE":
                    kinds[family] = words[3]
                if family not in told:
                    heads.setdefault(family, []).append(line)
                continue
            name, _, number = line.rpartition(b" ")
            cells = series.setdefault(family, {})
            value = float(number)
            cells[name] = value if name not in cells else _joined(family, kinds, cells[name], value)
    lines: list[bytes] = []
    for family, head in heads.items():
        lines += head
        lines += [b"%s %s" % (name, repr(v).encode()) for name, v in series.get(family, {}).items()]
    return b"\n".join([*lines, b""])


def _joined(family: bytes, kinds: dict[bytes, bytes], one: float, other: float) -> float:
    if family == _EARLIEST:
        return min(one, other)
    if kinds.get(family) == b"gauge" and family not in _ADDED_GAUGES:
        return max(one, other)
    return one + other
