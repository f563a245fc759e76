"""LiteLLM's proxy: stock configuration, a master key, models by name, no database, one worker."""

from __future__ import annotations

import json
from pathlib import Path

from bench.scenarios import MODELS
from bench.targets.base import KEY, Launch, Rig, Target, python_venv

_REQUIREMENTS = Path(__file__).with_name("litellm-requirements.txt")


def launch(rig: Rig) -> Launch:
    """Write the configuration; raises UnavailableError when it is not installed."""
    programs = python_venv("litellm", _REQUIREMENTS, rig)
    models = [
        {
            "model_name": alias,
            "litellm_params": {
                "model": f"openai/{upstream}",
                "api_base": f"{rig.upstream}/v1",
                "api_key": "none",
            },
        }
        for alias, upstream in MODELS.items()
    ]
    config = rig.folder / "litellm.yaml"
    # JSON is YAML.
    config.write_text(json.dumps({"model_list": models, "general_settings": {"master_key": KEY}}))
    return Launch(
        argv=(
            str(programs / "litellm"), "--config", str(config), "--host", "127.0.0.1",
            "--port", str(rig.port), "--num_workers", "1", "--telemetry", "False",
        ),
        port=rig.port,
        version=_REQUIREMENTS.read_text().strip().rpartition("=")[2],
        # Without these it fetches a price list from the internet and prints each request.
        env={"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "NO_DOCS": "True"},
        model_form="{alias}",
        ready_s=90.0,
    )  # fmt: skip


TARGET = Target("litellm", "LiteLLM proxy", "gateway", launch)
