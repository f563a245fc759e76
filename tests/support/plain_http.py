"""What clients on loopback need beside an address."""

from __future__ import annotations

import ssl

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Loopback speaks plain HTTP; loading the list of authorities would cost 100 ms a client."""
