"""The Vercel AI SDK from npm, run by node: three providers, each over both kinds of upstream."""

from __future__ import annotations

import asyncio
import json

import pytest

from app.providers.simulator import expected_answer
from tests.e2e.conversations import BOTH_KINDS, EXPECTED_CALLS
from tests.support.node_packages import NODE_FOLDER, node_packages

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.slow,
    pytest.mark.parametrize("model", BOTH_KINDS),
    pytest.mark.parametrize("way", ["chat", "responses", "messages"]),
]


@pytest.fixture(scope="module")
async def told(gateway):
    """What the script said of every task; run once for the module."""
    await asyncio.to_thread(node_packages)
    process = await asyncio.create_subprocess_exec(
        "node",
        "vercel.mjs",
        gateway.url,
        cwd=NODE_FOLDER,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 50)
    assert process.returncode == 0, err.decode()
    return json.loads(out)


async def test_whole_and_streamed_answers_are_the_models_own(told, way, model):
    wanted = expected_answer("What is TCP?", "sim-fast", system="Be brief.")
    whole, streamed = told[f"{way} {model} whole"], told[f"{way} {model} streamed"]
    assert whole.get("text") == wanted, whole
    assert streamed.get("text") == wanted, streamed
    assert streamed["pieces"] > 10
    assert whole["finishReason"] == streamed["finishReason"] == "stop"
    assert whole["usage"] == streamed["usage"]
    assert whole["usage"]["input"] > 0 < whole["usage"]["output"]


@pytest.mark.parametrize("task", ["tools", "streamedTools"])
async def test_the_tool_loop_runs_to_its_end(told, way, model, task):
    said = told[f"{way} {model} {task}"]
    assert [tuple(call) for call in said.get("calls", ())] == EXPECTED_CALLS, said
    assert said["steps"] == 2
    assert "get_ticket says: INC-4821 is open." in said["text"]
    assert "check_permissions says: u-123 may close it." in said["text"]


async def test_an_object_has_the_schemas_form(told, way, model):
    said = told[f"{way} {model} object"]
    assert isinstance(said.get("title"), str), said
    assert isinstance(said["count"], int)


async def test_an_answer_that_was_cut_says_so(told, way, model):
    assert told[f"{way} {model} cut"] == {"finishReason": "length"}


async def test_a_picture_is_taken(told, way, model):
    said = told[f"{way} {model} picture"]
    assert "What is on it?" in said.get("text", ""), said


async def test_a_stream_may_be_left(told, way, model):
    said = told[f"{way} {model} aborted"]
    assert said.get("pieces", 0) >= 2, said


async def test_an_unknown_model_is_the_packages_own_error(told, way, model):
    said = told[f"{way} {model} unknownModel"]
    assert (said.get("name"), said.get("status")) == ("AI_APICallError", 404), said
    assert "no-such-model" in said["message"]
