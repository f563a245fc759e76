"""The cache's entries and the upstreams' state in the console, on the real gateway."""

from __future__ import annotations

import itertools
import json
import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import httpx
import pytest
from playwright.async_api import expect

from tests.browser.conftest import well_behaved
from tests.contract.test_settings_act import CHAT, chat_answer, of_openais_kind, question
from tests.support.gateway import running_gateway
from tests.support.tool_server import Asked, tool_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from playwright.async_api import Browser, Page

    from tests.support.gateway import Running

pytestmark = pytest.mark.browser


@asynccontextmanager
async def house(**sections: object) -> AsyncIterator[tuple[Running, httpx.AsyncClient]]:
    """A gateway whose powerful model fails, and a client."""
    numbers = itertools.count()

    async def answer(asked: Asked) -> None:
        if json.loads(asked.body)["model"] == "sim-powerful":
            await asked.answer({"error": {"message": "no"}}, 500)
        else:
            await asked.answer(json.loads(chat_answer(f"Answer {next(numbers)} of all.")))

    async with (
        tool_server({CHAT: answer}) as upstream,
        running_gateway(
            of_openais_kind(upstream.url, provider={"retries": 0}, **sections)
        ) as gateway,
        httpx.AsyncClient(base_url=gateway.url, timeout=20) as client,
    ):
        yield gateway, client


async def ask(client: httpx.AsyncClient, text: str, model: str = "small", tags: str = "") -> str:
    headers = {"x-slipstream-tags": tags} if tags else {}
    answer = await client.post(CHAT, json=question(model, text), headers=headers)
    return answer.headers["x-slipstream-cache"]


async def open_cache(page: Page, rows: int) -> None:
    await page.get_by_role("link", name="Cache", exact=True).click()
    await expect(page.locator("#cache-rows tr")).to_have_count(rows)


async def test_entries_tell_where_they_are_from_and_what_they_were_good_for(
    chromium: Browser,
) -> None:
    async with house() as (gateway, client), well_behaved(chromium, gateway.url) as seen:
        await ask(client, "first")
        await ask(client, "second", tags="billing,eu")
        await ask(client, "second")
        await ask(client, "second")
        await open_cache(seen.page, 2)
        newest = seen.page.locator("#cache-rows tr").first
        for words in ("small", "2 hits", "billing, eu", "req_"):
            await expect(newest).to_contain_text(words)
        await expect(seen.page.locator("#cache-sums")).to_contain_text("exact hit")
        assert "Answer" not in await seen.page.locator("#cache-rows").inner_text()
        await newest.get_by_role("link").click()
        await expect(seen.page.locator(".trace-row")).to_have_count(1)


async def test_one_click_says_that_a_hit_was_wrong_and_another_deletes(chromium: Browser) -> None:
    async with house() as (gateway, client), well_behaved(chromium, gateway.url) as seen:
        await ask(client, "first")
        await ask(client, "second")
        await open_cache(seen.page, 2)
        rows = seen.page.locator("#cache-rows tr")
        await rows.nth(0).get_by_role("button", name="This was wrong").click()
        await expect(rows.nth(0)).to_contain_text("Removed as wrong.")
        await rows.nth(1).get_by_role("button", name="Delete").click()
        await expect(rows.nth(1)).to_contain_text("Deleted.")
        assert await ask(client, "first") == await ask(client, "second") == "miss"
        await seen.page.get_by_role("button", name="Refresh").click()
        await expect(rows).to_have_count(2)


async def test_words_are_shown_where_the_operator_wants_them(chromium: Browser) -> None:
    cache = {"semantic": {"enabled": False}, "show_text": True}
    async with house(cache=cache) as (gateway, client), well_behaved(chromium, gateway.url) as seen:
        await ask(client, "first")
        await open_cache(seen.page, 1)
        await expect(seen.page.locator(".kept-words")).to_have_text("Answer 0 of all.")


async def test_many_entries_come_a_page_at_a_time(chromium: Browser) -> None:
    async with house() as (gateway, client), well_behaved(chromium, gateway.url) as seen:
        for number in range(130):
            await ask(client, f"number {number}", tags=f"n{number}")
        await open_cache(seen.page, 100)
        await seen.page.get_by_role("button", name="More").click()
        await expect(seen.page.locator("#cache-rows tr")).to_have_count(30)
        await expect(seen.page.locator("#cache-rows tr").last).to_contain_text("n0")
        await expect(seen.page.get_by_role("button", name="More")).to_be_disabled()
        await seen.page.get_by_role("button", name="Back").click()
        await expect(seen.page.locator("#cache-rows tr").first).to_contain_text("n129")


async def test_a_failing_deployment_and_a_degraded_part_are_seen(chromium: Browser) -> None:
    async with house() as (gateway, client), well_behaved(chromium, gateway.url) as seen:
        for number in range(5):
            await ask(client, f"number {number}", model="large")
        await ask(client, "first")
        gateway.context.readiness.degraded["semantic_store"] = "the store is full"
        await seen.page.get_by_role("link", name="Upstreams").click()
        shown = seen.page.locator("#upstreams")
        await expect(shown.locator(".state")).to_contain_text("semantic store: the store is full")
        large = shown.locator("tr", has_text="local/sim-powerful")
        await expect(large.locator(".pill")).to_have_text(
            # in a second the breaker lets a probe through
            re.compile("not asked: it fails|probed")
        )
        small = shown.locator("tr", has_text="local/sim-fast")
        await expect(small.locator(".pill")).to_have_text("in use")
        await expect(shown).to_contain_text("upstream status")
        await expect(shown.locator("tr", has_text="local").last).to_contain_text("5")
