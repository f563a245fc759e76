"""Portkey's gateway on Node.js, from npm.

@hono/node-server is pinned to 1.3.3 (package.json): with the 1.19 that a plain install brings,
every stream fails on Node 20 (`TypeError: immutable`). The pin is in Portkey's favour.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from bench.targets.base import KEY, Launch, Rig, Target, UnavailableError, cache_dir, run_install

_MANIFEST = Path(__file__).with_name("package.json")


def launch(rig: Rig) -> Launch:
    """Find or install it; raises UnavailableError without Node or npm."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise UnavailableError("node and npm are not installed: run scripts/bench-setup")
    folder = cache_dir() / "portkey"
    program = folder / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"
    wanted = _MANIFEST.read_text()
    stamp = folder / "installed.json"
    if not (program.exists() and stamp.exists() and stamp.read_text() == wanted):
        if not rig.install:
            raise UnavailableError("not installed, and --no-install was given")
        folder.mkdir(exist_ok=True)
        (folder / "package.json").write_text(wanted)
        run_install([npm, "install", "--no-audit", "--no-fund"], folder)
        stamp.write_text(wanted)
    return Launch(
        argv=(node, str(program), f"--port={rig.port}", "--headless"),
        port=rig.port,
        version=json.loads(wanted)["dependencies"]["@portkey-ai/gateway"],
        env={"NODE_ENV": "production"},
        headers={
            "Authorization": f"Bearer {KEY}",
            "x-portkey-provider": "openai",
            "x-portkey-custom-host": f"{rig.upstream}/v1",
        },
        ready_s=60.0,
    )


TARGET = Target("portkey", "Portkey (Node)", "gateway", launch)
