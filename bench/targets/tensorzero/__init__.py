"""TensorZero's gateway (Rust), from its Python package, without a database.

The package has no gateway program, but it starts the same HTTP gateway in its process (serve.py).
"""

from __future__ import annotations

from pathlib import Path

from bench.scenarios import MODELS
from bench.targets.base import Launch, Rig, Target, python_venv

_HERE = Path(__file__).parent
_MODEL = """\
[models."{alias}"]
routing = ["mock"]
[models."{alias}".providers.mock]
type = "openai"
model_name = "{upstream}"
api_base = "{base}/v1/"
api_key_location = "none"
"""


def launch(rig: Rig) -> Launch:
    """Write the configuration; raises UnavailableError when it is not installed."""
    requirements = _HERE / "requirements.txt"
    programs = python_venv("tensorzero", requirements, rig)
    config = rig.folder / "tensorzero.toml"
    models = [
        _MODEL.format(alias=alias, upstream=upstream, base=rig.upstream)
        for alias, upstream in MODELS.items()
    ]
    config.write_text("[gateway]\nobservability.enabled = false\n\n" + "\n".join(models))
    return Launch(
        argv=(str(programs / "python"), str(_HERE / "serve.py"), str(config)),
        port=None,
        version=requirements.read_text().strip().rpartition("=")[2],
        # Several worker threads on one CPU would only take turns.
        env={"TOKIO_WORKER_THREADS": "1"},
        prefix="/openai",
        model_form="tensorzero::model_name::{alias}",
        ready_s=60.0,
    )


TARGET = Target("tensorzero", "TensorZero (Rust, embedded)", "gateway", launch)
