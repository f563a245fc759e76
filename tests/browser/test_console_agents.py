"""Runs of agents as cards, in a real Chromium: the real gateway, scripted models, real tools."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from typing import TYPE_CHECKING

import pytest
from playwright.async_api import expect

from app.providers.simulator import SimulatorSettings, running_simulator
from bench.chaos.proxy import FaultProxy
from tests.browser.conftest import well_behaved
from tests.e2e.agent.test_agent_loop import agent, echo, tool, two_calls
from tests.support.gateway import Running, running_gateway
from tests.support.scripted_model import Script, Speaking, scripted_model
from tests.support.tool_server import Asked, ToolServer, tool_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from playwright.async_api import Browser, Locator, Page

pytestmark = pytest.mark.browser
PATIENCE_S = 20.0


@contextlib.asynccontextmanager
async def desk(
    script: Script = two_calls, *, a=None, b=None, tools=None, **more: object
) -> AsyncIterator[tuple[Running, ToolServer]]:
    """A gateway with the agent ``desk`` and the tools ``a`` and ``b``."""
    async with (
        tool_server({"/a/": a or echo(), "/b/": b or echo()}) as served,
        scripted_model(script) as model,
    ):
        declared = [tool("a", served.url), tool("b", served.url, **(tools or {}))]
        async with running_gateway(agent(model.url, declared, **more)) as gateway:
            yield gateway, served


def held(until: asyncio.Event):
    """A tool that answers when it is told to."""

    async def route(asked: Asked) -> None:
        await until.wait()
        await asked.answer({"got": asked.target})

    return route


async def begin(page: Page, task: str = "look them up") -> Locator:
    await page.get_by_label("Task").fill(task)
    await page.get_by_role("button", name="Run", exact=True).click()
    return page.locator(".run")


def call(run: Locator, name: str) -> Locator:
    heading = run.page.get_by_role("heading", name=name, exact=True)
    return run.locator("li.call", has=heading)


@contextlib.asynccontextmanager
async def view(chromium: Browser, url: str) -> AsyncIterator[Page]:
    async with well_behaved(chromium, f"{url}/#agents-view") as seen:
        await expect(seen.page.get_by_label("Agent", exact=True)).to_have_value("desk")
        yield seen.page


async def test_cards_fill_as_steps_complete_and_the_critical_path_is_marked(
    chromium: Browser,
) -> None:
    slow = asyncio.Event()
    async with desk(b=held(slow)) as (gateway, _), view(chromium, gateway.url) as page:
        run = await begin(page)
        first = run.locator("li.card").first
        await expect(first).to_contain_text("One moment.")
        await expect(call(run, "a")).to_contain_text("done")
        await expect(call(run, "a").locator(".arguments")).to_have_text('{ "id": "1" }')
        await expect(call(run, "a").locator(".result")).to_contain_text("/a/1")
        await expect(call(run, "b")).to_have_attribute("data-state", "running")
        await expect(run.locator(".run-status")).to_have_text("Looking up 2 with b…")
        await expect(run.locator("li.card")).to_have_count(1)
        slow.set()
        await expect(run).to_have_attribute("data-state", "finished")
        await expect(run.locator("li.card").nth(1)).to_contain_text("All done.")
        await expect(run).to_have_attribute("data-settled", "")
        await expect(call(run, "b")).to_contain_text("on the critical path for")
        await expect(call(run, "a").locator(".path")).to_be_hidden()
        await expect(run.locator(".waterfall li[data-critical]", has_text="(b)")).to_have_count(1)
        await expect(run.locator(".waterfall li", has_text="(a)")).to_have_count(1)
        await expect(run.locator(".run-summary")).to_contain_text("Finished after")


async def test_a_sub_agent_is_a_card_with_cards_of_its_own(chromium: Browser) -> None:
    async def play(speaking: Speaking) -> None:
        messages = speaking.body["messages"]
        if messages[-1]["role"] == "tool":
            await speaking.text("Summed up.")
            await speaking.finish()
        elif messages[0]["content"] == "You scout.":
            await speaking.call(0, "a", '{"id": "7"}')
            await speaking.finish("tool_calls")
        else:
            await speaking.call(0, "ask_scout", json.dumps({"task": "thing"}))
            await speaking.finish("tool_calls")

    async with tool_server({"/a/": echo()}) as tools, scripted_model(play) as model:
        values = agent(model.url, [tool("a", tools.url)], agents=["scout"])
        scout = {"name": "scout", "system": "You scout.", "model": "small", "tools": ["a"]}
        values["agents"] = [*values["agents"], scout]  # type: ignore[misc]
        async with running_gateway(values) as gateway, view(chromium, gateway.url) as page:
            run = await begin(page)
            await expect(run).to_have_attribute("data-state", "finished")
            sub = run.locator("li.call.sub")
            await expect(sub).to_contain_text("scout (sub-agent)")
            await expect(sub.locator("li.call")).to_contain_text("/a/7")
            await expect(sub.locator(".say")).to_have_text("Summed up.")
            # the cards and the waterfall are of one mind, also about what a sub-agent's models took
            await expect(run).to_have_attribute("data-settled", "")
            await expect(sub.locator(".path").first).to_contain_text("on the critical path")
            bars = run.locator(".waterfall li[data-critical]", has_text="ask_scout")
            await expect(bars).to_have_count(1)
            for card in await run.locator("li.card").all():
                await expect(card.locator(".path").first).to_contain_text("on the critical path")


async def test_a_lost_connection_is_rejoined_and_nothing_is_missed_or_repeated(
    chromium: Browser,
) -> None:
    slow = asyncio.Event()
    async with desk(b=held(slow)) as (gateway, _):
        port = int(gateway.url.rpartition(":")[2])
        async with (
            FaultProxy(port) as proxy,
            view(chromium, f"http://127.0.0.1:{proxy.port}") as page,
        ):
            joined: list[str | None] = []

            async def note(request) -> None:
                if "/events" in request.url:
                    joined.append(await request.header_value("last-event-id"))

            page.on("request", note)
            run = await begin(page)
            await expect(call(run, "a")).to_contain_text("done")
            proxy.drop()
            await expect(run.locator(".note")).to_have_text(
                "Rejoined where the connection broke off."
            )
            slow.set()
            await expect(run).to_have_attribute("data-state", "finished")
            await expect(run.locator("li.card")).to_have_count(2)
            await expect(run.locator("li.call")).to_have_count(2)
            await expect(run.locator(".say")).to_have_text(["One moment.", "All done."])
            assert joined
            assert re.fullmatch(r"console-\w+:\d+", joined[0] or "")


async def test_a_reload_finds_the_run_again(chromium: Browser) -> None:
    slow = asyncio.Event()
    async with desk(b=held(slow)) as (gateway, _), view(chromium, gateway.url) as page:
        run = await begin(page)
        await expect(call(run, "a")).to_contain_text("done")
        await page.reload()
        await expect(call(run, "a")).to_contain_text("done")
        slow.set()
        await expect(run.locator(".say")).to_have_text(["One moment.", "All done."])
        await expect(run).to_have_attribute("data-settled", "")


async def test_the_cancel_button_stops_the_run_and_its_tools(chromium: Browser) -> None:
    gone = asyncio.Event()

    async def hang(asked: Asked) -> None:
        await asked.until_gone()
        gone.set()

    async with desk(b=hang) as (gateway, _), view(chromium, gateway.url) as page:
        run = await begin(page)
        await expect(call(run, "b")).to_have_attribute("data-state", "running")
        await page.get_by_role("button", name="Cancel the run").click()
        await expect(run).to_have_attribute("data-state", "cancelled")
        await asyncio.wait_for(gone.wait(), PATIENCE_S)
        await expect(call(run, "b")).to_contain_text("cancelled")
        await expect(page.get_by_role("button", name="Cancel the run")).to_be_hidden()


async def test_an_approval_is_asked_for_by_the_keyboard_and_the_run_goes_on(
    chromium: Browser,
) -> None:
    async with (
        desk(tools={"approval": True}) as (gateway, tools),
        view(chromium, gateway.url) as page,
    ):
        run = await begin(page)
        await expect(run).to_have_attribute("data-state", "interrupted")
        assert [target for target in tools.targets() if target.startswith("/b/")] == []
        form = page.get_by_role("form", name="Approval of b")
        await expect(form).to_contain_text("Allow b? Looking up 2 with b…")
        await expect(form.get_by_role("button", name="Approve")).to_be_focused()
        await form.get_by_text("Change the arguments").click()
        await form.get_by_label("Arguments as JSON").fill("{")
        await form.get_by_role("button", name="Approve").click()
        await expect(form.get_by_role("alert")).to_have_text("The arguments are not JSON.")
        await form.get_by_label("Arguments as JSON").fill('{"id": "9"}')
        await form.get_by_role("button", name="Approve").press("Enter")
        await expect(run).to_have_attribute("data-state", "finished")
        await expect(call(run, "b").locator(".result")).to_contain_text("/b/9")
        await expect(run.locator(".say").last).to_have_text("All done.")
        assert [target for target in tools.targets() if target.startswith("/b/")] == ["/b/9"]


async def test_what_a_person_declines_is_not_made(chromium: Browser) -> None:
    async with (
        desk(tools={"approval": True}) as (gateway, tools),
        view(chromium, gateway.url) as page,
    ):
        run = await begin(page)
        form = page.get_by_role("form", name="Approval of b")
        await form.get_by_label("Reason").fill("not now")
        await form.get_by_role("button", name="Decline").click()
        await expect(run).to_have_attribute("data-state", "finished")
        await expect(call(run, "b")).to_contain_text("declined this call: not now")
        assert [target for target in tools.targets() if target.startswith("/b/")] == []


async def test_a_run_that_fails_says_so_in_words_with_its_code(chromium: Browser) -> None:
    async def hangs_up(speaking: Speaking) -> None:
        speaking.asked.writer.transport.abort()

    async with desk(hangs_up) as (gateway, _), view(chromium, gateway.url) as page:
        run = await begin(page)
        await expect(run).to_have_attribute("data-state", "failed")
        await expect(run.get_by_role("alert").locator("code")).to_have_text(re.compile("upstream"))


async def test_a_workflow_and_the_simulated_model_fill_cards_too(chromium: Browser) -> None:
    workflow = [
        {"id": "one", "tool": "a", "arguments": {"id": "{{input}}"}},
        {"id": "two", "tool": "b", "arguments": {"id": "{{one.got}}"}},
    ]
    async with (
        running_simulator(SimulatorSettings(time_scale=0.01)) as upstream,
        tool_server({"/a/": echo(), "/b/": echo()}) as tools,
        running_gateway(
            agent(upstream, [tool("a", tools.url), tool("b", tools.url)], workflow=workflow)
        ) as gateway,
        view(chromium, gateway.url) as page,
    ):
        run = await begin(page, "INC-1")
        await expect(run).to_have_attribute("data-state", "finished")
        flow = run.locator("li.card").first
        await expect(flow.locator("h4").first).to_have_text("Workflow")
        await expect(flow.locator("li.call")).to_have_count(2)
        await expect(run.locator("li.card").nth(1)).to_contain_text("Model call 1")


async def test_without_agents_the_view_says_where_they_are_declared(
    chromium: Browser, gateway
) -> None:
    async with well_behaved(chromium, f"{gateway.url}/#agents-view") as seen:
        await expect(seen.page.locator("#agents-empty")).to_contain_text("No agent is configured")
        await expect(seen.page.locator("#agent-form")).to_be_hidden()
