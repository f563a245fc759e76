"""The console in moments that a real gateway cannot be made to hold: half an answer, a broken stream.

The server is scripted (``tests/support/console_server.py``); the browser is a real Chromium.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING

import pytest
from playwright.async_api import expect

from tests.browser.conftest import well_behaved
from tests.support.browser import Visit, visit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from playwright.async_api import Browser, Page, Route

    from tests.support.console_server import ConsoleServer

pytestmark = pytest.mark.browser


@pytest.fixture
async def seen(chromium: Browser, served: ConsoleServer) -> AsyncIterator[Visit]:
    async with well_behaved(chromium, served.url) as made:
        yield made


async def ask(page: Page, question: str) -> None:
    await page.get_by_label("Your question").fill(question)
    await page.keyboard.press("Enter")


async def complete(page: Page) -> None:
    await expect(page.locator("#announce")).to_contain_text("Answer complete")


async def test_the_first_words_are_there_before_the_last_exist(
    page: Page, served: ConsoleServer
) -> None:
    await ask(page, "please hold this")
    answer = page.locator(".answer")
    await expect(answer).to_have_text("First words ")
    await expect(answer).to_have_attribute("aria-busy", "true")
    await expect(page.locator(".waterfall li")).to_have_count(6)
    await expect(page.locator(".facts")).to_contain_text("miss")
    served.gate.set()
    await complete(page)
    await expect(answer).to_have_text("First words of an answer.")
    await expect(answer).to_have_attribute("aria-busy", "false")


async def test_the_waterfall_grows_while_the_answer_streams(
    page: Page, served: ConsoleServer
) -> None:
    await ask(page, "please hold this")
    number = page.locator('.waterfall li[data-stage="stream"] .ms')
    await expect(number).to_have_text(re.compile(r"\d"))
    before = await number.text_content()
    assert before is not None
    await expect(number).not_to_have_text(before)
    served.gate.set()
    await complete(page)
    await expect(number).to_have_text("240 ms")  # the gateway's own trace has replaced the guess


async def test_stopping_by_the_keyboard_leaves_the_words_and_hangs_up(
    page: Page, served: ConsoleServer
) -> None:
    await ask(page, "please hold this")
    await expect(page.locator(".answer")).to_have_text("First words ")
    await page.keyboard.press("Escape")
    await expect(page.locator(".note")).to_have_text("Stopped.")
    await expect(page.locator(".answer")).to_have_text("First words ")
    await expect(page.get_by_role("button", name="Send")).to_be_visible()
    await expect(page.get_by_label("Your question")).to_be_focused()
    assert served.left.wait(5)


async def test_a_stream_that_breaks_says_so_in_words_under_what_came(page: Page) -> None:
    await ask(page, "please break this")
    await expect(page.get_by_role("alert")).to_have_text(
        "The answer broke off. The upstream closed the stream upstream_closed"
    )
    await expect(page.locator(".answer")).to_have_text("First words ")


async def test_a_refusal_is_shown_in_words_and_the_next_question_works(page: Page) -> None:
    await ask(page, "refuse this")
    alert = page.get_by_role("alert")
    await expect(alert).to_contain_text("model `odd` is not configured", ignore_case=True)
    await ask(page, "and now?")
    await complete(page)
    await expect(page.locator(".answer").last).to_have_text("First words of an answer.")


async def test_a_gateway_that_is_gone_is_named_as_such(page: Page) -> None:
    await page.route("**/v1/chat/completions", lambda route: route.abort("connectionrefused"))
    await ask(page, "anybody?")
    await expect(page.get_by_role("alert")).to_have_text(
        "The gateway does not answer. Is it still running?"
    )


async def test_progress_is_shown_until_the_first_word(page: Page, served: ConsoleServer) -> None:
    """An SSE comment is a note for the person who waits."""
    notes: list[str] = await page.evaluate(
        """async () => {
          const { frames } = await import('./console/gateway.js');
          const found = [];
          const cut = [': Looking', ' up\\r', '\\n\\r\\ndata: {"a"', ':1}\\r\\n\\r\\nda',
            'ta: x\\ndata: y\\n\\n: z'];
          const body = new ReadableStream({ start(c) {
            for (const piece of cut) c.enqueue(new TextEncoder().encode(piece));
            c.close();
          }});
          for await (const frame of frames(body)) found.push(JSON.stringify(frame));
          return found;
        }"""
    )
    assert [json.loads(note) for note in notes] == [
        {"comment": "Looking up"},
        {"data": '{"a":1}'},
        {"data": "x\ny"},
        {"comment": "z"},
    ]
    await ask(page, "hold the tool")
    await expect(page.locator(".note")).to_be_hidden()
    served.gate.set()
    await complete(page)


async def test_a_wrong_hit_is_told_to_the_cache_and_other_answers_to_the_router(
    page: Page, served: ConsoleServer
) -> None:
    await ask(page, "twice")
    await complete(page)
    await page.get_by_role("button", name="This was right").click()
    await expect(page.locator(".verdict").first).to_contain_text("Noted")
    await ask(page, "twice")
    await page.get_by_role("button", name="This was wrong").click()
    await expect(page.locator(".verdict").last).to_contain_text("the kept answer is removed")
    assert served.verdicts == [
        {"path": "/v1/feedback", "request_id": "req-1", "verdict": "good"},
        {"path": "/v1/cache/feedback", "request_id": "req-2", "verdict": "wrong"},
    ]


async def test_the_first_question_may_be_judged_though_it_was_quicker_than_the_page(
    page: Page, served: ConsoleServer
) -> None:
    known = asyncio.Event()

    async def late(route: Route) -> None:
        await known.wait()
        await route.continue_()

    await page.route("**/openapi.json", late)
    await page.reload()
    await ask(page, "once")
    await expect(page.locator(".answer")).to_have_text("First words of an answer.")
    known.set()
    await page.get_by_role("button", name="This was right").click()
    await expect(page.locator(".verdict")).to_contain_text("Noted")
    assert [verdict["verdict"] for verdict in served.verdicts] == ["good"]


async def test_without_the_endpoint_there_is_no_verdict_to_give(
    chromium: Browser, served: ConsoleServer
) -> None:
    served.feedback = False
    async with visit(chromium, served.url) as seen:
        await ask(seen.page, "anything")
        await complete(seen.page)
        await expect(seen.page.locator(".verdict")).to_be_hidden()


async def test_earlier_turns_go_along_only_when_asked(page: Page, served: ConsoleServer) -> None:
    await ask(page, "one")
    await complete(page)
    await page.get_by_text("Options").click()
    await page.get_by_label("Send the earlier turns along").check()
    await page.get_by_label("Cache").select_option("refresh")
    await page.get_by_label("Tier").select_option("powerful")
    await page.get_by_label("Gateway key").fill("sk-mine")
    await page.keyboard.press("Tab")
    await page.keyboard.press("Escape")
    await ask(page, "two")
    await complete(page)
    first, second = served.asked
    assert first["messages"] == [{"role": "user", "content": "one"}]
    assert second["messages"] == [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "First words of an answer."},
        {"role": "user", "content": "two"},
    ]
    headers = second["headers"]
    assert isinstance(headers, dict)
    assert headers["authorization"] == "Bearer sk-mine"
    assert (headers["x-slipstream-cache"], headers["x-slipstream-tier"]) == ("refresh", "powerful")


async def test_hostile_text_is_text(page: Page) -> None:
    """What a person, a model or another client wrote is never markup."""
    await ask(page, "<img src=x onerror=alert(1)><script>alert(2)</script>")
    await complete(page)
    assert await page.locator(".asked img, .asked script").count() == 0
    await expect(page.locator(".asked")).to_have_text(
        "<img src=x onerror=alert(1)><script>alert(2)</script>"
    )


async def test_a_request_in_the_list_opens_to_its_waterfall_by_the_keyboard(page: Page) -> None:
    await ask(page, "one")
    await complete(page)
    row = page.locator(".request").first
    await row.focus()
    await page.keyboard.press("Enter")
    await expect(row).to_have_attribute("aria-expanded", "true")
    opened = page.locator(".opened")
    await expect(opened.locator("li")).to_have_count(6)
    await expect(opened).to_contain_text("a short question of one part")
    await page.keyboard.press("Enter")
    await expect(opened).to_have_count(0)


async def test_the_theme_can_be_chosen_and_is_kept(page: Page) -> None:
    button = page.get_by_role("button", name="Theme")
    await button.click()
    await button.click()
    await expect(button).to_have_text("Theme: dark")
    dark = await page.evaluate("getComputedStyle(document.body).backgroundColor")
    await page.reload()
    await expect(page.get_by_role("button", name="Theme: dark")).to_be_visible()
    assert await page.evaluate("getComputedStyle(document.body).backgroundColor") == dark


@pytest.mark.parametrize("width_px", [320, 390, 768, 1280])
async def test_nothing_sticks_out_of_the_window_at_any_width(
    chromium: Browser, served: ConsoleServer, width_px: int
) -> None:
    async with visit(chromium, served.url, width_px=width_px, height_px=700) as seen:
        await ask(seen.page, "a" * 300)
        await complete(seen.page)
        await seen.page.get_by_text("Options").click()
        await seen.page.locator(".request").first.click()
        assert await seen.page.evaluate("document.documentElement.scrollWidth") <= width_px
        box = await seen.page.locator(".options .panel").bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width_px


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_text_stands_out_from_its_ground_and_controls_have_names(
    chromium: Browser, served: ConsoleServer, scheme: str
) -> None:
    """WCAG AA: a contrast of 4.5 for every piece of text on the page; every control can be named."""
    async with visit(chromium, served.url, scheme=scheme) as seen:  # type: ignore[arg-type]
        await ask(seen.page, "please break this")
        await expect(seen.page.get_by_role("alert")).to_be_visible()
        await ask(seen.page, "one")
        await complete(seen.page)
        await seen.page.locator(".request").first.click()
        assert await seen.page.evaluate(_FAINT_TEXT) == []
        assert await seen.page.evaluate(_NAMELESS) == []


_FAINT_TEXT = """() => {
  const channel = (v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const parse = (c) => (c.match(/[\\d.]+/g) ?? [0, 0, 0, 0]).map(Number);
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const c = parse(getComputedStyle(e).backgroundColor);
      if (c.length < 4 || c[3] > 0.99) return c;
    }
    return [255, 255, 255];
  };
  const faint = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode()); ) {
    const e = node.parentElement;
    if (!node.data.trim() || !e.checkVisibility({ visibilityProperty: true })) continue;
    const [a, b] = [light(parse(getComputedStyle(e).color)), light(ground(e))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) faint.push(`${node.data.trim().slice(0, 30)} (${e.className}): ${ratio.toFixed(2)}`);
  }
  return faint;
}"""

_NAMELESS = """() => [...document.querySelectorAll('button, input, select, textarea, summary')]
  .filter((e) => !(e.textContent.trim() || e.labels?.length || e.getAttribute('aria-label')))
  .map((e) => e.outerHTML)"""
