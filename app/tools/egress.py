"""What a tool may reach: the host of the URL that the operator declared, and no other.

A model chooses arguments, never hosts: places in a URL's scheme or authority are refused when the
configuration is read, arguments are percent-encoded whole, and a redirect is followed only while it
stays on the same origin.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote, urlsplit

import msgspec

from app.domain.tools import template_fields
from app.errors import ToolError

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme, host and port: what a tool is held to."""

    scheme: str
    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether it is this machine."""
        return self.host in _LOOPBACK

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def origin_of(url: str) -> Origin:
    """The origin of ``url``; raises ``ToolError`` where it is no http(s) URL or its host is a template."""
    head, _, rest = url.partition("://")
    authority = rest.split("/", 1)[0].split("?", 1)[0].split("#", 1)[0]
    if template_fields(head) or template_fields(authority):
        message = "a tool's URL may hold {places} in its path and query only, never in its host"
        raise ToolError(message, code="tool_egress")
    try:
        parts = urlsplit(f"{head}://{authority}")
        host, port = (parts.hostname or "").lower().rstrip("."), parts.port
    except ValueError:
        host, port = "", None
    scheme = head.lower()
    if not host or scheme not in _PORTS:
        message = "a tool's URL must begin with http:// or https:// and a host"
        raise ToolError(message, code="tool_egress")
    return Origin(scheme, host, port or _PORTS[scheme])


def url_segment(value: object, place: str) -> str:
    """An argument as one percent-encoded URL segment; raises ``ToolError`` for ``.`` and ``..``."""
    text = argument_text(value)
    if text in {".", ".."}:
        message = f"argument {place!r} may not be {text!r}: it would name another path"
        raise ToolError(message, code="tool_arguments")
    return quote(text, safe="")


def argument_text(value: object) -> str:
    """An argument's value as text, as JSON would write it but without quotes around a string."""
    if isinstance(value, bool | list | dict):
        return msgspec.json.encode(value).decode()
    return "" if value is None else str(value)
