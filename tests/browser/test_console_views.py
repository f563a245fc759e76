"""The console's views of what the gateway did, on the real gateway and on a scripted one, in Chromium."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
from playwright.async_api import expect

from tests.browser.conftest import well_behaved
from tests.browser.test_console_moments import _FAINT_TEXT, _NAMELESS
from tests.support.browser import visit
from tests.support.console_server import ConsoleServer, trace_of
from tests.support.gateway import GatewayProcess, gateway_process

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

    from tests.support.console_server import ConsoleServer

pytestmark = pytest.mark.browser
_NUMBERS = itertools.count(1)


async def asked(page: Page, gateway: GatewayProcess, question: str = "") -> str:
    """Ask beside the page; gives the request's id."""
    text = question or f"What holds flange number {next(_NUMBERS)} together?"
    body = {"model": "auto", "messages": [{"role": "user", "content": text}]}
    answer = await page.request.post(f"{gateway.url}/v1/chat/completions", data=body)
    assert answer.ok
    return answer.headers["x-request-id"]


async def test_a_stranger_finds_out_in_three_clicks_why_a_request_was_slow(
    chromium: Browser,
) -> None:
    """From the page as it opens: the overview, the slowest request; the sentence, the critical path
    and each decision in words stand there. Clicks are counted.
    """
    # A gateway of its own: of the tests before, five requests may have been slower, and no more are shown.
    with gateway_process() as gateway:
        async with well_behaved(chromium, gateway.url) as seen:
            page = seen.page
            await page.evaluate(
                "addEventListener('click', () => (window.clicks = (window.clicks ?? 0) + 1), true)"
            )
            slow = await asked(page, gateway)
            await page.get_by_role("link", name="Overview").click()
            slowest = page.locator("#overview tr", has_text="Mostly waiting for the model")
            await slowest.get_by_role("link", name=slow).click()
            detail = page.locator("#trace-detail")
            await expect(detail.locator(".slow")).to_contain_text("Mostly waiting for the model")
            await expect(detail.locator("li[data-critical]", has_text="upstream")).to_be_visible()
            await expect(detail.locator(".decisions")).to_contain_text("nothing was kept for it")
            await expect(detail.locator(".decisions")).to_contain_text("tier ")
            assert await page.evaluate("window.clicks") <= 3


async def test_the_slowest_come_first_on_wish(page: Page, gateway: GatewayProcess) -> None:
    await asked(page, gateway, "Hello!")
    await asked(page, gateway)
    await page.get_by_role("link", name="Requests").click()
    await page.get_by_label("Order").select_option("slowest")
    await page.locator(".trace-row").first.click()
    await expect(page.locator(".slow")).to_contain_text("Mostly waiting for the model")


async def test_the_list_can_be_filtered(page: Page, gateway: GatewayProcess) -> None:
    await asked(page, gateway, "Hello!")
    wanted = await asked(page, gateway)
    await page.get_by_role("link", name="Requests").click()
    rows = page.locator(".trace-row")
    await page.get_by_label("Request id").fill(wanted)
    await expect(rows).to_have_count(1)
    await page.locator("#filter-cache").select_option("lane")
    await expect(rows).to_have_count(0)
    await page.get_by_label("Request id").fill("")
    await expect(rows.first).to_contain_text("lane")
    await page.get_by_label("Status").select_option("bad")
    await expect(rows).to_have_count(0)


async def test_a_wrong_hit_in_the_list_is_removed_with_one_click(
    page: Page, gateway: GatewayProcess
) -> None:
    question = f"What holds flange number {next(_NUMBERS)} together?"
    await asked(page, gateway, question)
    hit = await asked(page, gateway, question)
    await page.goto(f"{gateway.url}/#requests-view")
    await page.reload()
    await page.get_by_label("Request id").fill(hit)
    await page.locator(".trace-row").click()
    await expect(page.locator("#trace-detail")).to_contain_text("exact hit")
    await page.get_by_role("button", name="This hit was wrong").click()
    await expect(page.locator("#trace-detail")).to_contain_text("the kept answer is removed")
    again = await asked(page, gateway, question)
    found = await page.request.get(f"{gateway.url}/v1/traces/{again}")
    assert (await found.json())["cache"]["outcome"] == "miss"


async def test_a_hit_by_meaning_shows_its_verifier_s_words(
    chromium: Browser, served: ConsoleServer
) -> None:
    trace = trace_of("req-meaning", hit=True)
    words = ["both ask for a capital", "the same place is named"]
    trace["cache"] = {"outcome": "semantic", "reason": "semantic", "entry": "e", "words": words}
    served.traces.append(trace)
    async with visit(chromium, f"{served.url}/#requests-view") as seen:
        await seen.page.locator(".trace-row").click()
        await expect(seen.page.locator(".verifier li")).to_have_text(words)
        await seen.page.get_by_role("button", name="This hit was wrong").click()
        await expect(seen.page.locator(".verdict [role=status]")).to_contain_text("Noted")
        expected = {
            "path": "/v1/cache/feedback",
            "request_id": "req-meaning",
            "verdict": "wrong",
        }
        assert served.verdicts == [expected]


async def test_ten_thousand_rows_are_a_hundred_elements_and_walked_by_keyboard(
    chromium: Browser, served: ConsoleServer
) -> None:
    async with visit(chromium, f"{served.url}/#requests-view") as seen:
        for page_number in range(10):
            first = 1000 * page_number
            served.traces.extend(trace_of(f"r{first + i}", hit=False) for i in range(1000))
            await seen.page.evaluate("location.hash = '#ask'")
            await expect(seen.page.locator("#view-ask")).to_be_visible()
            await seen.page.evaluate("location.hash = '#requests-view'")
            count = f"{first + 1000} of {first + 1000}"
            await expect(seen.page.locator("#rows-count")).to_contain_text(count)
        await seen.page.locator("#rows").focus()
        await seen.page.keyboard.press("End")
        last = seen.page.locator(".trace-row[data-active]")
        await expect(last).to_contain_text("r0")
        assert await seen.page.locator(".trace-row").count() < 100
        await seen.page.keyboard.press("Enter")
        await expect(seen.page.locator(".slow")).to_contain_text("Mostly")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_the_views_can_be_read_and_their_controls_have_names(
    chromium: Browser, served: ConsoleServer, scheme: str
) -> None:
    served.traces.extend(trace_of(f"r{i}", hit=bool(i % 2)) for i in range(5))
    async with visit(chromium, f"{served.url}/#requests-view", scheme=scheme) as seen:  # type: ignore[arg-type]
        await seen.page.locator(".trace-row").nth(1).click()
        await expect(seen.page.locator(".slow")).to_be_visible()
        for link in await seen.page.locator(".views a").all():
            await link.click()
            assert await seen.page.evaluate(_FAINT_TEXT) == []
            assert await seen.page.evaluate(_NAMELESS) == []


async def test_the_critical_path_leaves_out_what_nobody_waited_for(
    chromium: Browser, served: ConsoleServer
) -> None:
    """Of two tools at once the longer counts; of a model that streams, its time before the stream."""
    async with visit(chromium, served.url) as seen:
        path = await seen.page.evaluate(
            """async () => {
              const { criticalPath } = await import("./console/explanation.js");
              const span = (start, duration, parent = null) => ({ start, duration, parent });
              const spans = [span(0, 10), span(10, 50), span(10, 80), span(90, 100), span(120, 70)];
              return criticalPath(spans, 200);
            }"""
        )
    assert path == {
        "path": [
            {"index": 0, "time": 10},
            {"index": 2, "time": 80},
            {"index": 3, "time": 30},
            {"index": 4, "time": 70},
        ],
        "between": 10,
    }


async def test_the_overview_tells_the_promise_the_shares_the_savings_and_the_upstreams(
    page: Page, gateway: GatewayProcess
) -> None:
    question = f"What holds flange number {next(_NUMBERS)} together?"
    await asked(page, gateway, question)
    await asked(page, gateway, question)
    await page.get_by_role("link", name="Overview").click()
    overview = page.locator("#overview")
    for words in ("80 % within 3 s", "held", "p95", "exact hit", "fast", "together", "calls now"):
        await expect(overview).to_contain_text(words)
    await expect(overview.locator(".state")).to_contain_text("Ready")


async def test_a_loss_is_told_as_one(chromium: Browser, served: ConsoleServer) -> None:
    async with well_behaved(chromium, served.url) as seen:
        told = await seen.page.evaluate(
            "import('./console/format.js').then(({ usd }) => [usd(-0.000232), usd(-1.5), usd(0.02), usd(0)])"
        )
        assert told == ["-$0.000232", "-$1.5000", "$0.0200", "$0"]


async def test_the_composer_has_its_controls_in_one_line_on_a_phone(
    chromium: Browser, served: ConsoleServer
) -> None:
    async with well_behaved(chromium, served.url, width_px=390, height_px=844) as seen:
        await seen.page.evaluate(
            "document.getElementById('model').add(new Option('agent/helpdesk-of-all'))"
        )
        tops_px = await seen.page.evaluate(
            "['model', 'send'].map((id) => document.getElementById(id).getBoundingClientRect())"
            ".map((box) => (box.top + box.bottom) / 2)"
        )
        assert abs(tops_px[0] - tops_px[1]) < 4


async def test_wide_tables_are_read_on_a_phone(chromium: Browser, gateway: GatewayProcess) -> None:
    """Without room for columns each row is a block of heads and values; nothing breaks into letters."""
    async with well_behaved(chromium, gateway.url, width_px=390, height_px=844) as seen:
        await asked(seen.page, gateway, f"What holds flange number {next(_NUMBERS)} together?")
        for view, id_ in (("Overview", "overview"), ("Upstreams", "upstreams")):
            await seen.page.get_by_role("link", name=view).click()
            await expect(seen.page.locator(f"#{id_} .wide td").first).to_be_visible()
            narrowest_px = await seen.page.evaluate(
                "Math.min(...[...document.querySelectorAll('main:not([hidden]) .wide td')]"
                ".filter((cell) => cell.textContent).map((cell) => cell.clientWidth))"
            )
            assert narrowest_px > 200
        cell = seen.page.locator("#upstreams .wide td").first
        assert await cell.get_attribute("data-head") == "model"


async def test_the_linter_says_what_a_timestamp_in_front_costs(page: Page) -> None:
    await page.get_by_role("link", name="Prompts").click()
    prompt = "Now it is 2026-01-01T10:11:12Z. " + "Answer briefly. " * 800
    await page.locator("#lint-body").fill(prompt)
    await page.get_by_role("button", name="Check").click()
    result = page.locator("#lint-result")
    await expect(result).to_contain_text("volatile timestamp at /messages/0/content")
    await expect(result).to_contain_text("Mend: ")


async def test_one_question_is_compared_with_and_without_the_techniques(
    page: Page, gateway: GatewayProcess
) -> None:
    question = f"What holds flange number {next(_NUMBERS)} together?"
    await asked(page, gateway, question)
    await page.get_by_role("link", name="Compare").click()
    await page.locator("#compare-question").fill(question)
    await page.get_by_role("button", name="Ask both").click()
    await expect(page.locator("#compare-result")).to_contain_text("Without: ", timeout=20_000)
    facts = page.locator("#compare-sides .facts")
    await expect(facts.nth(0)).to_contain_text("exact hit")
    await expect(facts.nth(1)).to_contain_text("bypassed")
    await expect(facts.nth(1)).to_contain_text("powerful")
