"""One Chromium for the browser tests: for this folder, as an async fixture that stays open keeps its
event loop for every test after it.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from tests.support.browser import Visit, chromium_path, open_chromium, visit
from tests.support.console_server import ConsoleServer, console_server
from tests.support.gateway import GatewayProcess, gateway_process

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from playwright.async_api import Browser, Page


@pytest.fixture(scope="package")
async def chromium() -> AsyncIterator[Browser]:
    if chromium_path() is None:
        pytest.skip("no Chromium on this machine: install Debian's package `chromium`")
    async with open_chromium() as browser:
        yield browser


@pytest.fixture
def served() -> Iterator[ConsoleServer]:
    """The console on a scripted server that can be made to hold still."""
    with console_server() as server:
        yield server


@pytest.fixture(scope="package")
def gateway() -> Iterator[GatewayProcess]:
    """``slipstream serve`` with no configuration and no key."""
    with gateway_process() as running:
        yield running


@asynccontextmanager
async def well_behaved(chromium: Browser, url: str, **how: object) -> AsyncIterator[Visit]:
    """A visit of the page; whatever the test does, nothing outside is asked and nothing complains."""
    async with visit(chromium, url, **how) as made:  # type: ignore[arg-type]
        yield made
        assert made.outside == []
        assert made.complaints == []


@pytest.fixture
async def seen(chromium: Browser, gateway: GatewayProcess) -> AsyncIterator[Visit]:
    async with well_behaved(chromium, gateway.url) as made:
        yield made


@pytest.fixture
def page(seen: Visit) -> Page:
    """The page on the real gateway; where a module has a ``seen`` of its own, on that one's."""
    return seen.page
