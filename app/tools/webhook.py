"""Signed webhooks: tell a receiver that a job has ended.

The form is that of Standard Webhooks (standardwebhooks.com): ``webhook-id``, ``webhook-timestamp``
and ``webhook-signature``, an HMAC-SHA256 over all three and the body. The id is the same in every
try, so a receiver can drop duplicates; the time is that of the try, so an old message cannot be
replayed. A receiver's address is checked like a tool's (``app.tools.addresses``), redirects are not
followed, and response bodies are not read.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass

import httpx

from app.errors import ToolError
from app.tools.addresses import Addresses
from app.tools.checked_client import checked_client
from app.tools.egress import origin_of

_PREFIX = "whsec_"
_GONE = 410
_OK = range(200, 300)


@dataclass(frozen=True, slots=True)
class WebhookTarget:
    """A receiver's URL and signing secret."""

    url: str
    secret: str
    timeout_s: float = 10.0


@dataclass(frozen=True, slots=True)
class DeliveryResult:
    """Result of one delivery attempt: ``delivered``, or why not."""

    delivered: bool
    code: str
    """``""``, or a stable error code, fit for a metric label."""
    gone: bool = False
    """The receiver asks for no more deliveries (410)."""


class Webhooks:
    """Delivers to any receiver; closed by ``aclose``."""

    def __init__(self, addresses: Addresses, clock: Callable[[], float]) -> None:
        """Reach what ``addresses`` permits; ``clock`` gives Unix seconds."""
        self._client = checked_client(addresses)
        self._clock = clock

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def deliver(
        self, receiver: WebhookTarget, message_id: str, body: bytes
    ) -> DeliveryResult:
        """Try once; every failure is in the result, only cancellation is raised."""
        headers = {
            **signature_headers(receiver.secret, message_id, int(self._clock()), body),
            "content-type": "application/json",
        }
        try:
            origin_of(receiver.url)
            async with asyncio.timeout(receiver.timeout_s):
                request = self._client.build_request(
                    "POST", receiver.url, headers=headers, content=body
                )
                response = await self._client.send(request, stream=True)
                await response.aclose()
        except TimeoutError:
            return DeliveryResult(delivered=False, code="timeout")
        except ToolError as error:
            return DeliveryResult(delivered=False, code=error.code)
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError):
            return DeliveryResult(delivered=False, code="unreachable")
        status = response.status_code
        if status in _OK:
            return DeliveryResult(delivered=True, code="")
        return DeliveryResult(delivered=False, code=f"status_{status}", gone=status == _GONE)


def signature_headers(secret: str, message_id: str, unix_s: int, body: bytes) -> dict[str, str]:
    """The three headers; ``secret`` is base64 behind ``whsec_``, else its own characters."""
    key = secret.encode()
    if secret.startswith(_PREFIX):
        key = base64.b64decode(secret.removeprefix(_PREFIX))
    content = f"{message_id}.{unix_s}.".encode() + body
    digest = base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(unix_s),
        "webhook-signature": f"v1,{digest}",
    }
