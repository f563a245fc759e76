"""Start a server on one CPU, wait until it answers, and stop it by its id.

Each server gets a session of its own, so that its children stop with it and nothing else does.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.machine import process_tree


class NotReadyError(RuntimeError):
    """A server ended or did not answer in time; the text holds the end of its log."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server that runs: its process (None for a server that is not ours to stop) and port."""

    process: subprocess.Popen[bytes] | None
    port: int
    log: Path

    def pids(self) -> set[int]:
        """The server's process and its children."""
        return process_tree(self.process.pid) if self.process else set()


def free_port() -> int:
    """A loopback port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(
    argv: Sequence[str], *, cpu: int | str | None, log: Path, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program, its output in `log`; on leaving, end it and its children.

    ``cpu``: the one that it may use, or some ("0,1"), or None for all.
    """
    pin = ["taskset", "-c", str(cpu)] if cpu is not None and shutil.which("taskset") else []
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [*pin, *argv],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
    try:
        yield process
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    for kind, patience_s in ((signal.SIGTERM, 3.0), (signal.SIGKILL, 5.0)):
        try:
            os.killpg(process.pid, kind)
        except ProcessLookupError:
            break
        try:
            process.wait(patience_s)
        except subprocess.TimeoutExpired:
            continue
    process.wait(5.0)


def wait_for_line(process: subprocess.Popen[bytes], log: Path, word: str, timeout_s: float) -> str:
    """What follows `word` on the line of the log that starts with it; raises NotReadyError."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        for line in log.read_text(errors="replace").splitlines(keepends=True):
            if line.startswith(word) and line.endswith("\n"):
                return line.removeprefix(word).strip()
        _still_running(process, log)
        time.sleep(0.02)
    raise NotReadyError(f"no line {word!r} in {timeout_s:g} s:\n{tail(log)}")


def wait_for_answer(
    server: Server, path: str, body: bytes, headers: Mapping[str, str], timeout_s: float
) -> None:
    """Ask until the answer is 200; raises NotReadyError when time is up or the server ended."""
    deadline = time.monotonic() + timeout_s
    seen = "no answer"
    while time.monotonic() < deadline:
        if server.process is not None:
            _still_running(server.process, server.log)
        try:
            status, text = post(server.port, path, body, headers)
        except (OSError, http.client.HTTPException) as failure:
            seen = repr(failure)
        else:
            if status == http.HTTPStatus.OK:
                return
            seen = f"status {status}: {text[:300]}"
        time.sleep(0.1)
    raise NotReadyError(f"{seen}\n{tail(server.log)}")


def wait_for_port(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Until somebody listens; raises NotReadyError when the process ended or takes 10 s."""
    deadline = time.monotonic() + 10.0
    while time.monotonic() < deadline:
        _still_running(process, log)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise NotReadyError(f"nobody listens on port {port} after 10 s:\n{tail(log)}")


def ask_json(port: int, path: str) -> dict[str, object]:
    """GET a JSON object from a server on loopback."""
    answer: dict[str, object] = json.loads(ask(port, path))
    return answer


def ask(port: int, path: str) -> str:
    """GET a text from a server on loopback."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def tail(log: Path, lines: int = 12) -> str:
    """The end of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else ""


def post(port: int, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, str]:
    """Status and text of the answer to a JSON body on loopback. Raises OSError and HTTPException."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("POST", path, body, {"Content-Type": "application/json", **headers})
        response = connection.getresponse()
        return response.status, response.read().decode(errors="replace")
    finally:
        connection.close()


def _still_running(process: subprocess.Popen[bytes], log: Path) -> None:
    if process.poll() is not None:
        raise NotReadyError(f"it ended with code {process.returncode}:\n{tail(log)}")
