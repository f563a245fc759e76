"""The connections of HTTP tools: the gateway's own pool, dialled to judged addresses only.

A pool belongs to one origin; which origins there are is settled by the configuration. Where a call
may not be made twice, its pool never sends again by itself, and lets a connection rest for less than
the five seconds after which common servers close it.
"""

from __future__ import annotations

import ssl
import zlib
from dataclasses import dataclass

from app.errors import GatewayError, ToolError, UpstreamError, UpstreamRefused, UpstreamTimeout
from app.tools.addresses import Addresses
from app.tools.decompression import decompressor_for
from app.tools.egress import Origin
from app.upstream import Exchange, Pool, PoolLimits, Timeouts, default_ssl_context, dial_checked
from app.upstream import Origin as PoolOrigin

_CONNECTIONS = 256
_REST_S = 30.0
_SHORT_REST_S = 4.0
_DAY_S = 86_400.0
_UNLIMITED = Timeouts(_DAY_S, _DAY_S, _DAY_S, _DAY_S, _DAY_S)
"""Every try runs under the tool's own time limit."""


@dataclass(frozen=True, slots=True)
class ToolRequest:
    """One request."""

    method: bytes
    target: bytes
    """Path and query."""
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


class ToolResponse:
    """A response whose head is there. Read it or not, then ``close`` it."""

    __slots__ = ("_exchange", "_host")

    def __init__(self, exchange: Exchange, host: str) -> None:
        """``host`` is named in errors."""
        self._exchange, self._host = exchange, host

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self._exchange.status

    def header(self, name: bytes) -> bytes | None:
        """The first value of ``name``, given in lower case."""
        return self._exchange.header(name)

    async def body(self, most_bytes: int) -> bytes:
        """The whole body, unpacked; raises ``ToolError`` above ``most_bytes``, counted as what it
        unfolds to, and where the connection breaks off.
        """
        coding = (self.header(b"content-encoding") or b"").decode("latin-1")
        decompressor = decompressor_for(coding)
        pieces: list[bytes] = []
        left_bytes = left_packed_bytes = most_bytes
        try:
            while data := await self._exchange.read():
                left_packed_bytes -= len(data)
                for piece in (
                    (data,) if decompressor is None else decompressor(data, left_bytes + 1)
                ):
                    left_bytes -= len(piece)
                    if left_bytes < 0 or left_packed_bytes < 0:
                        message = f"answered more than {most_bytes} bytes; the rest was not read"
                        raise ToolError(message, code="tool_too_large")
                    pieces.append(piece)
        except zlib.error as exc:
            raise _broken_compression() from exc
        except UpstreamError as exc:
            raise _broke_off(self._host) from exc
        if decompressor is not None and not decompressor.complete and pieces:
            raise _broken_compression()
        return b"".join(pieces)

    def close(self) -> None:
        """Leave what was not read; the connection is closed unless the response is over."""
        self._exchange.abort()


class OriginClient:
    """One origin, as calls of one kind see it."""

    __slots__ = ("_host", "_pool")

    def __init__(self, pool: Pool, host: str) -> None:
        """``host`` is named in errors."""
        self._pool, self._host = pool, host

    async def send(self, asking: ToolRequest) -> ToolResponse:
        """Send a request; the answer, once its head is there. Raises ``ToolError``. Cancelled: the
        connection is closed.
        """
        try:
            exchange = await self._pool.request(
                path=asking.target, headers=asking.headers, body=asking.body, method=asking.method
            )
        except ToolError:
            raise
        except UpstreamTimeout as exc:
            raise ToolError(f"{self._host} did not answer in time", code="tool_timeout") from exc
        except UpstreamRefused as exc:
            raise ToolError(f"{self._host} could not be reached", code="tool_refused") from exc
        except UpstreamError as exc:
            raise _broke_off(self._host) from exc
        except GatewayError as exc:  # no descriptor is free, or a header that may not be sent
            raise ToolError(f"could not be called: {exc.message}", code="tool_refused") from exc
        return ToolResponse(exchange, self._host)


class Connections:
    """The pools of all HTTP tools; one event loop owns them. ``aclose`` ends them."""

    def __init__(self, addresses: Addresses) -> None:
        """Reach what ``addresses`` permits; connects nothing yet."""
        self._dial = dial_checked(addresses.choose)
        self._pools: dict[tuple[Origin, str, bool], Pool] = {}
        self._ssl: ssl.SSLContext | None = None

    def client_for(
        self, origin: Origin, *, authority: str = "", replays: bool = False
    ) -> OriginClient:
        """The way to an origin, with ``authority`` as Host header if it is not empty; raises
        ``ToolError`` for a host that cannot be called. See the module for ``replays``.
        """
        key = (origin, authority, replays)
        pool = self._pools.get(key)
        if pool is None:
            pool = self._pools[key] = self._new(origin, authority, replays=replays)
        return OriginClient(pool, origin.host)

    async def aclose(self) -> None:
        """Close every connection; idempotent."""
        for pool in self._pools.values():
            await pool.aclose()

    def _new(self, origin: Origin, authority: str, *, replays: bool) -> Pool:
        host = origin.host if origin.host.isascii() else _punycode(origin.host)
        limits = PoolLimits(
            max_connections=_CONNECTIONS,
            max_idle=_CONNECTIONS,
            idle_ttl_s=_REST_S if replays else _SHORT_REST_S,
            replays=replays,
        )
        if origin.scheme == "https" and self._ssl is None:
            self._ssl = default_ssl_context()
        try:
            where = PoolOrigin(origin.scheme, host, origin.port, authority)
            return Pool(where, limits, _UNLIMITED, self._ssl, self._dial)
        except (ValueError, GatewayError) as exc:
            raise ToolError(f"{origin.host!r} cannot be called: {exc}", code="tool_egress") from exc


def _punycode(host: str) -> str:
    import httpx  # a quarter second that few configurations need

    try:
        return httpx.URL(f"http://{host}/").raw_host.decode()
    except (httpx.InvalidURL, UnicodeError) as exc:
        raise ToolError(f"{host!r} is not a host's name", code="tool_egress") from exc


def _broke_off(host: str) -> ToolError:
    return ToolError(f"the connection to {host} broke off", code="tool_closed")


def _broken_compression() -> ToolError:
    return ToolError("answered with a broken compression", code="tool_not_data")
