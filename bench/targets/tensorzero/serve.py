"""Run TensorZero's HTTP gateway, which its Python package starts inside the process that asks.

This file runs in TensorZero's own environment. `_start_http_gateway` is what the package's own
`patch_openai_client` calls; it is the same Rust gateway, on a loopback port of its choice.
"""

import signal
import sys
import threading
from urllib.parse import urlsplit

import tensorzero  # type: ignore[import-not-found]

gateway = tensorzero._start_http_gateway(  # noqa: SLF001  the package's own way in
    config_file=sys.argv[1],
    clickhouse_url=None,
    postgres_url=None,
    valkey_url=None,
    async_setup=False,
)
print(f"listening {urlsplit(gateway.base_url).port}", flush=True)
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
stop.wait()
gateway.close()
