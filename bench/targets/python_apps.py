"""The bare Python proxies, each one uvicorn worker on uvloop and httptools."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import version

from bench.targets.base import Launch, Rig, Target


def _launcher(module: str, *packages: str) -> Callable[[Rig], Launch]:
    def launch(rig: Rig) -> Launch:
        return Launch(
            argv=(
                sys.executable, "-m", "uvicorn",
                "--factory", f"bench.targets.apps.{module}:create_app",
                "--host", "127.0.0.1", "--port", str(rig.port), "--no-access-log",
                "--loop", "uvloop", "--http", "httptools", "--log-level", "warning",
            ),
            port=rig.port,
            version=", ".join(f"{package} {version(package)}" for package in packages),
            env={"BENCH_UPSTREAM": rig.upstream},
        )  # fmt: skip

    return launch


STARLETTE = Target(
    "starlette_httpx",
    "Starlette + httpx",
    "bare",
    _launcher("starlette_httpx", "starlette", "httpx", "uvicorn"),
)
BARE_WIRE = Target(
    "bare_wire",
    "our pool, nothing else",
    "bare",
    _launcher("bare_wire", "uvicorn"),
)
FASTAPI = Target(
    "fastapi_sdk",
    "FastAPI + openai SDK",
    "bare",
    _launcher("fastapi_sdk", "fastapi", "openai", "uvicorn"),
)
