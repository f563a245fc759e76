"""A tool as an operator might write one by mistake: it does not let the event loop go on."""

from __future__ import annotations

import time

from bench.chaos.servers import state_of

BLOCKED_S = 1.5


async def block() -> dict[str, str]:
    """Stand still, then answer as the other tool would."""
    time.sleep(BLOCKED_S)  # noqa: ASYNC251 - that is the fault
    return state_of("loop")
