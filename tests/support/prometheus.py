"""A real Prometheus (Debian's package) for tests: it scrapes what it is told to and answers queries."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

PATIENCE_S = 30.0


def prometheus_path() -> str | None:
    """Where the program is, if it is installed."""
    return shutil.which("prometheus")


@dataclass(frozen=True, slots=True)
class Prometheus:
    """One that is up."""

    http: httpx.AsyncClient

    async def query(self, promql: str) -> list[dict[str, Any]]:
        """The samples of an instant query; an error of PromQL's fails the test."""
        answer = await self.http.get("/api/v1/query", params={"query": promql})
        assert answer.status_code == 200, f"{promql}: {answer.text}"
        result: list[dict[str, Any]] = answer.json()["data"]["result"]
        return result

    async def rules(self) -> list[dict[str, Any]]:
        """Every rule with its health."""
        groups = (await self.http.get("/api/v1/rules")).json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]


@contextlib.asynccontextmanager
async def running_prometheus(target: str, rules: list[Path]) -> AsyncIterator[Prometheus]:
    """Scrape ``target`` (host:port) as job ``slipstream`` twice a second, and evaluate ``rules``."""
    program = prometheus_path()
    assert program is not None
    with tempfile.TemporaryDirectory(prefix="slipstream-prometheus-") as folder:
        config = {
            "global": {"scrape_interval": "500ms", "evaluation_interval": "1s"},
            "rule_files": [str(rule) for rule in rules],
            "scrape_configs": [
                {"job_name": "slipstream", "static_configs": [{"targets": [target]}]}
            ],
        }
        file = Path(folder) / "prometheus.yml"
        file.write_text(yaml.safe_dump(config))
        port = _free_port()
        process = _start(program, file, f"127.0.0.1:{port}")
        try:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
                await _ready(http, process)
                yield Prometheus(http)
        finally:
            process.terminate()
            try:
                await asyncio.to_thread(process.wait, PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _start(program: str, file: Path, address: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [
            program,
            f"--config.file={file}",
            f"--storage.tsdb.path={file.parent}/data",
            f"--web.listen-address={address}",
            "--log.level=error",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


async def _ready(http: httpx.AsyncClient, process: subprocess.Popen[bytes]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            assert process.poll() is None, "Prometheus ended at once"
            with contextlib.suppress(httpx.TransportError):
                if (await http.get("/-/ready")).status_code == 200:
                    return
            await asyncio.sleep(0.05)  # another program's start: there is no event to wait for


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
