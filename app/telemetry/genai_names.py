"""The histograms that OpenTelemetry's GenAI conventions have a name for, under that name too.

Dashboards that other people made ask for the conventions' names. They are written at the scrape from the
family that is there anyway, so a request pays nothing for them. The conventions' other metrics are
histograms over single calls (tokens a call, say) that this gateway does not keep: counters stand for them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from prometheus_client.metrics_core import Metric


class _Written(Protocol):
    name: str

    def pieces(self) -> Iterator[str]: ...


GENAI_NAMES: Mapping[str, str] = {
    "slipstream_time_to_first_token_seconds": "gen_ai_server_time_to_first_token_seconds",
    "slipstream_time_per_output_token_seconds": "gen_ai_server_time_per_output_token_seconds",
}
_LABEL = "gen_ai_response_model"
_OURS, _THEIRS = '{model="', f'{{{_LABEL}="'


def under_genai_name(family: _Written) -> Iterator[str]:
    """The family's pieces under the conventions' name and label; nothing where they have none for it."""
    name = GENAI_NAMES.get(family.name)
    if name is None:
        return
    for piece in family.pieces():
        # A quote within a label's value is escaped, so the label's beginning stands nowhere else.
        yield piece.replace(family.name, name).replace(_OURS, _THEIRS)


def with_genai_name(metric: Metric) -> Metric | None:
    """The same as prometheus-client's own value; None where the conventions have no name for it."""
    name = GENAI_NAMES.get(metric.name)
    if name is None:
        return None
    renamed = Metric(name, metric.documentation, metric.type)
    renamed.samples = [
        sample._replace(
            name=sample.name.replace(metric.name, name),
            labels={
                _LABEL if key == "model" else key: value for key, value in sample.labels.items()
            },
        )
        for sample in metric.samples
    ]
    return renamed
