"""Slipstream itself, one worker, in the configuration committed beside this package.

Nothing is switched off: exact cache, metrics, traces and access log are as the defaults make them.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from bench.targets.base import Launch, Rig, Target, UnavailableError

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "bench" / "slipstream.yaml"


def launch(rig: Rig) -> Launch:
    """Start it as a user does; raises UnavailableError when there is no gateway to start."""
    if not (ROOT / "app" / "main.py").exists():
        raise UnavailableError("app/main.py is not there")
    return Launch(
        argv=(
            sys.executable,
            "-m",
            "app",
            "serve",
            "--config",
            str(CONFIG),
            "--port",
            str(rig.port),
        ),
        port=rig.port,
        version=_commit(),
        env={
            "UPSTREAM_OPENAI": f"{rig.upstream}/v1",
            "UPSTREAM_ANTHROPIC": rig.upstream,
            "SLIPSTREAM_DATA": str(rig.folder / "data"),
        },
        model_form="{alias}",
        ready_s=60.0,
    )


def _commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip()


TARGET = Target("slipstream", "Slipstream", "ours", launch)
