"""A real headless Chromium for tests, which tells of every request that leaves the page's own origin."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from shutil import which
from typing import Literal
from urllib.parse import urlsplit

from playwright.async_api import Browser, ConsoleMessage, Page, Request, async_playwright

_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)


def chromium_path() -> Path | None:
    """Where Debian's Chromium is; None when the machine has none."""
    found = which("chromium") or which("chromium-browser")
    return Path(found) if found else None


@asynccontextmanager
async def open_chromium() -> AsyncIterator[Browser]:
    """One headless browser; closed with the block."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=chromium_path(), args=list(_ARGUMENTS)
        )
        try:
            yield browser
        finally:
            await browser.close()


@dataclass
class Visit:
    """A page under observation. Without slots: playwright marks the objects of bound methods."""

    page: Page
    origin: str
    requests: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    """Requests that went anywhere but to the page's own origin."""
    complaints: list[str] = field(default_factory=list)
    """Errors on the page's console: exceptions, refused policies; failed loads are not errors here."""

    def saw_request(self, request: Request) -> None:
        """Note one request of the page."""
        parts = urlsplit(request.url)
        self.requests.append(parts.path)
        if f"{parts.scheme}://{parts.netloc}" != self.origin and parts.scheme != "data":
            self.outside.append(request.url)

    def saw_message(self, message: ConsoleMessage) -> None:
        """Note what the page complains of; a 4xx that a test asks for is no complaint."""
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.complaints.append(message.text)


@asynccontextmanager
async def visit(
    browser: Browser,
    url: str,
    *,
    width_px: int = 1280,
    height_px: int = 860,
    scheme: Literal["light", "dark"] = "light",
) -> AsyncIterator[Visit]:
    """Open ``url`` in a context of its own and watch it until the block ends."""
    context = await browser.new_context(
        viewport={"width": width_px, "height": height_px},
        color_scheme=scheme,
        reduced_motion="reduce",
        locale="en-GB",
    )
    context.set_default_timeout(15_000)
    page = await context.new_page()
    parts = urlsplit(url)
    seen = Visit(page, f"{parts.scheme}://{parts.netloc}")
    page.on("request", seen.saw_request)
    page.on("console", seen.saw_message)
    page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    try:
        await page.goto(url)
        yield seen
    finally:
        await context.close()
