"""Every panel and every alert asks for what the gateway really exports: a real Prometheus says so."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
import pytest
import yaml

from app.providers.simulator import SimulatorSettings, running_simulator
from tests.e2e.agent.test_agent_loop import echo, tool
from tests.support.gateway import ROOT, configuration, running_gateway
from tests.support.prometheus import Prometheus, prometheus_path, running_prometheus
from tests.support.tool_server import tool_server

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
RULES = [ROOT / "deploy" / "prometheus" / name for name in ("rules.yml", "alerts.yml")]
DASHBOARDS = ROOT / "deploy" / "grafana" / "dashboards"
WINDOW = "10s"
PATIENCE_S = 45.0

needs_prometheus = pytest.mark.skipif(
    prometheus_path() is None, reason="needs Debian's package prometheus"
)


@dataclass(slots=True)
class Traffic:
    """Requests of every kind that a panel shows."""

    client: httpx.AsyncClient
    upstream: str
    number: int = 0

    async def chat(self, model: str, text: str, *, stream: bool = False, **headers: str) -> None:
        """One question in the Chat dialect."""
        body = {
            "model": model,
            "stream": stream,
            "messages": [{"role": "user", "content": text}],
        }
        await self.client.post("/v1/chat/completions", json=body, headers=headers)

    async def round(self) -> None:
        """One of each."""
        self.number += 1
        n = self.number
        async with asyncio.TaskGroup() as at_once:
            for question in (
                self.chat("small", f"How high is hill number {n}?", stream=True),
                self.chat("small2", f"How deep is lake number {n}?", stream=True),
                self.chat("auto", f"Name river number {n}, please."),
                self.chat("auto", "What is 12 * 12?"),
                self.chat("auto", "Which is the longest river of all?"),
                self.chat("broken", f"Fail number {n}", stream=True),
                self.chat("nobody", "There is no such model."),
                self.chat("agent/desk", f"Look up INC-{1000 + n} and INC-{5000 + n}."),
                *(self.chat("large", f"The same question at once, {n}") for _ in range(3)),
                self.leave(n),
                self.converse(n),
            ):
                at_once.create_task(question)
        await self.client.post(f"{self.upstream}/sim/faults", json={"script": ["refusal"]})
        await self.chat("auto", f"Say hello to guest {n} in one word.")
        await self.client.post(f"{self.upstream}/sim/faults", json={"script": []})

    async def leave(self, n: int) -> None:
        """A client that goes away in mid-stream."""
        body = {
            "model": "slow",
            "stream": True,
            "messages": [{"role": "user", "content": f"A long story, number {n}"}],
        }
        async with self.client.stream("POST", "/v1/chat/completions", json=body) as answer:
            async for _ in answer.aiter_bytes():
                break

    async def converse(self, n: int) -> None:
        """Two turns over a prompt that is long enough for the vendor's cache."""
        system = {"role": "system", "content": "You know all about mountains. " * 400}
        for turn in range(2):
            messages = [system, {"role": "user", "content": f"Turn {turn} of {n}"}]
            await self.client.post(
                "/v1/chat/completions", json={"model": "small", "messages": messages}
            )


def panels() -> list[tuple[str, str]]:
    """Each panel's name and one of its queries."""
    found = []
    for file in sorted(DASHBOARDS.glob("*.json")):
        page = json.loads(file.read_text())
        for panel in page["panels"]:
            for target in panel["targets"]:
                name = f"{page['title']} / {panel['title']} / {target['legendFormat']}"
                found.append((name, target["expr"].replace("$__rate_interval", WINDOW)))
    return found


@pytest.fixture(scope="module")
async def watched() -> AsyncIterator[tuple[Prometheus, Traffic]]:
    """A gateway with tools and models that fail, under a Prometheus."""
    async with (
        running_simulator(SimulatorSettings(time_scale=0.02)) as upstream,
        tool_server({"/ticket/": echo()}) as tools,
    ):
        values = configuration(upstream, semantic=True)
        models = values["models"]
        assert isinstance(models, list)
        models.append({**models[0], "name": "broken", "model": "sim-fast!500", "tier": "powerful"})
        models.append({**models[0], "name": "slow", "model": "sim-fast!drip", "tier": "powerful"})
        values["tools"] = [tool("ticket", tools.url)]
        values["agents"] = [
            {"name": "desk", "system": "Be brief.", "model": "small", "tools": ["ticket"]}
        ]
        async with (
            running_gateway(values) as gateway,
            running_prometheus(gateway.url.removeprefix("http://"), RULES) as prometheus,
            httpx.AsyncClient(base_url=gateway.url, timeout=PATIENCE_S) as client,
        ):
            yield prometheus, Traffic(client, upstream)


@needs_prometheus
async def test_every_panel_and_every_rule_shows_data_of_a_gateway_under_load(watched) -> None:
    prometheus, traffic = watched
    waiting = dict(panels())
    waiting |= {f"metric {name}": name for name in _metrics_of_rules()}
    assert len(waiting) > 70
    try:
        async with asyncio.timeout(PATIENCE_S):
            while waiting:
                await traffic.round()
                for name, query in list(waiting.items()):
                    if _holds_a_number(await prometheus.query(query)):
                        del waiting[name]
    except TimeoutError:
        pytest.fail("no data for\n" + "\n".join(f"{n}: {q}" for n, q in waiting.items()))
    broken = [rule["name"] for rule in await prometheus.rules() if rule["health"] != "ok"]
    assert broken == []


def _holds_a_number(result: list[dict]) -> bool:
    return any(sample["value"][1] != "NaN" for sample in result)


def _metrics_of_rules() -> set[str]:
    """Every name that a rule or an alert reads."""
    names: set[str] = set()
    for file in RULES:
        for group in yaml.safe_load(file.read_text())["groups"]:
            for rule in group["rules"]:
                names |= set(re.findall(r"slipstream[_:][a-z0-9_:]+", rule["expr"]))
    assert names
    return names


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs Debian's package prometheus")
@pytest.mark.parametrize(
    "words",
    [
        ("check", "rules", "rules.yml", "alerts.yml"),
        ("test", "rules", "alerts_test.yml"),
        ("check", "config", "prometheus.yml"),
    ],
    ids=" ".join,
)
@pytest.mark.timeout(240)  # days of samples are evaluated: a minute of CPU on a slow machine
def test_promtool_approves(words) -> None:
    done = subprocess.run(
        ["promtool", *words],
        cwd=ROOT / "deploy" / "prometheus",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tried_on_series_that_raise_it() -> None:
    raised: set[str] = set()
    for group in yaml.safe_load(RULES[0].with_name("alerts_test.yml").read_text())["tests"]:
        raised |= {each["alertname"] for each in group["alert_rule_test"] if each["exp_alerts"]}
    alerts = yaml.safe_load(RULES[0].with_name("alerts.yml").read_text())["groups"]
    assert raised == {rule["alert"] for group in alerts for rule in group["rules"]}


def test_the_dashboards_are_what_their_source_makes() -> None:
    done = subprocess.run(
        [ROOT / ".venv" / "bin" / "python", ROOT / "scripts" / "dashboards"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_no_panel_lies_over_another() -> None:
    files = sorted(DASHBOARDS.glob("*.json"))
    assert files
    for file in files:
        taken: set[tuple[int, int]] = set()
        for panel in json.loads(file.read_text())["panels"]:
            grid = panel["gridPos"]
            cells = {
                (grid["x"] + x, grid["y"] + y) for x in range(grid["w"]) for y in range(grid["h"])
            }
            assert not cells & taken, f"{file.name}: {panel['title']}"
            assert grid["x"] + grid["w"] <= 24
            taken |= cells
