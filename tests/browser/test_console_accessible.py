"""axe-core in a real Chromium finds nothing serious in any view, light or dark, empty or full; and a person
without a mouse gets everywhere.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Literal

import pytest
from playwright.async_api import expect

from tests.browser.conftest import well_behaved
from tests.e2e.agent.test_agent_loop import agent, answers, echo, tool
from tests.support.gateway import running_gateway
from tests.support.node_packages import node_packages
from tests.support.scripted_model import Speaking, scripted_model
from tests.support.tool_server import tool_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from playwright.async_api import Browser, Page

    from tests.support.gateway import Running

pytestmark = pytest.mark.browser
Scheme = Literal["light", "dark"]
VIEWS = ("ask", "agents-view", "requests-view", "overview-view", "cache-view", "upstreams-view",
         "prompts-view", "compare-view")  # fmt: skip
NARROW_PX = 390


@pytest.fixture(scope="module")
async def axe() -> str:
    """axe-core's source, from the locked packages."""
    folder = await asyncio.to_thread(node_packages)
    return (folder / "node_modules" / "axe-core" / "axe.min.js").read_text()


async def faults(page: Page, axe: str) -> list[str]:
    """What axe finds that is serious or worse: rule, and the element."""
    await page.evaluate(axe)
    found = await page.evaluate(
        """async () => (await axe.run(document, { resultTypes: ["violations"] })).violations
          .filter((one) => ["serious", "critical"].includes(one.impact))
          .flatMap((one) => one.nodes.map(
            (node) => `${one.id}: ${node.html.slice(0, 160)} ${node.failureSummary}`))"""
    )
    return list(found)


async def model(speaking: Speaking) -> None:
    """Fail where it is asked to, call both tools where there are some, else answer."""
    last = speaking.body["messages"][-1]
    if "fail" in str(last["content"]):
        speaking.asked.writer.transport.abort()
    elif last["role"] == "tool" or not speaking.body.get("tools"):
        await answers(speaking)
    else:
        await speaking.text("One moment.")
        await speaking.call(0, "a", '{"id": "1"}')
        await speaking.call(1, "b", '{"id": "2"}')
        await speaking.finish("tool_calls")


@contextlib.asynccontextmanager
async def busy() -> AsyncIterator[Running]:
    """A gateway that has seen hits, misses, failures, tools, and has words to show."""
    async with (
        tool_server({"/a/": echo(), "/b/": echo()}) as tools,
        scripted_model(model) as upstream,
    ):
        declared = [tool("a", tools.url), tool("b", tools.url, approval=True)]
        values = agent(upstream.url, declared)
        models = [model for model in values["models"] if model["provider"] == "local"]  # type: ignore[attr-defined]
        values["models"] = models
        values["cache"] = {"semantic": {"enabled": False}, "show_text": True}
        async with running_gateway(values) as gateway:
            yield gateway


async def ask_beside(page: Page, url: str, text: str) -> None:
    """One request of another client."""
    body = {"model": "small", "stream": True, "messages": [{"role": "user", "content": text}]}
    await page.request.post(
        f"{url}/v1/chat/completions", data=body, headers={"x-slipstream-tags": "one,two"}
    )


async def fill(page: Page, view: str) -> None:
    """Bring ``view`` into the state with the most in it."""
    if view == "ask":
        for text in ("one more", "one more", "please fail"):
            await page.get_by_label("Your question").fill(text)
            await page.keyboard.press("Enter")
            await expect(page.locator("#send")).to_be_visible()
        await expect(page.get_by_role("alert")).to_be_visible()
        await page.locator(".request").first.click()
        await page.get_by_text("Options").click()
    elif view == "agents-view":
        await page.get_by_label("Task").fill("look them up")
        await page.get_by_role("button", name="Run", exact=True).click()
        await expect(page.get_by_role("form", name="Approval of b")).to_be_visible()
        await page.get_by_text("Change the arguments").click()
    elif view == "requests-view":
        await page.locator(".trace-row").first.click()
        await expect(page.locator(".slow")).to_be_visible()
    elif view == "overview-view":
        await expect(page.locator("#overview")).to_contain_text("The promise")
    elif view == "cache-view":
        await expect(page.locator("#cache-rows tr").first).to_contain_text("All done.")
        await page.get_by_role("button", name="Delete").first.click()
        await expect(page.locator("tr[data-gone]")).to_contain_text("Deleted.")
    elif view == "upstreams-view":
        await expect(page.locator("#upstreams")).to_contain_text("Deployments")
    elif view == "prompts-view":
        await page.locator("#lint-body").fill("It is 2026-01-01T10:11:12Z. " + "Be brief. " * 800)
        await page.get_by_role("button", name="Check").click()
        await expect(page.locator(".finding").first).to_be_visible()
    elif view == "compare-view":
        await page.locator("#compare-question").fill("one more")
        await page.get_by_role("button", name="Ask both").click()
        await expect(page.locator("#compare-result")).to_contain_text("Without: ")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_nothing_serious_in_any_view(
    chromium: Browser, axe: str, scheme: Scheme
) -> None:
    async with busy() as gateway, well_behaved(chromium, gateway.url, scheme=scheme) as seen:
        page = seen.page
        for text in ("one", "one", "two", "fail"):
            await ask_beside(page, gateway.url, text)
        for view in VIEWS:
            await page.goto(f"{gateway.url}/#{view}")
            await page.reload()
            await expect(page.locator(f"#view-{view}")).to_be_visible()
            assert await faults(page, axe) == [], f"{view}, as it opens"
            await fill(page, view)
            assert await faults(page, axe) == [], f"{view}, filled"


async def test_axe_finds_nothing_serious_on_a_narrow_screen_and_nothing_sticks_out(
    chromium: Browser, axe: str
) -> None:
    async with busy() as gateway, well_behaved(chromium, gateway.url, width_px=NARROW_PX) as seen:
        page = seen.page
        for text in ("one", "fail"):
            await ask_beside(page, gateway.url, text)
        for view in VIEWS:
            await page.goto(f"{gateway.url}/#{view}")
            await page.reload()
            await fill(page, view)
            assert await faults(page, axe) == [], view
            width = await page.evaluate("document.documentElement.scrollWidth")
            assert width <= NARROW_PX, view


async def test_every_view_is_reached_and_left_by_the_keyboard_alone(chromium: Browser) -> None:
    async with busy() as gateway, well_behaved(chromium, f"{gateway.url}/#prompts-view") as seen:
        page = seen.page
        for view in VIEWS:
            await page.keyboard.press("Control+Home")
            await page.evaluate("document.activeElement.blur()")
            link = page.locator(f'.views a[href="#{view}"]')
            for _ in range(20):
                await page.keyboard.press("Tab")
                if await link.evaluate("(e) => e === document.activeElement"):
                    break
            await page.keyboard.press("Enter")
            await expect(page.locator(f"#view-{view}")).to_be_visible()
            outline = await page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert outline == "solid", "whoever has the focus is seen to have it"
