"""nginx as a reverse proxy, one worker: the compiled reference.

It is given its best: kept-alive upstream connections, no buffering of streams, no access log.
"""

from __future__ import annotations

import os
import shutil

from bench.machine import program_version
from bench.targets.base import Launch, Rig, Target, UnavailableError

_CONFIG = """\
{user}
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  client_max_body_size 16m;
  client_body_buffer_size 1m;
  keepalive_requests 10000000;
  keepalive_timeout 600;
  upstream model {{
    server 127.0.0.1:{upstream};
    keepalive 1024;
    keepalive_requests 10000000;
  }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://model;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
      proxy_read_timeout 600;
    }}
  }}
}}
"""


def launch(rig: Rig) -> Launch:
    """Write the configuration; raises UnavailableError without nginx."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        raise UnavailableError("nginx is not installed: run scripts/bench-setup")
    # Started by root, the worker would become `nobody`, who may not write to our folder.
    user = "user root;" if os.geteuid() == 0 else ""
    config = rig.folder / "nginx.conf"
    config.write_text(
        _CONFIG.format(user=user, folder=rig.folder, upstream=rig.upstream_port, port=rig.port)
    )
    version = program_version([program, "-v"]).rpartition("/")[2]
    return Launch(
        argv=(
            program,
            "-p",
            str(rig.folder),
            "-e",
            str(rig.folder / "error.log"),
            "-c",
            str(config),
        ),
        port=rig.port,
        version=version,
    )


TARGET = Target("nginx", "nginx (1 worker)", "reference", launch)
