"""What one pair of tiers taught is not asked about another."""

from __future__ import annotations

from pathlib import Path

import yaml

from app.router_command import label_folder
from app.settings import load
from tests.support.gateway import configuration


def folder(tmp_path: Path, **upstream: str) -> Path:
    """The labels' folder where models have other names upstream."""
    settings = configuration("http://127.0.0.1:9")
    for each in settings["models"]:
        each["model"] = upstream.get(each["name"], each["model"])
    file = tmp_path / "gateway.yaml"
    file.write_text(yaml.safe_dump(settings))
    return label_folder(load(str(file), {}))


def test_each_pair_of_tiers_has_a_folder_of_its_own(tmp_path):
    settings = configuration("http://127.0.0.1:9")
    name = settings["models"][0]["name"]
    same, again = folder(tmp_path), folder(tmp_path)
    assert same == again
    assert folder(tmp_path, **{name: "another-model"}) != same
