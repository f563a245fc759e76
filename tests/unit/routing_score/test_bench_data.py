from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.router.data import DataError, in_build_half, read_evergreen, read_metatool, read_pairs

GOOD = {"set": "s", "pair": "a>b", "domain": "d", "prompt": "p", "fast": 0.0, "powerful": 1.0}


def test_a_good_file_is_read(tmp_path: Path):
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(GOOD) + "\n\n" + json.dumps({**GOOD, "fast": 0.5}) + "\n")
    assert [row.gain for row in read_pairs(path)] == [1.0, 0.5]


@pytest.mark.parametrize(
    "line",
    [
        "rubbish",
        "[]",
        "3",
        json.dumps({**GOOD, "fast": "x"}),
        json.dumps({**GOOD, "fast": 2}),
        json.dumps({**GOOD, "fast": float("nan")}),
        json.dumps({key: value for key, value in GOOD.items() if key != "prompt"}),
    ],
)
def test_a_rubbish_line_is_named(tmp_path: Path, line: str):
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(GOOD) + "\n" + line + "\n")
    with pytest.raises(DataError, match=r"pairs\.jsonl:2"):
        read_pairs(path)


def test_missing_and_empty_files_are_clear_errors(tmp_path: Path):
    empty = tmp_path / "empty"
    empty.write_text("")
    for path in (tmp_path / "gone", empty):
        with pytest.raises(DataError):
            read_pairs(path)
    with pytest.raises(DataError):
        read_evergreen(tmp_path / "gone")
    with pytest.raises(DataError):
        read_metatool(empty)


def test_about_half_of_the_prompts_train_the_tables():
    share = sum(in_build_half(f"prompt {at}") for at in range(2000)) / 2000
    assert share == pytest.approx(0.5, abs=0.05)
