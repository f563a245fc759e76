"""The console's files, read without a browser: nothing from outside, nothing inline."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

_FILES = ("index.html", "console.css", "console.js", "gateway.js", "recent.js", "turn.js")


@pytest.fixture
def sources(root: Path) -> dict[str, str]:
    folder = root / "app" / "console"
    return {
        path.name: path.read_text()
        for path in folder.iterdir()
        if path.suffix in {".html", ".css", ".js", ".svg"}
    }


def test_no_file_names_another_host(sources: dict[str, str]) -> None:
    assert set(_FILES) < set(sources)
    for name, text in sources.items():
        without_namespace = text.replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|[\"'(]//|@import", without_namespace), name


def test_the_page_has_no_inline_script_style_or_handler(sources: dict[str, str]) -> None:
    page = sources["index.html"]
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", page)


def test_no_script_makes_markup_or_code_from_text(sources: dict[str, str]) -> None:
    for name, text in sources.items():
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", text
        ), name


def test_every_module_and_file_that_is_referred_to_exists(sources: dict[str, str]) -> None:
    for name, text in sources.items():
        wanted = re.findall(r"from \"\./([\w.]+)\"", text)
        wanted += re.findall(r"(?:href|src)=\"console/([\w.]+)\"", text)
        assert set(wanted) <= set(sources), name


def test_dark_by_choice_and_dark_by_system_are_the_same_colours(sources: dict[str, str]) -> None:
    css = sources["console.css"]
    by_system = re.search(r"data-theme=\"light\"\]\) \{(.*?)\}", css, re.DOTALL)
    by_choice = re.search(r"data-theme=\"dark\"\] \{(.*?)\}", css, re.DOTALL)
    assert by_system
    assert by_choice
    colours = re.compile(r"(--[\w-]+): (#\w+)")
    assert colours.findall(by_system[1]) == colours.findall(by_choice[1])
