"""A provider behind its gate: each call takes a place first, and tells the gate how it went."""

from __future__ import annotations

from time import monotonic_ns

from app.domain.events import Emit
from app.domain.model_call import ModelCall
from app.errors import UpstreamStatus, UpstreamTimeout
from app.ports import Provider
from app.routing.gate import Gate

_TOO_MUCH = frozenset({429, 503, 529})
_WAITED_FOR = frozenset({"connect", "first_byte"})


class Gated:
    """A ``Provider``; see there for its promises. Raises ``Overloaded`` where no place will be free."""

    def __init__(self, provider: Provider, gate: Gate) -> None:
        """Put ``gate`` before ``provider``."""
        self.name = provider.name
        self.gate = gate
        self._provider = provider
        self.dialects = provider.dialects
        self.count_tokens = provider.count_tokens
        self.start = provider.start
        self.aclose = provider.aclose

    async def stream(self, call: ModelCall, emit: Emit) -> None:
        """Run ``call`` when its turn has come."""
        gate = self.gate
        if not gate.try_enter():
            await gate.enter(call.tenant, call.deadline)
        entered_ns = monotonic_ns()
        ok = overloaded = False
        try:
            await self._provider.stream(call, emit)
            ok = True
        except UpstreamStatus as error:
            overloaded = error.status in _TOO_MUCH
            raise
        except UpstreamTimeout as error:
            overloaded = error.phase in _WAITED_FOR
            raise
        finally:
            first_ns = call.timing.first_event_ns
            gate.leave(
                first_s=(first_ns - entered_ns) / 1e9 if first_ns and call.stream else None,
                took_s=(monotonic_ns() - entered_ns) / 1e9,
                overloaded=overloaded,
                ok=ok,
            )
