"""The documents say what is so: settings, decisions, commands and links are compared with the code."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from app.cli import COMMANDS
from app.settings import Settings, loads

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
DECISIONS = ROOT / "docs" / "decisions"
PAGES = sorted(
    path
    for path in (
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "deploy").rglob("*.md"),
    )
)
NAMING_ABSENT = {"CHANGELOG.md", "0019-where-the-house-differs.md"}
"""Pages that name modules which are gone, or were only planned."""
OF_OTHERS = {"example/src/burstgpt/config.py"}
"""Files of other projects that a page quotes."""
PROMISED_TARGETS = {
    *("install", "run", "test", "check", "bench", "bench-cache", "bench-router"),
    *("bench-agent", "bench-prompts", "bench-scale", "chaos", "fuzz", "soak"),
}


def settings_reference() -> ModuleType:
    """scripts/settings-reference as a module."""
    path = str(ROOT / "scripts" / "settings-reference")
    loader = importlib.machinery.SourceFileLoader("settings_reference", path)
    spec = importlib.util.spec_from_loader("settings_reference", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


class TestSettings:
    def test_the_reference_is_what_the_models_say(self) -> None:
        """When it is not: scripts/settings-reference --write."""
        script = settings_reference()
        page = script.PAGE.read_text(encoding="utf-8")
        assert script.page_with(page, script.reference(Settings)) == page

    def test_every_key_has_a_meaning(self) -> None:
        rows = re.findall(r"(?m)^\| `\w+` \|.*", settings_reference().reference(Settings))
        assert len(rows) > 100
        assert [row for row in rows if not row.rstrip(" |").rpartition("|")[2].strip()] == []

    def test_every_example_loads(self) -> None:
        text = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
        examples = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
        assert examples
        for example in examples:
            loads(example, "docs/settings.md", {})


def test_the_agents_page_is_one_configuration_that_loads() -> None:
    """Its examples, one after the other, beside the models of the shipped one: a reader may copy them."""
    page = (ROOT / "docs" / "agents.md").read_text(encoding="utf-8")
    written = yaml.safe_load("\n".join(re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)))
    shipped = yaml.safe_load((ROOT / "deploy" / "gateway.yaml").read_text(encoding="utf-8"))
    settings = loads(
        yaml.safe_dump({**shipped, **written}), "docs/agents.md", {"TICKETS_TOKEN": "t"}
    )
    assert [agent.name for agent in settings.agents] == ["researcher", "helpdesk"]


def test_the_readme_s_configuration_loads() -> None:
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    [example] = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    env = {"OPENAI_API_KEY": "k", "ANTHROPIC_API_KEY": "k"}
    assert {model.tier for model in loads(example, "README.md", env).models} == {"fast", "powerful"}


DECISION_FILES = sorted(DECISIONS.glob("[0-9]*.md"))
TARGETS = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8")))


class TestDecisions:
    def test_they_are_numbered_without_a_gap(self) -> None:
        numbers = [path.name[:5] for path in DECISION_FILES]
        assert [f"{number:04}-" for number in range(len(DECISION_FILES))] == numbers

    @pytest.mark.parametrize("path", DECISION_FILES, ids=lambda path: path.stem)
    def test_each_says_why_what_follows_and_what_holds_it(self, path: Path) -> None:
        text = path.read_text(encoding="utf-8")
        assert re.match(rf"# {path.name[:4]} \S", text)
        headings = re.findall(r"(?m)^## (.+)$", text)
        assert headings == ["Context", "Decision", "Consequences", "Alternatives", "Held by"]
        assert len(text.splitlines()) < 80


class TestCommands:
    def test_every_promised_target_can_be_made(self) -> None:
        assert set() == PROMISED_TARGETS - TARGETS

    @pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
    def test_every_make_command_in_a_page_exists(self, path: Path) -> None:
        code = "\n".join(code_of(path))
        named = set(re.findall(r"(?m)(?:^|[;&`(] ?|\$ )make ([a-z][a-z-]*)", code))
        assert named - TARGETS == set()

    @pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
    def test_every_slipstream_command_in_a_page_exists(self, path: Path) -> None:
        code = "\n".join(code_of(path))
        named = set(re.findall(r"(?m)(?:^|[;&/(] ?|\$ )slipstream ([a-z]+)", code))
        assert named - {command.name for command in COMMANDS} == set()

    def test_ci_runs_what_a_developer_runs(self) -> None:
        assert "exec make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def code_of(path: Path) -> list[str]:
    """The code in a page, blocks and spans."""
    text = path.read_text(encoding="utf-8")
    blocks = re.findall(r"(?ms)^```\w*\n(.*?)^```", text)
    spans = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", re.sub(r"(?ms)^```.*?^```", "", text))
    return blocks + spans


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_link_within_the_repository_leads_somewhere(path: Path) -> None:
    text = re.sub(r"(?ms)^```.*?^```", "", path.read_text(encoding="utf-8"))
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text)
    local = [target for target in targets if not re.match(r"[a-z]+:", target)]
    assert [target for target in local if not (path.parent / target).exists()] == []


def spelled_out(name: str) -> list[str]:
    """``a/{b,c}.py`` as its two paths."""
    braces = re.search(r"\{([^{}]*)\}", name)
    if braces is None:
        return [name]
    start, end = name[: braces.start()], name[braces.end() :]
    return [each for part in braces[1].split(",") for each in spelled_out(start + part + end)]


@pytest.mark.parametrize(
    "path", [path for path in PAGES if path.name not in NAMING_ABSENT], ids=lambda path: path.name
)
def test_every_module_that_a_page_names_exists(path: Path) -> None:
    named = re.findall(
        r"`([\w{},*/]+/[\w{},*]+\.py)(?:::[\w.]+)?`", path.read_text(encoding="utf-8")
    )
    modules = {each for name in named for each in spelled_out(name)} - OF_OTHERS
    rooms = (ROOT, ROOT / "app")
    assert [name for name in modules if not any(list(each.glob(name)) for each in rooms)] == []


@pytest.mark.parametrize(
    "path", sorted((ROOT / "deploy").rglob("gateway*.yaml")), ids=lambda path: path.name
)
def test_every_shipped_configuration_loads(path: Path) -> None:
    env = {"OPENAI_API_KEY": "k", "ANTHROPIC_API_KEY": "k"}
    assert loads(path.read_text(encoding="utf-8"), path.name, env).models


def test_the_dashboard_and_the_alerts_ask_for_metrics_that_exist() -> None:
    known = set(re.findall(r"`(slipstream_\w+)`", (ROOT / "docs" / "metrics.md").read_text()))
    deployed = [*(ROOT / "deploy").rglob("*.json"), *(ROOT / "deploy").rglob("alerts*.yml")]
    asked = {
        re.sub(r"_(bucket|count|sum)$", "", name)
        for path in deployed
        for name in re.findall(r"\bslipstream_\w+", path.read_text(encoding="utf-8"))
    }
    assert asked
    assert asked - known == set()
