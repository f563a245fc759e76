"""A flame graph is as wide where the samples are, and says what it cannot read."""

from __future__ import annotations

import re

from bench.flame import WIDTH_PX, drawn, gathered, main


def test_a_box_is_as_wide_as_its_share_of_the_samples_and_stands_above_its_caller():
    picture = drawn(gathered(["run;read 30", "run;write<T> 10", "idle 60"]), "t")
    found = {
        name: (float(x), int(y), float(width))
        for name, x, y, width in re.findall(
            r'<title>(.+?): \d+ samples</title><rect x="([\d.]+)" y="(\d+)" width="([\d.]+)"',
            picture,
        )
    }
    assert [round(found[name][2] / WIDTH_PX, 2) for name in ("run", "read", "idle")] == [
        0.4,
        0.3,
        0.6,
    ]
    assert found["read"][1] < found["run"][1]
    assert "write&lt;T&gt;" in found


def test_what_is_no_stack_is_named(tmp_path, capsys):
    stacks = tmp_path / "stacks"
    stacks.write_text("run;read 30\nrun;read\n")
    assert main([str(stacks), str(tmp_path / "out.svg")]) == 2
    assert "line 2" in capsys.readouterr().err
    assert not (tmp_path / "out.svg").exists()
