"""HAProxy as a reverse proxy, one thread: the second compiled reference."""

from __future__ import annotations

import shutil

from bench.machine import program_version
from bench.targets.base import Launch, Rig, Target, UnavailableError

_CONFIG = """\
global
  nbthread 1
  maxconn 8192
defaults
  mode http
  timeout connect 5s
  timeout client 600s
  timeout server 600s
  option http-no-delay
  http-reuse always
frontend client
  bind 127.0.0.1:{port}
  default_backend model
backend model
  server upstream 127.0.0.1:{upstream}
"""


def launch(rig: Rig) -> Launch:
    """Write the configuration; raises UnavailableError without haproxy."""
    program = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
    if program is None:
        raise UnavailableError("haproxy is not installed: run scripts/bench-setup")
    config = rig.folder / "haproxy.cfg"
    config.write_text(_CONFIG.format(port=rig.port, upstream=rig.upstream_port))
    words = program_version([program, "-v"]).split()
    return Launch(
        argv=(program, "-db", "-q", "-f", str(config)),
        port=rig.port,
        version=words[2] if len(words) > 2 else "",
    )


TARGET = Target("haproxy", "HAProxy (1 thread)", "reference", launch)
