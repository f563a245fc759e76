"""``slipstream cache import`` and ``export`` against a running gateway."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys

import pytest

from app.cache_command import read
from tests.e2e.semantic.test_sharing import sharing
from tests.support.gateway import ROOT

pytestmark = pytest.mark.anyio
CAPITAL = "What is the capital city of France?"
REWORDED = "What's the capital city of France?"
ROWS = [
    {"question": CAPITAL, "answer": "Paris.", "tags": ["geo"], "model": "small"},
    {"question": "What does the word ebb mean?", "answer": "To flow back."},
]


async def command(made, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the command line as an operator would."""
    line = [sys.executable, "-m", "app", "cache", *words, "--url", made.running.url]
    return await asyncio.to_thread(
        subprocess.run, line, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )


async def ask(made, text: str, model: str = "small", **more: object):
    body = {"model": model, "messages": [{"role": "user", "content": text}], **more}
    return await made.http.post("/v1/chat/completions", json=body)


@pytest.mark.slow
async def test_imported_answers_are_hit_exactly_and_by_meaning_and_exported_again(tmp_path):
    file, out = tmp_path / "faq.jsonl", tmp_path / "out.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    async with sharing(semantic=True, scope="tenant", least_askers=5) as made:
        done = await command(made, "import", str(file))
        assert (done.returncode, done.stderr) == (0, "")
        assert "2 answers imported: 2 for the same question, 2 for other wordings" in done.stdout
        same, other = await ask(made, CAPITAL), await ask(made, REWORDED)
        assert [r.headers["x-slipstream-cache"] for r in (same, other)] == ["exact", "semantic"]
        assert same.json()["choices"][0]["message"]["content"] == "Paris."
        assert other.json()["choices"][0]["message"]["content"] == "Paris."
        streamed = await ask(made, CAPITAL, stream=True)
        assert streamed.headers["x-slipstream-cache"] == "exact"
        assert "Paris." in streamed.text
        routed = await ask(made, "What does the word ebb mean?", "auto")
        assert routed.headers["x-slipstream-cache"] == "exact"
        assert made.model.asked == []
        route = await made.answers.cache.routes.load("default\x00small")
        assert route.state.labels == 0, "an import is no evidence"
        assert (await command(made, "export", str(out))).returncode == 0
        rows = [json.loads(line) for line in out.read_text().splitlines()]
        assert sorted(rows, key=str) == sorted(ROWS, key=str)
        await made.http.post("/v1/cache/invalidate", json={"tags": ["geo"]})
        assert (await ask(made, REWORDED)).headers["x-slipstream-cache"] == "miss"


@pytest.mark.slow
async def test_what_was_asked_under_a_prompt_comes_back_only_there(tmp_path):
    file = tmp_path / "out.jsonl"
    prompt = {"role": "system", "content": "Answer like a pirate."}
    async with sharing(semantic=True) as made:
        body = {"model": "small", "messages": [prompt, {"role": "user", "content": CAPITAL}]}
        await made.http.post("/v1/chat/completions", json=body)
        await made.answers.drained()
        await command(made, "export", str(file))
        row = json.loads(file.read_text())
        assert len(row["partition"]) == 64
        await made.http.post("/v1/cache/invalidate", json={"all": True})
        assert (await command(made, "import", str(file))).returncode == 0
        plain = await ask(made, REWORDED)
        assert plain.headers["x-slipstream-cache"] == "miss"
        body["messages"][1]["content"] = REWORDED
        under = await made.http.post("/v1/chat/completions", json=body)
        assert under.headers["x-slipstream-cache"] == "semantic"


async def test_a_file_is_judged_whole_before_anything_is_sent(tmp_path):
    file = tmp_path / "bad.jsonl"
    good = json.dumps(ROWS[1])
    file.write_text(
        f'{good}\n\n[]\n{{no\n{{"question": "", "answer": 3, "tags": "x", "colour": "red"}}\n'
    )
    rows, problems = read(file)
    assert [number for number, _ in rows] == [1]
    assert [p.removeprefix(f"{file}:").partition(":")[0] for p in problems] == list("345555")
    async with sharing() as made:
        done = await command(made, "import", str(file))
        assert done.returncode == 2
        assert f"{file}:5: unknown field 'colour'" in done.stderr
        assert len(made.running.context.edge.gateway.exact) == 0


async def test_a_model_that_is_not_configured_is_named_with_its_line(tmp_path):
    file = tmp_path / "bad.jsonl"
    file.write_text("\n" + json.dumps(ROWS[1]) + "\n" + json.dumps({**ROWS[0], "model": "nope"}))
    async with sharing() as made:
        done = await command(made, "import", str(file))
        assert (done.returncode, done.stdout) == (2, "")
        assert f"{file}:3: the model 'nope' is not configured" in done.stderr


async def test_without_a_gateway_it_says_so(tmp_path):
    file = tmp_path / "faq.jsonl"
    file.write_text(json.dumps(ROWS[0]))
    line = [
        sys.executable,
        "-m",
        "app",
        "cache",
        "import",
        str(file),
        "--url",
        "http://127.0.0.1:9",
    ]
    done = await asyncio.to_thread(
        subprocess.run, line, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "no gateway at http://127.0.0.1:9" in done.stderr
