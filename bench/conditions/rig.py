"""Servers for the conditions: gateways of a given configuration, TLS ends, a link with a round trip."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import yaml

from bench.processes import Server, free_port, running, wait_for_answer, wait_for_port
from bench.scenarios import NONCE, SCENARIOS, request_body
from bench.targets.base import KEY
from bench.targets.slipstream import CONFIG

HEADERS = {"Authorization": f"Bearer {KEY}"}
_READY_S = 60.0
_READ_BYTES = 65_536
_TLS_NGINX = """\
worker_processes 1;
daemon off;
pid {folder}/{name}.pid;
error_log {folder}/{name}.log warn;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path {folder}/{name}-body;
  proxy_temp_path {folder}/{name}-proxy;
  fastcgi_temp_path {folder}/{name}-fastcgi;
  uwsgi_temp_path {folder}/{name}-uwsgi;
  scgi_temp_path {folder}/{name}-scgi;
  client_body_buffer_size 1m;
  keepalive_requests 10000000;
  keepalive_timeout 600;
  upstream next {{ server 127.0.0.1:{to}; keepalive 1024; keepalive_requests 10000000; }}
  server {{
    listen 127.0.0.1:{port}{listen};
    {tls}
    location / {{
      proxy_pass {scheme}://next;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
      proxy_read_timeout 600;
    }}
  }}
}}
"""


class MissingError(RuntimeError):
    """A program that a condition needs is not here; the text names it and the mend."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate for ``localhost`` that signs itself, and its key."""

    file: Path
    key: Path


def certificate(folder: Path) -> Certificate:
    """Make one with openssl. Raises ``MissingError``."""
    program = shutil.which("openssl")
    if program is None:
        raise MissingError("openssl is not installed: run scripts/bench-setup")
    made = Certificate(folder / "localhost.pem", folder / "localhost.key")
    subprocess.run(
        [
            program, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
            "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
            "-keyout", str(made.key), "-out", str(made.file),
        ],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return made


@contextmanager
def nginx(
    name: str,
    folder: Path,
    to: int,
    cpu: int,
    *,
    ends: Certificate | None,
    begins: Certificate | None,
) -> Iterator[Server]:
    """A reverse proxy that ends TLS with ``ends``, and speaks it to ``to`` trusting ``begins``."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        raise MissingError("nginx is not installed: run scripts/bench-setup")
    port, lines = free_port(), []
    if ends is not None:
        lines += [f"ssl_certificate {ends.file};", f"ssl_certificate_key {ends.key};"]
    if begins is not None:
        lines += [f"proxy_ssl_trusted_certificate {begins.file};", "proxy_ssl_verify on;"]
        lines += ["proxy_ssl_server_name on;", "proxy_ssl_name localhost;"]
    config = folder / f"{name}.conf"
    text = _TLS_NGINX.format(
        folder=folder, name=name, to=to, port=port, tls="\n    ".join(lines),
        listen=" ssl" if ends else "", scheme="https" if begins else "http",
    )  # fmt: skip
    config.write_text(("user root;\n" if os.geteuid() == 0 else "") + text)
    argv = [program, "-p", str(folder), "-e", str(folder / f"{name}.log"), "-c", str(config)]
    log = folder / f"{name}.out"
    with running(argv, cpu=cpu, log=log) as process:
        wait_for_port(process, port, log)
        yield Server(process, port, log)


@contextmanager
def gateway(
    name: str,
    folder: Path,
    upstream: str,
    cpu: int | str,
    sections: Mapping[str, object] | None = None,
    *,
    env: Mapping[str, str] | None = None,
    program: Sequence[str] = ("-m", "app"),
) -> Iterator[Server]:
    """The gateway as `make bench` runs it, over ``upstream``, with ``sections`` replaced; it answers.

    ``program``: what Python runs, before the command.
    """
    values = yaml.safe_load(CONFIG.read_text())
    values.update(sections or {})
    config = folder / f"{name}.yaml"
    config.write_text(yaml.safe_dump(values))
    port, log = free_port(), folder / f"{name}.log"
    argv = [sys.executable, *program, "serve", "--config", str(config), "--port", str(port)]
    given = {
        "UPSTREAM_OPENAI": f"{upstream}/v1",
        "UPSTREAM_ANTHROPIC": upstream,
        "SLIPSTREAM_DATA": str(folder / f"{name}-data"),
        "SLIPSTREAM_SERVER__DRAIN_S": "0",
        **(env or {}),
    }
    with running(argv, cpu=cpu, log=log, env=given) as process:
        server = Server(process, port, log)
        await_answer(server)
        yield server


def await_answer(server: Server) -> None:
    """Wait until a JSON call is answered. Raises ``NotReadyError``."""
    probe = SCENARIOS["json_c1"]
    body = request_body(probe, probe.model).replace(NONCE.encode(), b"0" * len(NONCE))
    wait_for_answer(server, probe.path, body, HEADERS, _READY_S)


class Link:
    """A TCP link of ``rtt_s`` to a port on loopback, in a thread of its own; enter it to use ``port``.

    A connection's first bytes wait one round trip for the handshake that loopback does in no time; then
    each direction is half a round trip long.
    """

    def __init__(self, to: int, rtt_s: float) -> None:
        """Carry to ``to``."""
        self._to, self._rtt_s = to, rtt_s
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="link")
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    def __enter__(self) -> Self:
        """Listen."""
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        return self

    def __exit__(self, *_: object) -> None:
        """Cut every connection."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.sleep(self._rtt_s)
        far_reader, far = await asyncio.open_connection("127.0.0.1", self._to)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, far))
                group.create_task(self._pump(far_reader, writer))
        except* ConnectionError:
            pass
        finally:
            writer.transport.abort()
            far.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Each read's bytes arrive half a round trip later, whatever came before them."""
        while data := await reader.read(_READ_BYTES):
            self._loop.call_later(self._rtt_s / 2, _deliver, writer, data)
        raise ConnectionResetError


def _deliver(writer: asyncio.StreamWriter, data: bytes) -> None:
    if not writer.transport.is_closing():
        writer.write(data)
