"""Check a whole answer against the request's schema and the operator's checks.

A check returns "" for a good answer, else the fault in words, which the fast model is given in a retry.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec
import re2

from app.domain.chat import ChatRequest, Conversation, Json
from app.domain.events import Answer
from app.errors import GatewayError, Unsupported
from app.pipeline.gateway import Gateway
from app.routing.escalation import OperatorCheck

if TYPE_CHECKING:
    from jsonschema import ValidationError

_MOST_CHARS = 400


async def operator_check_fault(
    checks: Sequence[OperatorCheck], question: str, answer: str
) -> tuple[str, str]:
    """The name of the first check that finds a fault, and the fault; two empty strings where none does.

    A check that fails or times out finds nothing: it must not cost the client the answer.
    """
    for own in checks:
        try:
            async with asyncio.timeout(own.timeout_s):
                fault = await own.check(question, answer)
        except (TimeoutError, GatewayError):
            continue
        if fault:
            return own.name, fault[:_MOST_CHARS]
    return "", ""


def schema_fault(request: ChatRequest, answer: Answer, gateway: Gateway) -> str:
    """The violation of the answer's schema, or of a called tool's; "" where there is none."""
    if not answer.tool_calls and not _requests_structured_output(request.body):
        return ""
    try:
        conversation = gateway.codecs[request.dialect].read(request.body)
    except Unsupported:
        return ""
    return _tool_call_fault(conversation, answer) or _json_fault(conversation, answer)


def _requests_structured_output(body: Json) -> bool:
    return any(
        name in body for name in ("response_format", "text", "output_config", "output_format")
    )


def _json_fault(conversation: Conversation, answer: Answer) -> str:
    form = conversation.json_output
    if form is None or answer.tool_calls:
        return ""
    try:
        value = json.loads(answer.text)
    except (ValueError, RecursionError) as exc:
        return f"it is not JSON: {exc}"
    return "" if form.schema is None else schema_violation(value, form.schema)


def _tool_call_fault(conversation: Conversation, answer: Answer) -> str:
    tools = {tool.name: tool for tool in conversation.tools}
    for call in answer.tool_calls:
        tool = tools.get(call.name)
        if tool is None:
            return f"it calls {call.name[:80]!r}, which is not among the tools"
        try:
            arguments = json.loads(call.arguments or "{}")
        except (ValueError, RecursionError) as exc:
            return f"the arguments of {call.name} are not JSON: {exc}"
        fault = schema_violation(arguments, tool.parameters) if tool.parameters else ""
        if fault:
            return f"the arguments of {call.name} do not fit: {fault}"
    return ""


def schema_violation(value: object, schema: Json) -> str:
    """The first violation of ``schema`` by ``value``; "" where there is none, or the schema is invalid.

    The schema is a client's: patterns are matched in linear time, and references are not fetched.
    """
    import jsonschema  # 60 ms to import: not without structured answers
    import referencing
    from jsonschema.exceptions import best_match

    own = {"pattern": _pattern, "patternProperties": None}
    of_clients = jsonschema.validators.extend(jsonschema.Draft202012Validator, own)  # type: ignore[no-untyped-call]
    validator = of_clients(schema, registry=referencing.Registry())
    try:
        found = best_match(validator.iter_errors(value))
    except (
        jsonschema.SchemaError,
        jsonschema.exceptions.UnknownType,
        referencing.exceptions.Unresolvable,
        RecursionError,
        TypeError,
        KeyError,
        AttributeError,
        ValueError,
    ):
        return ""
    return "" if found is None else f"{found.json_path}: {found.message}"[:_MOST_CHARS]


def _pattern(
    _validator: object, pattern: str, instance: object, _schema: object
) -> Iterator[ValidationError]:
    from jsonschema import ValidationError

    if not isinstance(instance, str):
        return
    try:
        fits = re2.search(pattern, instance) is not None
    except re2.error:
        return  # e.g. look-around, which re2 lacks: left to the vendor
    if not fits:
        yield ValidationError(f"{instance[:80]!r} does not match {pattern[:80]!r}")


def retry_request(request: ChatRequest, answer: Answer, fault: str) -> ChatRequest:
    """``request`` with the fault of ``answer`` as one more user turn."""
    text_or_calls = answer.text or "; ".join(f"{c.name}({c.arguments})" for c in answer.tool_calls)
    text = (
        f"Your last answer cannot be used: {fault}.\nIt was:\n{text_or_calls[:4_000]}\n"
        "Answer again, with that mended and nothing else changed."
    )
    turns = "input" if "input" in request.body else "messages"
    before = request.body.get(turns)
    if isinstance(before, str):
        before = [{"role": "user", "content": before}]
    items = list(before) if isinstance(before, list) else []
    body: Json = {**request.body, turns: [*items, {"role": "user", "content": text}]}
    return request.with_body(body, msgspec.json.encode(body))
