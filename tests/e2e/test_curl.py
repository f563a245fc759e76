"""Plain ``curl -N`` as a client: in each dialect, of models of either API, whole and streamed."""

from __future__ import annotations

import asyncio
import json
import shutil
from dataclasses import dataclass, field

import pytest

from app.providers.simulator import expected_answer
from tests.e2e.asking import DIALECTS, PATHS, body_of
from tests.e2e.conversations import (
    BOTH_KINDS,
    CHAT_TOOLS,
    EXPECTED_CALLS,
    MESSAGES_TOOLS,
    RESPONSES_TOOLS,
    TOOL_QUESTION,
    user,
)
from tests.support.gateway import Running

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl on the PATH"),
]
HTTP_ERROR = 22
"""curl's exit status for a status of 400 and above, under ``--fail-with-body``."""
TOOLS = {"chat": CHAT_TOOLS, "responses": RESPONSES_TOOLS, "messages": MESSAGES_TOOLS}
Json = dict[str, object]


async def curl(gateway: Running, path: str, body: object, *more: str) -> tuple[int, str]:
    """The exit status and what was printed; the body is read from standard input, as it is."""
    command = ["-sSN", "--fail-with-body", "--max-time", "60", *more, f"{gateway.url}{path}"]
    command += ["-H", "content-type: application/json", "--data-binary", "@-"]
    process = await asyncio.create_subprocess_exec(
        "curl", *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await process.communicate(json.dumps(body).encode())
    assert process.returncode is not None
    return process.returncode, printed.decode()


def events_of(dialect: str, stream: str) -> list[Json]:
    """The events of a stream, its framing held to the dialect's own."""
    assert stream.endswith("\n\n")
    frames = [frame for frame in stream.split("\n\n") if frame and not frame.startswith(":")]
    if dialect == "chat":
        assert frames.pop() == "data: [DONE]"
        return [json.loads(frame.removeprefix("data: ")) for frame in frames]
    events = []
    for frame in frames:
        name, data = frame.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    return events


@dataclass
class Said:
    """What a stream has said: text, tool calls by their places, and why it ended."""

    text: str = ""
    ended: str = ""
    called: dict[int, list[str]] = field(default_factory=dict)

    @property
    def calls(self) -> list[tuple[str, Json]]:
        """The calls in their order, with their arguments."""
        return [(name, json.loads(told)) for _, (name, told) in sorted(self.called.items())]

    def chat(self, event: Json) -> None:
        """Take a chunk."""
        for choice in event["choices"]:
            self.text += choice["delta"].get("content") or ""
            self.ended = choice["finish_reason"] or self.ended
            for call in choice["delta"].get("tool_calls", ()):
                function = call["function"]
                place = self.called.setdefault(call["index"], [function.get("name", ""), ""])
                place[1] += function.get("arguments", "")

    def responses(self, event: Json) -> None:
        """Take an event of Responses."""
        assert not self.ended, "nothing follows the end"
        match event["type"]:
            case "response.output_text.delta":
                self.text += event["delta"]
            case "response.output_item.added" if event["item"]["type"] == "function_call":
                self.called[event["output_index"]] = [event["item"]["name"], ""]
            case "response.function_call_arguments.delta":
                self.called[event["output_index"]][1] += event["delta"]
            case "response.completed":
                self.ended = "tool_use" if self.called else "end_turn"

    def messages(self, event: Json) -> None:
        """Take an event of Messages."""
        match event["type"]:
            case "content_block_start" if event["content_block"]["type"] == "tool_use":
                self.called[event["index"]] = [event["content_block"]["name"], ""]
            case "content_block_delta" if event["delta"]["type"] == "input_json_delta":
                self.called[event["index"]][1] += event["delta"]["partial_json"]
            case "content_block_delta":
                self.text += event["delta"]["text"]
            case "message_delta":
                self.ended = event["delta"]["stop_reason"]


def said(dialect: str, stream: str) -> Said:
    """What ``stream`` says, put together as a client must."""
    told = Said()
    for event in events_of(dialect, stream):
        getattr(told, dialect)(event)
    return told


def answered(dialect: str, answer: Json) -> tuple[str, list[tuple[str, Json]]]:
    """Text and tool calls of a whole answer."""
    if dialect == "chat":
        message = answer["choices"][0]["message"]
        called = [each["function"] for each in message.get("tool_calls") or ()]
        calls = [(each["name"], json.loads(each["arguments"])) for each in called]
        return message["content"] or "", calls
    if dialect == "responses":
        items = answer["output"]
        calls = [(i["name"], json.loads(i["arguments"])) for i in items if "arguments" in i]
        parts = [part for item in items for part in item.get("content", ())]
        return "".join(part["text"] for part in parts), calls
    blocks = answer["content"]
    calls = [(each["name"], each["input"]) for each in blocks if each["type"] == "tool_use"]
    return "".join(each.get("text", "") for each in blocks), calls


@pytest.mark.parametrize("model", BOTH_KINDS)
@pytest.mark.parametrize("dialect", DIALECTS)
async def test_an_answer_is_the_models_own_whole_and_streamed(gateway, dialect, model):
    question = f"What does curl see of {dialect} on {model}?"
    body = body_of(dialect, model, question)
    status, printed = await curl(gateway, PATHS[dialect], body)
    assert status == 0
    assert answered(dialect, json.loads(printed)) == (expected_answer(question, "sim-fast"), [])
    refresh = ("-H", "x-slipstream-cache: refresh")
    status, printed = await curl(gateway, PATHS[dialect], {**body, "stream": True}, *refresh)
    assert status == 0
    told = said(dialect, printed)
    assert (told.text, told.calls) == (expected_answer(question, "sim-fast"), [])
    assert told.ended in {"stop", "end_turn"}


@pytest.mark.parametrize("model", BOTH_KINDS)
@pytest.mark.parametrize("dialect", DIALECTS)
async def test_parallel_tool_calls_come_whole_and_streamed(gateway, dialect, model):
    body = body_of(dialect, model, TOOL_QUESTION, tools=TOOLS[dialect])
    status, printed = await curl(gateway, PATHS[dialect], body)
    assert status == 0
    assert answered(dialect, json.loads(printed))[1] == EXPECTED_CALLS
    status, printed = await curl(gateway, PATHS[dialect], {**body, "stream": True})
    assert status == 0
    told = said(dialect, printed)
    assert told.calls == EXPECTED_CALLS
    assert told.ended in {"tool_calls", "tool_use"}


@pytest.mark.parametrize("model", BOTH_KINDS)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_the_results_of_tools_reach_the_model(gateway, model, stream):
    """The round by hand: what was answered goes back as it came, with the results behind it."""
    body = body_of("chat", model, TOOL_QUESTION, tools=CHAT_TOOLS)
    _, printed = await curl(gateway, PATHS["chat"], body)
    message = json.loads(printed)["choices"][0]["message"]
    results = [
        {"role": "tool", "tool_call_id": call["id"], "content": f"result {number}"}
        for number, call in enumerate(message["tool_calls"])
    ]
    told = {**body, "messages": [*user(TOOL_QUESTION), message, *results], "stream": stream}
    status, printed = await curl(gateway, PATHS["chat"], told)
    assert status == 0
    text = said("chat", printed).text if stream else answered("chat", json.loads(printed))[0]
    assert "get_ticket says: result 0." in text
    assert "check_permissions says: result 1." in text


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_an_error_is_a_status_and_the_dialects_own_body(gateway, dialect):
    status, printed = await curl(gateway, PATHS[dialect], body_of(dialect, "none", "Hi"), "-i")
    assert status == HTTP_ERROR
    head, _, body = printed.partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 404")
    assert json.loads(body)["error"]["code"] == "model_not_found"


@pytest.mark.parametrize("expect", [True, False], ids=["after 100 Continue", "at once"])
async def test_a_long_prompt_is_taken(gateway, expect):
    """A client may ask leave before it sends a body; curl does for long ones."""
    question = "Say this back. " + "word " * 60_000
    headers = ("-H", "expect: 100-continue") if expect else ("-H", "expect:")
    status, printed = await curl(
        gateway, PATHS["chat"], body_of("chat", "small", question), *headers
    )
    assert status == 0
    assert answered("chat", json.loads(printed))[0] == expected_answer(question, "sim-fast")
