"""Kept tool results stay within their room, whatever of them a model is shown."""

from __future__ import annotations

import pytest

from app.domain.tools import ToolResult
from app.tools.output_cache import OutputCache

WHOLE = ["x" * 1_000] * 100


@pytest.mark.parametrize("value", [WHOLE, "x" * 100_000])
def test_what_lies_behind_a_cut_text_counts_too(value: object) -> None:
    outputs = OutputCache(max_bytes=250_000)
    for number in range(5):
        outputs.put(b"%d" % number, ToolResult("the beginning", value, cut=True), 60)
    kept = [number for number in range(5) if outputs.get(b"%d" % number) is not None]
    assert kept == [3, 4]
