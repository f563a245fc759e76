"""Gateways behind a proxy can be replaced one by one under load, and no request is lost."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from app.providers.simulator import SimulatorSettings, running_simulator
from bench.rolling import roll
from tests.support.gateway import configuration

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(240)]
RESTARTS = 2


@pytest.mark.skipif(shutil.which("nginx") is None, reason="needs Debian's package nginx")
async def test_no_request_is_lost_while_both_gateways_are_replaced(tmp_path: Path) -> None:
    async with running_simulator(SimulatorSettings(time_scale=0.02)) as upstream:
        values = configuration(upstream, state={"data_dir": str(tmp_path)})
        config = tmp_path / "gateway.yaml"
        config.write_text(yaml.safe_dump(values))
        rolled = await roll(config, tmp_path, restarts=RESTARTS, clients=4)
    assert rolled.restarts == RESTARTS
    assert rolled.answered > 0
    assert not rolled.lost
