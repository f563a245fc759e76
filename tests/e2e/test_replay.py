"""Traffic of a real gateway, recorded by it, and replayed by the command that an operator types."""

from __future__ import annotations

import json
from pathlib import Path

import anyio
import httpx2
import pytest
import yaml

from app.cli import main
from app.providers.simulator import RunningSimulator
from tests.support.gateway import configuration, running_gateway

pytestmark = pytest.mark.anyio

HARD = "Prove step by step that the algorithm terminates, and analyse its complexity, case {}."
EASY = "What does the abbreviation number {} mean?"
ASKED = 24


async def test_a_real_gateway_s_records_replay_to_what_happened(
    upstream: RunningSimulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ledger, its CSV and the traces all give the recorded money and hits; more fast is cheaper."""
    values = configuration(upstream.base_url, state={"data_dir": str(tmp_path)})
    config = tmp_path / "gateway.yaml"
    config.write_text(yaml.safe_dump(values))
    async with running_gateway(values) as gateway, httpx2.AsyncClient(base_url=gateway.url) as http:
        for at in range(ASKED):
            question = (HARD if at % 2 else EASY).format(at % 16)  # 8 are asked twice
            body = {"model": "auto", "messages": [{"role": "user", "content": question}]}
            answer = await http.post("/v1/chat/completions", json=body)
            assert answer.status_code == 200
        for name in ("small", "large"):  # so that each tier has a call, whatever the router did
            body = {"model": name, "messages": [{"role": "user", "content": f"Ask {name}"}]}
            await http.post("/v1/chat/completions", json=body)
        told = (await http.get("/v1/traces", params={"limit": 1000})).json()
        csv = ""
        with anyio.fail_after(10):  # rows are written once a second
            while csv.count("\n") < ASKED + 3:
                csv = (await http.get("/v1/ledger")).text
                await anyio.sleep(0.05)
    (tmp_path / "traces.json").write_text(json.dumps(told))
    (tmp_path / "ledger.csv").write_text(csv, newline="")
    assert (tmp_path / "ledger.sqlite").exists()
    spent = sum(each["cost_usd"] for each in told["traces"])
    hits = sum(each["cache"]["outcome"] == "exact" for each in told["traces"])
    assert spent > 0
    for trace in ("ledger.sqlite", "ledger.csv", "traces.json"):
        out = tmp_path / f"{trace}.out"
        arguments = [
            "replay", str(tmp_path / trace), "--config", str(config), "--json", str(out),
            "--set", "fast:routing.fast_share=1", "--set", "cold:cache.exact.enabled=false",
        ]  # fmt: skip
        assert await anyio.to_thread.run_sync(main, arguments) == 0
        assert "Assumed:" in capsys.readouterr().out
        report = json.loads(out.read_text())
        recorded, fast, cold = report["settings"]
        assert report["trace"]["requests"] == ASKED + 2
        assert recorded["cost_usd"]["value"] == pytest.approx(spent)
        assert recorded["hit_ratio"]["value"] == pytest.approx(hits / (ASKED + 2))
        assert fast["cost_usd"]["value"] <= recorded["cost_usd"]["value"]
        assert cold["hit_ratio"]["value"] == 0
        assert cold["cost_usd"]["value"] >= recorded["cost_usd"]["value"]
        assert report["proposal"]["slo"] == "holds", "the simulated models answer at once"


async def test_prompts_are_decided_as_the_gateway_decided_them(
    upstream: RunningSimulator, tmp_path: Path
) -> None:
    """The same questions through the gateway and through the replay: the same tiers, hits and lanes."""
    values = configuration(upstream.base_url, state={"data_dir": str(tmp_path)})
    config = tmp_path / "gateway.yaml"
    config.write_text(yaml.safe_dump(values))
    questions = [(HARD if at % 3 else EASY).format(at % 40) for at in range(60)]
    questions += ["What is 12 * 12?", "Hello!"]
    lines, seen = [], {}
    async with running_gateway(values) as gateway, httpx2.AsyncClient(base_url=gateway.url) as http:
        for at, question in enumerate(questions):
            body = {"model": "auto", "messages": [{"role": "user", "content": question}]}
            answer = await http.post("/v1/chat/completions", json=body)
            cache = answer.headers["x-slipstream-cache"]
            met = answer.headers["x-slipstream-tier"] if cache == "miss" else cache
            seen[met] = seen.get(met, 0) + 1
            lines.append(json.dumps({"at_s": 10 * at, "prompt": question}))
        for name in ("small", "large"):
            body = {"model": name, "messages": [{"role": "user", "content": f"Ask {name}"}]}
            await http.post("/v1/chat/completions", json=body)
        told = (await http.get("/v1/traces", params={"limit": 1000})).json()
    trace, calls, out = (tmp_path / name for name in ("t.jsonl", "traces.json", "out.json"))
    trace.write_text("\n".join(lines))
    calls.write_text(json.dumps(told))
    arguments = [
        "replay", str(trace), "--config", str(config), "--calls", str(calls), "--json", str(out),
    ]  # fmt: skip
    assert await anyio.to_thread.run_sync(main, arguments) == 0
    assert json.loads(out.read_text())["settings"][0]["answered_by"] == seen
    assert {"fast", "powerful", "exact", "lane"} <= seen.keys()
