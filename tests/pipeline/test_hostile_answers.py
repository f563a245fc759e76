"""What a model was made to say must not end a request, or what runs beside the requests."""

from __future__ import annotations

import pytest

from app.domain.chat import ChatRequest, Dialect
from app.domain.events import Answer, FinishReason, TextBlock, ToolCallBlock
from app.domain.usage import Usage
from app.operator_checks import check_of
from app.pipeline.answer_checks import operator_check_fault, schema_fault
from app.routing.escalation import OperatorCheck
from app.settings import AnswerCheckSettings
from app.wire.codecs import CODECS

pytestmark = pytest.mark.anyio
NESTED = "[" * 200_000


class _Codecs:
    codecs = CODECS


def an_answer(*blocks: TextBlock | ToolCallBlock) -> Answer:
    return Answer("1", "m", blocks, FinishReason.STOP, Usage(), 0)


def asked(**more: object) -> ChatRequest:
    body = {"model": "auto", "messages": [{"role": "user", "content": "Answer in JSON."}], **more}
    return ChatRequest(Dialect.CHAT, "auto", False, body, b"")  # noqa: FBT003


@pytest.mark.parametrize("answer", [NESTED, '{"a":' * 100_000, "\ud800", ""])
@pytest.mark.parametrize(
    "rule", [{"json_schema": {"type": "object"}}, {"pattern": "^yes$"}], ids=str
)
async def test_an_operators_check_finds_fault_with_any_text_and_never_fails(rule, answer):
    check = check_of(AnswerCheckSettings(name="mine", **rule), None)
    name, fault = await operator_check_fault(
        (OperatorCheck("mine", check, 1.0),), "question", answer
    )
    assert name == "mine"
    assert fault


def test_json_nested_beyond_reading_breaks_the_schema_and_not_the_request():
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    fault = schema_fault(asked(response_format=form), an_answer(TextBlock(NESTED)), _Codecs())
    assert fault.startswith("it is not JSON")


def test_arguments_nested_beyond_reading_break_the_tools_schema_and_not_the_request():
    parameters = {"type": "object", "properties": {}}
    tools = [{"type": "function", "function": {"name": "f", "parameters": parameters}}]
    fault = schema_fault(asked(tools=tools), an_answer(ToolCallBlock("1", "f", NESTED)), _Codecs())
    assert fault.startswith("the arguments of f are not JSON")
