"""A provider behind a concurrency limiter: each call takes a slot first and reports its outcome."""

from __future__ import annotations

from time import monotonic_ns

from app.domain.events import Emit
from app.domain.model_call import ModelCall
from app.errors import GatewayError, UpstreamError, UpstreamStatus, UpstreamTimeout
from app.ports import Provider
from app.routing.concurrency_limiter import ConcurrencyLimiter

_TOO_MUCH = frozenset({429, 503, 529})
_WAITED_FOR = frozenset({"connect", "first_byte"})


class LimitedProvider:
    """A ``Provider`` that waits for a slot; raises ``Overloaded`` where none will be free in time."""

    def __init__(self, provider: Provider, limiter: ConcurrencyLimiter) -> None:
        """Limit ``provider`` by ``limiter``."""
        self.name = provider.name
        self.limiter = limiter
        self.inner = provider
        self.dialects = provider.dialects
        self.count_tokens = provider.count_tokens
        self.start = provider.start
        self.aclose = provider.aclose

    async def stream(self, call: ModelCall, emit: Emit) -> None:
        """Run ``call`` once it has a slot."""
        limiter = self.limiter
        if not limiter.try_acquire():
            await limiter.acquire(call.tenant, call.deadline)
        entered_ns = monotonic_ns()
        failure: UpstreamError | None = None
        ok = False
        try:
            await self.inner.stream(call, emit)
            ok = True
        except UpstreamError as error:
            failure = error
            raise
        finally:
            release_slot(limiter, call, entered_ns, monotonic_ns(), ok=ok, failure=failure)


def release_slot(
    limiter: ConcurrencyLimiter,
    call: ModelCall,
    entered_ns: int,
    ended_ns: int,
    *,
    ok: bool,
    failure: GatewayError | None,
) -> None:
    """Release the slot of ``call``, and report its outcome to the limiter."""
    first_ns = call.first_event_ns
    limiter.release(
        first_s=(first_ns - entered_ns) / 1e9 if first_ns and call.stream else None,
        took_s=(ended_ns - entered_ns) / 1e9,
        overloaded=failure is not None and _signals_overload(failure),
        ok=ok,
    )


def _signals_overload(failure: GatewayError) -> bool:
    if isinstance(failure, UpstreamStatus):
        return failure.status in _TOO_MUCH
    return isinstance(failure, UpstreamTimeout) and failure.phase in _WAITED_FOR
