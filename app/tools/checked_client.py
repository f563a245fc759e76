"""HTTP client for URLs known only at call time (webhooks, checks by URL), held to permitted addresses.

Tools, whose hosts are in the configuration, use ``app.tools.connections`` instead.
"""

from __future__ import annotations

from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpcore
import httpx

from app.tools.addresses import Addresses, CheckedBackend

_CONNECTIONS = 256


def checked_client(addresses: Addresses) -> httpx.AsyncClient:
    """No cookies, no redirects, no proxy or netrc from the environment, no connection to an address
    that ``addresses`` does not permit.
    """
    limits = httpx.Limits(max_connections=_CONNECTIONS, max_keepalive_connections=_CONNECTIONS)
    transport = httpx.AsyncHTTPTransport(limits=limits, trust_env=False)
    CheckedBackend(httpcore.AnyIOBackend(), addresses).put_into(transport._pool)  # noqa: SLF001 - see there
    return httpx.AsyncClient(
        transport=transport,
        timeout=None,  # noqa: S113 - every try runs under its owner's time limit
        follow_redirects=False,
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
        trust_env=False,
        headers={"user-agent": "slipstream"},
    )
