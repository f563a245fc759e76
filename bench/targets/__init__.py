"""Every server that can be measured, one small module each."""

from __future__ import annotations

from bench.targets import (
    direct,
    go_proxy,
    haproxy,
    litellm,
    nginx,
    portkey,
    python_apps,
    slipstream,
    tensorzero,
)
from bench.targets.base import Target

TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        direct.TARGET,
        nginx.TARGET,
        haproxy.TARGET,
        go_proxy.TARGET,
        slipstream.TARGET,
        python_apps.BARE_WIRE,
        python_apps.STARLETTE,
        python_apps.FASTAPI,
        portkey.TARGET,
        tensorzero.TARGET,
        litellm.TARGET,
    )
}
