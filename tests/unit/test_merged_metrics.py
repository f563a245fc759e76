"""Several workers' metrics read as those of one."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.api.merged_metrics import merge_pages
from app.telemetry.metrics import Metrics

ONE = b"""# HELP a_total A.
# TYPE a_total counter
a_total{x="1"} 2.0
a_total{x="2"} 1.0
# HELP state S.
# TYPE state gauge
state 1.0
# TYPE process_start_time_seconds gauge
process_start_time_seconds 50.0
"""
OTHER = b"""# HELP a_total A.
# TYPE a_total counter
a_total{x="2"} 4.0
a_total{x="3 \\" }"} 8.0
# HELP state S.
# TYPE state gauge
state 2.0
# HELP late L.
# TYPE late gauge
late 7.0
# TYPE process_start_time_seconds gauge
process_start_time_seconds 40.0
"""


def samples(page: bytes) -> dict[tuple[str, str], float]:
    """Each sample by name and labels."""
    return {
        (sample.name, str(sample.labels.get("x", ""))): sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
    }


def test_counters_add_up_states_show_the_highest_and_starts_the_earliest() -> None:
    assert samples(merge_pages([ONE, OTHER])) == {
        ("a_total", "1"): 2.0,
        ("a_total", "2"): 5.0,
        ("a_total", '3 " }'): 8.0,
        ("state", ""): 2.0,
        ("late", ""): 7.0,
        ("process_start_time_seconds", ""): 40.0,
    }


async def _page(seconds: float) -> bytes:
    metrics = Metrics(["small"])
    metrics.request_seconds.child("miss").observe(seconds)
    return await metrics.render()


@pytest.mark.anyio
async def test_the_page_of_one_worker_is_unchanged_and_histograms_add_up() -> None:
    fast, slow = await _page(0.1), await _page(4.0)
    assert samples(merge_pages([fast])) == samples(fast)
    both = samples(merge_pages([fast, slow]))
    assert both["slipstream_request_seconds_count", ""] == 2.0
    assert both["slipstream_request_seconds_sum", ""] == 4.1
