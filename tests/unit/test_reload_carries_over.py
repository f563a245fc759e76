"""A reload of the configuration keeps what is true of the agents whatever the configuration."""

from __future__ import annotations

import asyncio

import anyio
import pytest
import yaml

from app.classify.features import extract
from app.domain.decisions import PromptView
from app.reloading import ReloadableApp
from app.settings import load
from tests.support.gateway import configuration

pytestmark = pytest.mark.anyio
VIEW = PromptView(text="hello", total_chars=5, tool_names=("get_ticket", "get_user"))


def expected(generation):
    """P(each tool is called), by the statistics of a gateway."""
    tools = generation.context.edge.gateway.classifier.tools
    return dict(tools.estimate(extract(VIEW), VIEW, "tenant")[0])


async def test_tool_call_statistics_survive_a_reload(tmp_path):
    file = tmp_path / "gateway.yaml"
    file.write_text(yaml.safe_dump(configuration("http://127.0.0.1:9")))
    swapped = anyio.Event()
    generations = ReloadableApp(
        load(str(file), {}),
        lambda: load(str(file), {}),
        simulated=False,
        on_swap=swapped.set,
        say=lambda _: None,
    )
    to_app: asyncio.Queue[dict] = asyncio.Queue()
    from_app: asyncio.Queue[dict] = asyncio.Queue()
    async with anyio.create_task_group() as group:
        to_app.put_nowait({"type": "lifespan.startup"})
        group.start_soon(generations, {"type": "lifespan"}, to_app.get, from_app.put)
        assert (await from_app.get())["type"] == "lifespan.startup.complete"
        before = generations._current
        unlearned = expected(before)
        tools = before.context.edge.gateway.classifier.tools
        for _ in range(40):
            guess = tools.estimate(extract(VIEW), VIEW, "tenant")[2]
            tools.observe(guess, ("get_user",))
        learned = expected(before)
        assert learned["get_user"] > 0.9 > unlearned["get_user"]
        generations._reload_requested.set()
        await swapped.wait()
        assert generations._current is not before
        assert expected(generations._current) == learned
        to_app.put_nowait({"type": "lifespan.shutdown"})
        assert (await from_app.get())["type"] == "lifespan.shutdown.complete"
