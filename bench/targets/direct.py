"""No gateway: the client speaks to the upstream. What everything else is measured against.

Client and upstream share a CPU here, and wake each other for nothing; any proxy on another CPU adds
two cross-CPU wake-ups. So nginx, not this, is the floor for what a gateway can add.
"""

from __future__ import annotations

from bench.targets.base import Launch, Rig, Target


def launch(rig: Rig) -> Launch:
    """Point at the upstream that already runs."""
    return Launch(argv=(), port=rig.upstream_port, version="")


TARGET = Target("direct", "direct", "reference", launch)
