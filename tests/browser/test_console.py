"""The console on the real gateway with its simulated provider, in a real Chromium."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
from playwright.async_api import expect

from tests.support.gateway import GatewayProcess

if TYPE_CHECKING:
    from playwright.async_api import Locator, Page

pytestmark = pytest.mark.browser
_NUMBERS = itertools.count(1)


def a_new_question() -> str:
    """One that no other test has asked, so that nothing is cached for it."""
    return f"What is the purpose of gasket number {next(_NUMBERS)} in a pump?"


async def ask(page: Page, question: str) -> Locator:
    """Ask, wait for the whole answer and the gateway's own account; give the turn's element."""
    turn = await begin(page, question)
    await expect(page.locator("#announce")).to_contain_text("Answer complete", timeout=20_000)
    return turn


async def begin(page: Page, question: str) -> Locator:
    turns = page.locator(".turn")
    count = await turns.count()
    await page.get_by_label("Your question").fill(question)
    await page.keyboard.press("Enter")
    await expect(turns).to_have_count(count + 1)
    return turns.nth(count)


async def stages(turn: Locator) -> list[str]:
    return await turn.locator(".waterfall .stage").all_inner_texts()


async def test_the_first_words_stand_before_the_answer_is_whole(page: Page) -> None:
    await page.evaluate(
        """() => {
          window.seen = [];
          const look = () => {
            const answer = document.querySelector('.answer');
            if (answer) window.seen.push([answer.textContent, answer.getAttribute('aria-busy')]);
          };
          new MutationObserver(look).observe(document.querySelector('#turns'),
            { subtree: true, childList: true, characterData: true });
        }"""
    )
    turn = await ask(page, a_new_question())
    whole = await turn.locator(".answer").inner_text()
    states: list[tuple[str, str]] = await page.evaluate("window.seen")
    partial = [text for text, busy in states if busy == "true" and 0 < len(text) < len(whole)]
    assert len(partial) > 3
    assert all(whole.startswith(text) for text in partial)


async def test_an_answer_shows_its_waterfall_model_tier_tokens_and_cost(page: Page) -> None:
    turn = await ask(page, a_new_question())
    assert await stages(turn) == ["lanes", "cache", "classifier", "router", "upstream", "stream"]
    facts = turn.locator(".facts")
    for word in ("miss", "sim-", "tier", "first word", "in, ", "$0.0"):
        await expect(facts).to_contain_text(word)
    await expect(turn.locator(".reason")).to_contain_text("Why: ")


async def test_the_second_ask_is_a_hit_and_its_waterfall_has_no_upstream(page: Page) -> None:
    question = a_new_question()
    first = await ask(page, question)
    second = await ask(page, question)
    await expect(second.locator(".facts")).to_contain_text("exact hit")
    await expect(second.locator(".facts")).to_contain_text("saved")
    assert "upstream" not in await stages(second)
    assert (
        await second.locator(".answer").inner_text() == await first.locator(".answer").inner_text()
    )


async def test_a_hit_called_wrong_is_not_given_again(page: Page) -> None:
    question = a_new_question()
    await ask(page, question)
    hit = await ask(page, question)
    await hit.get_by_role("button", name="This was wrong").click()
    await expect(hit.locator(".verdict")).to_contain_text("the kept answer is removed")
    await expect((await ask(page, question)).locator(".facts")).to_contain_text("miss")


async def test_a_greeting_is_answered_by_a_lane(page: Page) -> None:
    turn = await ask(page, "Hello!")
    await expect(turn.locator(".facts")).to_contain_text("answered by a lane")
    assert "upstream" not in await stages(turn)


async def test_everything_can_be_done_with_the_keyboard_alone(page: Page) -> None:
    """The question has the focus; ask, reach the list, open a request; and skip the head from its top."""
    question = page.get_by_label("Your question")
    await expect(question).to_be_focused()
    await page.keyboard.type(a_new_question())
    await page.keyboard.press("Enter")
    await expect(page.locator("#announce")).to_contain_text("Answer complete", timeout=20_000)
    await expect(question).to_be_focused()
    await tab_to(page, "Tab", "request")
    await page.keyboard.press("Enter")
    await expect(page.locator(".opened .waterfall")).to_be_visible()
    await tab_to(page, "Shift+Tab", "skip")
    await expect(page.get_by_text("Skip to the question")).to_be_in_viewport()
    await page.keyboard.press("Enter")
    await expect(question).to_be_focused()


async def tab_to(page: Page, key: str, css_class: str) -> None:
    """Press ``key`` until something of ``css_class`` has the focus; a dozen and a half at most."""
    for _ in range(18):
        await page.keyboard.press(key)
        if await page.evaluate("(c) => document.activeElement.classList.contains(c)", css_class):
            return
    pytest.fail(f"{key} does not reach .{css_class}")


async def test_an_error_is_said_in_words_with_its_code(page: Page) -> None:
    await page.get_by_text("Options").click()
    await page.get_by_label("Cache").select_option("only")
    await page.keyboard.press("Escape")
    turn = await begin(page, a_new_question())
    await expect(turn.get_by_role("alert")).to_contain_text("cache_only_miss")
    await expect(turn.get_by_role("alert")).to_contain_text("only a cached answer was wanted")
    await page.get_by_text("Options").click()
    await page.get_by_label("Cache").select_option("")
    await ask(page, a_new_question())


async def test_a_stopped_answer_counts_as_a_client_that_left(page: Page) -> None:
    await page.get_by_role("combobox", name="Model").select_option("large")
    turn = await begin(page, a_new_question())
    await expect(turn.locator(".waterfall")).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(turn.locator(".note")).to_have_text("Stopped.")
    await expect(page.locator(".request").first).to_contain_text("client left")


async def test_the_list_shows_the_requests_of_every_client(
    page: Page, gateway: GatewayProcess
) -> None:
    body = {"model": "small", "messages": [{"role": "user", "content": a_new_question()}]}
    answer = await page.request.post(f"{gateway.url}/v1/chat/completions", data=body)
    assert answer.ok
    row = page.locator(".request").first
    await expect(row).to_contain_text("json", timeout=10_000)
    await row.click()
    opened = page.locator(".opened")
    await expect(opened).to_contain_text(answer.headers["x-request-id"])
    await expect(opened.locator("li", has_text="upstream")).to_be_visible()


async def test_the_models_of_the_configuration_can_be_chosen(page: Page) -> None:
    options = page.get_by_role("combobox", name="Model").locator("option")
    await expect(options.first).to_have_text("auto")
    await expect(options).not_to_have_count(1)
    await page.get_by_role("combobox", name="Model").select_option("small")
    turn = await ask(page, a_new_question())
    await expect(turn.locator(".facts")).to_contain_text("sim-fast")


async def test_the_page_says_that_the_provider_is_simulated(page: Page) -> None:
    await expect(page.locator("#banner")).to_contain_text("a simulated provider answers")


async def test_the_page_may_load_and_call_its_own_origin_only(
    page: Page, gateway: GatewayProcess
) -> None:
    response = await page.request.get(gateway.url)
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy


async def test_savings_are_told_in_the_head(page: Page) -> None:
    question = a_new_question()
    await ask(page, question)
    await ask(page, question)
    await expect(page.locator("#savings")).to_contain_text("saved")
