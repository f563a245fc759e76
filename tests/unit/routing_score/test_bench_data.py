from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.router.data import (
    _CLASS_FILES,
    AgentTurn,
    DataError,
    in_build_half,
    read_agent_turns,
    read_evergreen,
    read_metatool,
    read_pairs,
)

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


def conversations(folder: Path, *questions: str) -> None:
    """BFCL's files in the least form: each class has one function."""
    docs = folder / "bfcl_multi_turn_func_doc"
    docs.mkdir()
    for at, name in enumerate(_CLASS_FILES.values()):
        (docs / f"{name}.json").write_text(json.dumps({"name": f"do_{at}"}) + "\n")
    answers = folder / "bfcl_possible_answer_BFCL_v4_multi_turn_base.json"
    answers.write_text(json.dumps({"id": "a", "ground_truth": [["do_0(x=1)", "FS.do_0(x=2)"], []]}))
    (folder / "bfcl_BFCL_v4_multi_turn_base.json").write_text("\n".join(questions))


def test_the_turns_of_a_conversation_are_read_with_what_they_call(tmp_path: Path):
    said = [[{"role": "user", "content": "Do it."}], [{"role": "user", "content": "Thanks."}]]
    row = {"id": "a", "question": said, "involved_classes": ["MathAPI", "GorillaFileSystem"]}
    conversations(tmp_path, json.dumps({**row, "excluded_function": ["do_1"]}))
    assert read_agent_turns(tmp_path) == [
        AgentTurn(("do_0",), "Do it.", ("do_0", "do_0")),
        AgentTurn(("do_0",), "Thanks.", ()),
    ]


@pytest.mark.parametrize("line", ["rubbish", "[]", "{}", '{"id": "a", "question": 3}'])
def test_a_rubbish_conversation_is_named(tmp_path: Path, line: str):
    conversations(tmp_path, line)
    with pytest.raises(DataError, match=r"multi_turn_base\.json:1"):
        read_agent_turns(tmp_path)
