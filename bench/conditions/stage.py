"""What every condition is measured with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.scenarios import MODELS, Scenario
from bench.slices import Rigging


@dataclass(frozen=True, slots=True)
class Stage:
    """A fast upstream, the load generator, a folder, the two CPUs, and how much is measured."""

    rigging: Rigging
    upstream_port: int
    server_cpu: int
    rounds: int
    slice_s: float
    colds: int
    """Cold first requests each way."""

    @property
    def folder(self) -> Path:
        """For configurations and logs."""
        return self.rigging.folder

    @property
    def load_cpu(self) -> int:
        """The CPU of client and upstream."""
        return self.rigging.cpu

    @property
    def upstream(self) -> str:
        """The upstream's base URL, without /v1."""
        return f"http://127.0.0.1:{self.upstream_port}"

    def upstream_model(self, scenario: Scenario) -> str:
        """The name by which the upstream itself knows the scenario's model."""
        return MODELS[scenario.model]
