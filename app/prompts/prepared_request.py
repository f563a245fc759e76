"""What prompt caching keeps of a request from its sending to the learning after its answer."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from app.domain.chat import Dialect
from app.prompts.breakpoints import Plan
from app.prompts.diagnosis import VendorDiagnosis
from app.prompts.prefix import RenderedPrompt


@dataclass(slots=True)
class PreparedRequest:
    """What is known of a request when it is sent."""

    tenant: str
    dialect: Dialect
    body: bytes
    rendered: RenderedPrompt | None = None
    plan: Plan | None = None
    leads_prefixes: tuple[bytes, ...] = ()
    """Prefixes for which other calls wait until this call's first byte."""
    leader_started: asyncio.Event | None = None
    expected_tokens: int = 0
    """Estimated tokens that the vendor should have cached: written and not expired."""
    diagnosis: VendorDiagnosis | None = None
    """The answer's diagnosis, where the vendor is asked for one."""
