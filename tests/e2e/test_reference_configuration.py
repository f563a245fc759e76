"""The process that an operator starts, on the reference configuration, asked by plain curl."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import yaml

from app.providers.simulator import expected_answer
from tests.support.gateway import GatewayProcess, gateway_process, sse_events

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl on the PATH"),
]
REFERENCE = Path(__file__).parent / "data" / "gateway.yaml"


def started() -> AbstractContextManager[GatewayProcess]:
    """The file served, the simulator moved to a free port by the variables that the file itself offers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    values = yaml.safe_load(REFERENCE.read_text())
    values["simulator"] = {"port": port}
    address = f"http://127.0.0.1:{port}"
    return gateway_process(
        values, env={"UPSTREAM_OPENAI": f"{address}/v1", "UPSTREAM_ANTHROPIC": address}
    )


@pytest.fixture(scope="module")
def gateway() -> Iterator[GatewayProcess]:
    """With no key, so that the simulated models stand in."""
    with started() as process:
        yield process


def curl(gateway: GatewayProcess, path: str, body: dict[str, object], *more: str) -> str:
    """What ``curl -N`` prints."""
    command = ["curl", "-sS", "-N", *more, f"{gateway.url}{path}"]
    command += ["-H", "content-type: application/json", "-d", json.dumps(body)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout


def test_the_reference_configuration_is_served_by_simulated_models_and_says_so(gateway):
    assert any("SIMULATED" in line for line in gateway.log)
    answer = curl(
        gateway,
        "/v1/chat/completions",
        {"model": "small", "messages": [{"role": "user", "content": "What is TCP?"}]},
    )
    text = json.loads(answer)["choices"][0]["message"]["content"]
    assert text == expected_answer("What is TCP?", "sim-fast")


def test_curl_sees_a_stream_as_it_comes(gateway):
    """The first event arrives well before the last."""
    body = {
        "model": "small2",
        "max_tokens": 500,
        "stream": True,
        "messages": [{"role": "user", "content": "What is UDP?"}],
    }
    command = ["curl", "-sS", "-N", f"{gateway.url}/v1/messages", "-d", json.dumps(body)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines, arrivals = [], []
        for line in process.stdout:
            lines.append(line)
            arrivals.append(time.monotonic())
    events = sse_events("".join(lines))
    deltas = [e["delta"].get("text", "") for e in events if e["type"] == "content_block_delta"]
    assert "".join(deltas) == expected_answer("What is UDP?", "sim-fast")
    assert len(set(arrivals)) > 10
    assert arrivals[0] < arrivals[-1]


def test_curl_gets_headers_and_errors_in_the_dialects_form(gateway):
    shown = curl(gateway, "/v1/responses", {"model": "none", "input": "x"}, "-i")
    head, _, body = shown.partition("\n\n") if "\r\n" not in shown else shown.partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 404")
    assert "x-request-id" in head.lower()
    assert json.loads(body)["error"]["code"] == "model_not_found"


def test_stopping_it_is_in_good_order():
    """SIGTERM ends it with the status of success."""
    with started() as process:
        status = process.stop()
    assert status in {0, -15}
    assert not any("Traceback" in line for line in process.log)
