"""Which addresses tools may reach, checked where it cannot be bypassed: at the connection itself.

A name may resolve to anything, and to something else a second later (rebinding). So the name is
resolved here, once, each address is checked, and the connection is made to the very address that was
checked; the certificate is still checked against the name. Redirects open their connections here too.

Public addresses may be reached. Private, loopback, link-local and other special ones (a cloud's
metadata service is one) only where the operator declared them: by writing the address or ``localhost``
in a tool's own URL, or in ``egress.private``.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Protocol

from app.errors import ToolError

_NAT64 = IPv6Network("64:ff9b::/96")
_LOCALHOST = "localhost"
_log = logging.getLogger("slipstream.tools")
Address = IPv4Address | IPv6Address
Resolve = Callable[[str, int], Awaitable[list[str]]]


def embedded_ipv4(address: Address) -> Address:
    """The IPv4 address that an IPv6 one stands for, where it stands for one."""
    if isinstance(address, IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address


def is_public(address: Address) -> bool:
    """Whether it is a globally routable unicast address."""
    real = embedded_ipv4(address)
    if isinstance(real, IPv6Address) and real.is_site_local:
        return False
    return real.is_global and not real.is_multicast and not real.is_reserved


async def resolve_host(host: str, port: int) -> list[str]:
    """Every address of ``host``, in the system's order."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(each[4][0]) for each in found))


class Addresses:
    """What may be reached."""

    def __init__(self, private: Iterable[str] = (), resolve: Resolve = resolve_host) -> None:
        """``private`` are host names, addresses and networks that may be reached though not public;
        ``resolve`` gives every address of a name.
        """
        self._resolve = resolve
        self._hosts: set[str] = set()
        self._networks = []
        for word in private:
            try:
                self._networks.append(ip_network(word, strict=False))
            except ValueError:
                self._hosts.add(word.lower().rstrip("."))

    def declare(self, host: str) -> None:
        """The operator wrote ``host`` in a URL: an address or ``localhost`` means what it says."""
        try:
            self._networks.append(ip_network(host))
        except ValueError:
            if host == _LOCALHOST:
                self._hosts.add(host)

    def permits(self, host: str, address: str) -> bool:
        """Whether a connection for ``host`` may go to ``address``."""
        try:
            parsed = ip_address(address.partition("%")[0])
        except ValueError:
            return False
        if is_public(parsed):
            return True
        real = embedded_ipv4(parsed)
        if any(
            each.version == a.version and a in each
            for each in self._networks
            for a in (parsed, real)
        ):
            return True
        name = host.lower().rstrip(".")
        return name in self._hosts and (name != _LOCALHOST or real.is_loopback)

    async def choose(self, host: str, port: int) -> list[str]:
        """The addresses of ``host`` that may be reached; raises ``ToolError`` where there is none."""
        try:
            found = await self._resolve(host, port)
        except OSError as exc:
            raise ToolError(f"{host} could not be resolved", code="tool_refused") from exc
        permitted = [address for address in found if self.permits(host, address)]
        if not permitted:
            message = (
                f"{host} has no address that tools may reach: private ones are declared in"
                " egress.private"
            )
            raise ToolError(message, code="tool_egress")
        return permitted


class _Connects(Protocol):
    """The part of an HTTP library's network backend that opens connections."""

    @property
    def connect_tcp(self) -> Callable[..., Awaitable[object]]:
        """Open a connection to a host and port."""
        ...

    @property
    def sleep(self) -> Callable[[float], Awaitable[None]]:
        """Wait."""
        ...


class CheckedBackend:
    """A network backend of httpcore (or httpcore2) that connects to judged addresses only."""

    def __init__(self, inner: _Connects, addresses: Addresses) -> None:
        """Open connections by ``inner``."""
        self._inner, self._addresses = inner, addresses
        self.sleep = inner.sleep

    def put_into(self, pool: object) -> None:
        """Have a connection pool open its connections here. The libraries' transports have no argument
        for it; tests hold that it works.
        """
        vars(pool)["_network_backend"] = self

    async def connect_tcp(self, host: str, port: int, *more: object, **options: object) -> object:
        """Open a connection to the first address of ``host`` that may be reached and answers."""
        permitted = await self._addresses.choose(host, port)
        for address in permitted[:-1]:
            try:
                return await self._inner.connect_tcp(address, port, *more, **options)
            except Exception as exc:  # noqa: BLE001 - the library's own connection errors, of either library
                _log.debug("tool_address_failed", extra={"reason": type(exc).__name__})
        return await self._inner.connect_tcp(permitted[-1], port, *more, **options)

    async def connect_unix_socket(self, *_: object, **__: object) -> object:
        """Refuse: no tool is on a socket of this machine."""
        raise ToolError("tools are not called over unix sockets", code="tool_egress")
