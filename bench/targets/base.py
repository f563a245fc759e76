"""What a target is: how to start one server, and how requests are addressed to it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from bench.scenarios import MODELS

Kind = Literal["reference", "bare", "gateway", "ours"]

KEY = "sk-bench-0000000000000000"
"""The key that the clients send. It opens nothing."""


class UnavailableError(RuntimeError):
    """A target cannot run here; the text says why and, where there is one, the mend."""


@dataclass(frozen=True, slots=True)
class Rig:
    """What a target is started with. `folder` is its own, for configuration and logs."""

    upstream_port: int
    port: int
    folder: Path
    install: bool

    @property
    def upstream(self) -> str:
        """The upstream's base URL, without /v1."""
        return f"http://127.0.0.1:{self.upstream_port}"


@dataclass(frozen=True, slots=True)
class Launch:
    """How to run a server and how to speak to it.

    `argv` empty: nothing to start, `port` is already served. `port` None: the server chooses one
    and writes `listening PORT` to its output. `model_form` makes the name that a request carries
    from `{alias}` (the gateway's name for a model) and `{upstream}` (the upstream's).
    """

    argv: tuple[str, ...]
    port: int | None
    version: str
    env: Mapping[str, str] = field(default_factory=dict)
    prefix: str = ""
    headers: Mapping[str, str] = field(default_factory=lambda: {"Authorization": f"Bearer {KEY}"})
    model_form: str = "{upstream}"
    ready_s: float = 20.0

    def model(self, alias: str) -> str:
        """The model's name in a request to this target."""
        return self.model_form.format(alias=alias, upstream=MODELS[alias])


@dataclass(frozen=True, slots=True)
class Target:
    """A server that can be measured. `launch` prepares its files; raises UnavailableError."""

    name: str
    title: str
    kind: Kind
    launch: Callable[[Rig], Launch]


def cache_dir() -> Path:
    """Where other people's gateways are installed: never in this project's environment."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    path = Path(base) / "slipstream-bench"
    path.mkdir(parents=True, exist_ok=True)
    return path


def python_venv(name: str, requirements: Path, rig: Rig) -> Path:
    """The bin folder of a virtual environment that holds exactly the pinned requirements.

    Made with the interpreter that runs this: one build of Python for everything that is compared.
    Raises UnavailableError when it is not there and `rig.install` is off, or the install fails.
    """
    folder = cache_dir() / name
    stamp = folder / "installed.txt"
    wanted = f"# {sys.version} {sys.base_prefix}\n{requirements.read_text()}"
    if stamp.exists() and stamp.read_text() == wanted:
        return folder / "bin"
    if not rig.install:
        raise UnavailableError("not installed, and --no-install was given")
    run_install([sys.executable, "-m", "venv", "--clear", str(folder)], folder.parent)
    pip = [str(folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
    run_install([*pip, "-r", str(requirements)], folder)
    stamp.write_text(wanted)
    return folder / "bin"


def run_install(argv: list[str], cwd: Path) -> None:
    """Run an installer; raises UnavailableError with the end of what it said."""
    done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, check=False, timeout=1200)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise UnavailableError(f"install failed: {said[-1] if said else 'no message'}")
