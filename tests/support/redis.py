"""A real redis-server for tests, on a free loopback port; tests skip by name where there is none."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

PATIENCE_S = 20.0


@dataclass(slots=True)
class RedisServer:
    """A server that can be killed and started again on the same port; it keeps nothing on disk."""

    port: int
    arguments: tuple[str, ...] = ()
    folder: str = ""
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """Its process's id."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1"]
        command += ["--save", "", "--appendonly", "no", "--dir", self.folder, *self.arguments]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        until_s = time.monotonic() + PATIENCE_S
        while True:
            try:
                assert self.say(b"PING\r\n").startswith(b"+PONG")
            except OSError:
                assert time.monotonic() < until_s, "redis-server did not start"
                assert self._process.poll() is None, "redis-server ended at once"
                time.sleep(0.01)
            else:
                return

    def say(self, command: bytes) -> bytes:
        """One inline command, and the first of the reply."""
        with socket.create_connection(("127.0.0.1", self.port), PATIENCE_S) as connection:
            connection.sendall(command)
            return connection.recv(65_536)

    def kill(self) -> None:
        """End it as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def redis_server(*arguments: str) -> Iterator[RedisServer]:
    """A running server; skips the test where redis-server is not installed."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed (Debian package redis-server)")
    with tempfile.TemporaryDirectory(prefix="slipstream-redis-") as folder:
        server = RedisServer(free_port(), arguments, folder)
        server.start()
        try:
            yield server
        finally:
            server.kill()
