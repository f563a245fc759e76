"""One Chromium for the browser tests: for this folder, as an async fixture that stays open keeps its
event loop for every test after it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.browser import chromium_path, open_chromium
from tests.support.console_server import ConsoleServer, console_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from playwright.async_api import Browser


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
