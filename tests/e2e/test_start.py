"""What an import and a start load, and that no request waits for an import."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import httpx2
import pytest

from app.providers.simulator import SimulatorSettings, running_simulator
from tests.e2e.semantic.conftest import PATIENCE_S, PLAIN
from tests.support.gateway import ROOT, GatewayProcess, configuration, gateway_process

NEVER = {
    *("openai", "anthropic", "mcp", "onnxruntime", "fastembed", "tokenizers", "huggingface_hub"),
    *("qdrant_client", "qdrant_edge", "redis", "httpx", "httpx2", "requests", "dbos", "sqlalchemy"),
    *("psycopg", "ag_ui", "jsonschema", "opentelemetry.sdk", "grpc", "h2", "PIL"),
}
"""What an ordinary start has no use for: clients of what is not configured, and the encoder's own."""
LATER = {"numpy", "structlog", "prometheus_client", "yaml", "uvicorn", "msgspec.json", "sqlite3"}
"""What the gateway needs, and an import of its application does not."""
IMPORTED = re.compile(r"import time:\s+\d+ \|\s+\d+ \|\s+(\S+)")
CHAT = {"messages": [{"role": "user", "content": "Where does the Danube end?"}]}


def loaded_by(statement: str) -> set[str]:
    """The modules that a fresh interpreter holds after ``statement``."""
    code = f"{statement}\nimport json, sys; print(json.dumps(list(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True, text=True
    )
    return set(json.loads(done.stdout))


def of(packages: set[str], modules: set[str]) -> set[str]:
    """Those of ``packages`` that are among ``modules``."""
    return packages & modules


def test_importing_the_application_loads_fastapi_and_not_the_gateway():
    loaded = loaded_by("import app.main")
    assert not of(NEVER | LATER, loaded)
    assert not {"app.bootstrap", "app.settings", "app.pipeline.turn"} & loaded


def test_the_encoder_can_be_begun_before_the_gateway_or_fastapi_is_loaded():
    loaded = loaded_by("import app.server")
    assert "app.bootstrap_encoder" in loaded
    assert not of(NEVER | {"fastapi", "numpy", "app.main", "app.bootstrap"}, loaded)


def imported(gateway: GatewayProcess, since: int = 0) -> set[str]:
    """What the gateway's process has imported since a line of its log."""
    return {found[1] for line in gateway.log[since:] if (found := IMPORTED.match(line))}


async def come_up(http: httpx2.AsyncClient) -> None:
    """Wait until nothing is amiss: the encoder's process is there."""
    async with asyncio.timeout(PATIENCE_S):
        while (await http.get("/readyz")).json()["degraded"]:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.05)


async def ask_everything(http: httpx2.AsyncClient) -> None:
    """A request of each ordinary kind."""
    for model in ("small", "small2", "auto"):
        for stream in (False, True):
            body = {**CHAT, "model": model, "stream": stream}
            for path in ("/v1/chat/completions", "/v1/messages"):
                reply = await http.post(path, json={"max_tokens": 50, **body})
                assert reply.status_code == 200, reply.text
            asked = {"model": model, "input": "Where does the Rhine end?", "stream": stream}
            assert (await http.post("/v1/responses", json=asked)).status_code == 200
    counted = await http.post("/v1/messages/count_tokens", json={**CHAT, "model": "small2"})
    assert counted.status_code == 200
    wrong = await http.post("/v1/chat/completions", json={"model": "none", "messages": []})
    assert wrong.status_code == 400
    for path in (
        *("/", "/livez", "/readyz", "/metrics", "/v1/models", "/v1/traces", "/v1/savings"),
        *("/v1/cache/stats", "/v1/cache/entries", "/v1/upstreams", "/v1/prompts/stats"),
    ):
        assert (await http.get(path)).status_code == 200, path


@pytest.mark.slow
@pytest.mark.anyio
async def test_a_start_loads_no_client_of_what_is_not_configured_and_no_request_loads_anything():
    """An import on the loop is a stall of everybody's stream: tens to hundreds of milliseconds."""
    async with running_simulator(SimulatorSettings(time_scale=0)) as upstream:
        values = configuration(upstream, semantic=True, telemetry={"log_format": "json"})
        with gateway_process(values, env={"PYTHONPROFILEIMPORTTIME": "1"}) as gateway:
            async with httpx2.AsyncClient(verify=PLAIN, base_url=gateway.url, timeout=60) as http:
                await come_up(http)
                at_start, since = imported(gateway), len(gateway.log)
                await ask_everything(http)
            assert "app.bootstrap_access" in at_start
            assert not of(NEVER, at_start)
            assert imported(gateway, since) == set()


@pytest.mark.slow
@pytest.mark.anyio
async def test_matrix_products_have_one_thread_unless_the_operator_says_otherwise():
    """Those of numpy would spin for their share of a product on the CPUs that the requests need."""
    for told, kept in (({}, "1"), ({"OPENBLAS_NUM_THREADS": "2"}, "2")):
        async with running_simulator(SimulatorSettings(time_scale=0)) as upstream:
            values = configuration(upstream, semantic=True, telemetry={"log_format": "json"})
            with gateway_process(values, env=told) as gateway:
                async with httpx2.AsyncClient(verify=PLAIN, base_url=gateway.url) as http:
                    await come_up(http)
                    assert f"OPENBLAS_NUM_THREADS={kept}" in environment_of_the_encoder(gateway)


def environment_of_the_encoder(gateway: GatewayProcess) -> list[str]:
    """What the gateway's vector process was begun with."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            if int(parent) == gateway.process.pid and b"app.stores.sidecar" in (
                (folder / "cmdline").read_bytes()
            ):
                return (folder / "environ").read_text().split("\0")
    raise AssertionError("the gateway has no vector process")
