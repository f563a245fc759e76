"""The official clients on loopback: no retries of their own, no list of authorities to load."""

from __future__ import annotations

from collections.abc import Mapping

import httpx2
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from tests.support.plain_http import NO_TLS


def openai_at(url: str, headers: Mapping[str, str] | None = None) -> AsyncOpenAI:
    """The ``openai`` package, for both of its dialects, at a server's ``url``; an async context manager."""
    return AsyncOpenAI(
        base_url=f"{url}/v1",
        api_key="x",
        max_retries=0,
        default_headers=headers,
        http_client=httpx2.AsyncClient(verify=NO_TLS),
    )


def anthropic_at(url: str, headers: Mapping[str, str] | None = None) -> AsyncAnthropic:
    """The ``anthropic`` package, likewise."""
    return AsyncAnthropic(
        base_url=url,
        api_key="x",
        max_retries=0,
        default_headers=headers,
        http_client=httpx2.AsyncClient(verify=NO_TLS),
    )
