"""Where a pool connects to, and how many connections it may hold."""

from __future__ import annotations

import errno
import re
import ssl
import urllib.parse
from dataclasses import dataclass
from typing import Final

from app.errors import Overloaded, UpstreamRefused

_DESCRIPTORS_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE})
_PORTS: Final = {"http": 80, "https": 443}
_PORT_MAX: Final = 65_535
_HOST: Final = re.compile(r"[0-9A-Za-z._:-]+")


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme (``http`` or ``https``), host (a name or an IP address, without brackets) and port.

    Raises ValueError, saying which part is wrong. A name beyond ASCII is given in its ``xn--``
    form.
    """

    scheme: str
    host: str
    port: int
    authority: str = ""
    """What the Host header says, where that is not where the connection goes."""

    def __post_init__(self) -> None:
        if self.scheme not in _PORTS:
            raise ValueError(f"scheme {self.scheme!r} is neither http nor https")
        if not _HOST.fullmatch(self.host):
            raise ValueError(f"{self.host!r} is not a host name or IP address")
        if not 0 < self.port <= _PORT_MAX:
            raise ValueError(f"port {self.port} is not between 1 and {_PORT_MAX}")

    @classmethod
    def parse(cls, url: str) -> tuple[Origin, bytes]:
        """Split a base URL into its origin and path (without a slash at the end; ``b""`` for none).

        >>> Origin.parse("https://api.example.com/v1/")
        (Origin(scheme='https', host='api.example.com', port=443), b'/v1')
        """
        if not (url.isascii() and url.isprintable()):
            raise ValueError("a base URL is visible ASCII")  # urlsplit drops line ends silently.
        parts = urllib.parse.urlsplit(url)
        if parts.username or parts.query or parts.fragment:
            raise ValueError("a base URL has no user, query or fragment")
        port = parts.port or _PORTS.get(parts.scheme, 0)
        return cls(parts.scheme, parts.hostname or "", port), parts.path.rstrip("/").encode("ascii")

    @property
    def tls(self) -> bool:
        """Whether connections are encrypted and the host's certificate is verified."""
        return self.scheme == "https"

    @property
    def host_header(self) -> bytes:
        """The Host header: the port only where it is not the scheme's own."""
        if self.authority:
            return self.authority.encode("ascii")
        host = f"[{self.host}]" if ":" in self.host else self.host
        own = self.port == _PORTS[self.scheme]
        return (host if own else f"{host}:{self.port}").encode("ascii")

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host_header.decode('ascii')}"


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """How many connections a pool may have, and for how long.

    ``max_connections`` bounds open and opening ones together; requests beyond them wait in order.
    ``max_idle`` bounds those kept between requests; ``idle_ttl_s`` is how long one may be idle: less
    than the upstream's own keep-alive time (often 60-75 s), so that we close first. ``warm``
    connections are opened at the start and kept open. ``replays`` allows the pool's replay rule: it
    is for origins where a request may be made twice.
    """

    max_connections: int = 256
    max_idle: int = 64
    idle_ttl_s: float = 30.0
    warm: int = 0
    replays: bool = True

    def __post_init__(self) -> None:
        if self.max_connections < 1:
            raise ValueError("max_connections must be at least 1")
        if not 0 <= self.warm <= min(self.max_idle, self.max_connections):
            raise ValueError("warm must be between 0 and both max_idle and max_connections")
        if self.idle_ttl_s <= 0:
            raise ValueError("idle_ttl_s must be positive")


@dataclass(frozen=True, slots=True)
class PoolStats:
    """A pool now: connections by state, requests waiting for one, totals since the start."""

    open: int
    idle: int
    in_flight: int
    waiting: int
    opened_total: int
    replayed_total: int
    warm_failures_total: int


def connect_error(where: str, phase: str, why: Exception) -> UpstreamRefused | Overloaded:
    """The error for a connection that failed with ``why``: ``Overloaded`` if no descriptor is left."""
    if isinstance(why, OSError) and why.errno in _DESCRIPTORS_EXHAUSTED:
        message = f"no descriptor is free for a connection to {where}: come back shortly"
        return Overloaded(message, retry_after_s=1)
    return UpstreamRefused(f"{where} cannot be reached ({phase}): {why}")


def default_ssl_context() -> ssl.SSLContext:
    """Verify the chain and the host name against the system's trust store; offer HTTP/1.1 only."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context
