"""A real Postgres for tests, on a free loopback port; tests skip by name where there is none."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest

PATIENCE_S = 60.0


def _binary(name: str) -> str:
    """Debian keeps the server's programs off the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    path = shutil.which(name) or (str(found[-1]) if found else "")
    if not path:
        pytest.skip("Postgres is not installed (Debian package postgresql)")
    return path


@dataclass(slots=True)
class Postgres:
    """A server that can be stopped and started again."""

    port: int
    folder: Path
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"postgresql://tester@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = [_binary("postgres"), "-D", str(self.folder / "data"), "-p", str(self.port)]
        command += [
            "-c",
            "listen_addresses=127.0.0.1",
            "-c",
            f"unix_socket_directories={self.folder}",
        ]
        command += ["-c", "fsync=off"]
        self._process = subprocess.Popen(command, user=_user(), stderr=subprocess.DEVNULL)
        until_s = time.monotonic() + PATIENCE_S
        while True:
            try:
                self.say("SELECT 1")
            except psycopg.OperationalError:
                assert time.monotonic() < until_s, "Postgres did not start"
                time.sleep(0.05)
            else:
                return

    def stop(self) -> None:
        """End it at once, as a crash would."""
        if self._process is not None:
            self._process.send_signal(3)  # SIGQUIT: immediate shutdown
            self._process.wait(PATIENCE_S)
            self._process = None

    def say(self, text: str) -> list[tuple[object, ...]]:
        """Run a statement."""
        with psycopg.connect(self.url, autocommit=True, connect_timeout=5) as db:
            found = db.execute(text)
            return found.fetchall() if found.description else []


def _user() -> str | None:
    """Postgres refuses to be root."""
    return "postgres" if os.geteuid() == 0 else None


@contextlib.contextmanager
def postgres_server() -> Iterator[Postgres]:
    """A fresh server."""
    initdb = _binary("initdb")
    with tempfile.TemporaryDirectory(prefix="slipstream-postgres-") as name:
        folder = Path(name)
        if (user := _user()) is not None:
            shutil.chown(folder, user)
        command = [initdb, "-D", str(folder / "data"), "-U", "tester", "-A", "trust", "-E", "UTF8"]
        subprocess.run(command, user=_user(), check=True, capture_output=True, cwd="/")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        server = Postgres(port, folder)
        server.start()
        try:
            yield server
        finally:
            server.stop()
