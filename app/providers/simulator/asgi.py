"""The ASGI types that the simulator uses, and the one extension that its own server adds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Protocol

Scope = MutableMapping[str, object]
Message = MutableMapping[str, object]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

CONNECTION_EXTENSION = "slipstream.connection"
"""Under this name in `scope["extensions"]` an app finds its `Connection`."""


class Connection(Protocol):
    """The transport of a request, for faults below HTTP."""

    def reset(self) -> None:
        """End the connection by a TCP reset, so that the peer reads ECONNRESET."""
        ...

    def close(self) -> None:
        """Flush, then close the connection in order, even in the middle of an HTTP body."""
        ...
