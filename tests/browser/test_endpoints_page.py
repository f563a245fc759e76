"""The page of endpoints is the gateway's own: it loads nothing from outside, and names every endpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from playwright.async_api import expect

from tests.browser.conftest import well_behaved

if TYPE_CHECKING:
    from playwright.async_api import Browser

    from tests.support.gateway import GatewayProcess

pytestmark = pytest.mark.anyio


async def test_every_endpoint_is_listed_and_nothing_outside_is_asked(
    chromium: Browser, gateway: GatewayProcess
) -> None:
    async with well_behaved(chromium, f"{gateway.url}/docs") as seen:
        page = seen.page
        document = await (await page.request.get(f"{gateway.url}/openapi.json")).json()
        wanted = sum(len(methods) for methods in document["paths"].values())
        await expect(page.locator("details")).to_have_count(wanted)
        await expect(page.locator("h2").first).to_have_text("inference")
        asked = page.locator("details", has_text="POST /v1/messages ").first
        await asked.locator("summary").click()
        await expect(asked).to_contain_text("max_tokens")
        await expect(asked).to_contain_text("x-slipstream-tier")
        response = await page.request.get(f"{gateway.url}/docs")
        assert "default-src 'none'" in response.headers["content-security-policy"]
        assert "cdn" not in await response.text()
