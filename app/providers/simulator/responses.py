"""`POST /v1/responses` as its server: requests read, responses written.

Responses are kept (the last thousand) so that `previous_response_id` continues a conversation, as
it does with the vendor unless `store` is false.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence

from app.providers.simulator import openai_prompt as shared
from app.providers.simulator.answer import Reply
from app.providers.simulator.diagnosis import Fingerprints
from app.providers.simulator.dialect import (
    Answer,
    Call,
    DialectName,
    Frame,
    dumps,
    openai_error,
    sse_event,
)
from app.providers.simulator.errors import RefusedError
from app.providers.simulator.fields import (
    JsonObject,
    as_object,
    check_number,
    flag,
    integer,
    optional_list,
    optional_object,
    optional_text,
    required,
)
from app.providers.simulator.profile import ModelChoice
from app.providers.simulator.prompt_cache import HALF_HOUR_S, TWELVE_HOURS_S
from app.providers.simulator.question import Entry, Limits, Question
from app.providers.simulator.responses_events import item_frames
from app.providers.simulator.responses_prompt import items_of, read_items

_KEPT_RESPONSES = 1_000
_LEAST_OUTPUT_TOKENS = 16
_ECHOED = (
    "instructions",
    "max_output_tokens",
    "max_tool_calls",
    "metadata",
    "previous_response_id",
    "prompt_cache_key",
    "safety_identifier",
    "user",
)


class ResponsesDialect:
    """OpenAI Responses."""

    name: DialectName = "responses"

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Sequence[JsonObject]] = OrderedDict()
        self._fingerprints = Fingerprints()

    def read(self, body: JsonObject, choice: ModelChoice) -> Call:
        """Check and understand a request body. Raises `RefusedError`."""
        check_number(body, "temperature", least=0, most=2)
        check_number(body, "top_p", least=0, most=1)
        prompt = shared.Prompt()
        rows = [as_object(t, f"tools[{i}]") for i, t in enumerate(optional_list(body, "tools"))]
        for index, row in enumerate(rows):
            if row.get("type") != "function":
                raise RefusedError(
                    f"Invalid value for 'tools[{index}].type': only 'function' is simulated.",
                    param=f"tools[{index}].type",
                )
        tools = [shared.read_tool(row, f"tools[{index}]") for index, row in enumerate(rows)]
        prompt.blocks += [shared.tool_block(row) for row in rows]
        instructions = optional_text(body, "instructions")
        if instructions:
            prompt.add(Entry("system", "text", instructions))
        conversation = self._conversation(body)
        read_items(prompt, conversation)
        parallel = flag(body, "parallel_tool_calls", default=True)
        reasoning = optional_object(body, "reasoning")
        question = Question(
            choice.profile,
            tuple(prompt.entries),
            tuple(tools),
            shared.read_tool_choice(body.get("tool_choice"), tools, parallel=parallel),
            Limits(integer(body, "max_output_tokens", least=_LEAST_OUTPUT_TOKENS)),
            shared.read_effort(reasoning.get("effort"), "reasoning.effort"),
            shared.read_format(optional_object(body, "text").get("format"), "text.format"),
        )
        options = optional_object(body, "prompt_cache_options")
        return Call(
            choice,
            question,
            body,
            flag(body, "stream", default=False),
            prompt.blocks,
            shared.cache_rules(body, prompt, choice.profile),
            shared.cache_scope(body, "text", "reasoning"),
            is_warm_up=options.get("prewarm") is True or body.get("generate") is False,
            conversation=conversation,
        )

    def document(self, answer: Answer) -> bytes:
        """The answer as one JSON body."""
        output = [] if answer.call.is_warm_up else _output(answer)
        self._keep(answer, output)
        return dumps({**_response(answer, _status(answer), output), **self._diagnosis(answer)})

    def frames(self, answer: Answer) -> Iterator[Frame]:
        """The answer as typed events with sequence numbers; the first two come at once."""
        opening = _response(answer, "in_progress", [])
        yield _numbered(0, {"type": "response.created", "response": opening}, is_early=True)
        yield _numbered(1, {"type": "response.in_progress", "response": opening}, is_early=True)
        output = [] if answer.call.is_warm_up else _output(answer)
        self._keep(answer, output)
        number = 2
        for index, item in enumerate(output):
            hidden = len(answer.reply.reasoning) if index == 0 else 0
            for frame in item_frames(item, index, number, answer.reply, hidden_tokens=hidden):
                yield frame
                number += bool(frame.data)
        status = _status(answer)
        ending = {
            "type": f"response.{status}",
            "sequence_number": number,
            "response": {**_response(answer, status, output), **self._diagnosis(answer)},
        }
        yield Frame(sse_event(ending))

    def _diagnosis(self, answer: Answer) -> dict[str, object]:
        call = answer.call
        told = self._fingerprints.of_responses(_response_id(answer), call.body, call.conversation)
        return {} if told is None else {"prompt_cache_diagnostics": told}

    def error_body(self, error: RefusedError, request_id: str) -> bytes:  # noqa: ARG002
        """The JSON body of an error status."""
        return openai_error(error)

    def error_frame(self, message: str, request_id: str, number: int) -> bytes:  # noqa: ARG002
        """An error within a stream that has begun."""
        return sse_event(
            {
                "type": "error",
                "sequence_number": number,
                "code": "server_error",
                "message": message,
                "param": None,
            }
        )

    def _conversation(self, body: JsonObject) -> list[JsonObject]:
        """The input items, behind those of the response that the request continues."""
        items = items_of(required(body, "input"))
        previous = optional_text(body, "previous_response_id")
        if previous is None:
            return items
        if previous not in self._kept:
            raise RefusedError(
                f"Previous response with id '{previous}' not found.",
                kind="not_found",
                param="previous_response_id",
            )
        return [*self._kept[previous], *items]

    def _keep(self, answer: Answer, output: Sequence[JsonObject]) -> None:
        if answer.call.body.get("store") is False:
            return
        self._kept[_response_id(answer)] = [*answer.call.conversation, *output]
        while len(self._kept) > _KEPT_RESPONSES:
            self._kept.popitem(last=False)


def _response_id(answer: Answer) -> str:
    return f"resp_{answer.serial}"


def _numbered(number: int, event: dict[str, object], *, is_early: bool) -> Frame:
    return Frame(sse_event({**event, "sequence_number": number}), is_early=is_early)


def _status(answer: Answer) -> str:
    return "incomplete" if answer.reply.finish == "length" else "completed"


def _output(answer: Answer) -> list[JsonObject]:
    """The output items: reasoning, then a message or function calls."""
    reply = answer.reply
    items: list[JsonObject] = []
    if reply.reasoning:
        items.append(_reasoning_item(answer))
    if reply.text:
        items.append(
            {
                "id": f"msg_{answer.serial}",
                "type": "message",
                "status": _status(answer),
                "role": "assistant",
                "content": [_content_part(reply)],
            }
        )
    items += [
        {
            "id": f"fc_{answer.serial}{index:02d}",
            "type": "function_call",
            "status": "completed",
            "call_id": f"call_{call.id}",
            "name": call.name,
            "arguments": call.arguments,
        }
        for index, call in enumerate(reply.calls)
    ]
    return items


def _reasoning_item(answer: Answer) -> JsonObject:
    wanted = optional_object(answer.call.body, "reasoning").get("summary")
    text = "".join(answer.reply.reasoning)
    summary = [] if wanted is None else [{"type": "summary_text", "text": text}]
    item: dict[str, object] = {
        "id": f"rs_{answer.serial}",
        "type": "reasoning",
        "summary": summary,
    }
    if "reasoning.encrypted_content" in optional_list(answer.call.body, "include"):
        item["encrypted_content"] = f"sim{answer.call.question.digest.hex()}"
    return item


def _content_part(reply: Reply) -> JsonObject:
    text = "".join(reply.text)
    if reply.finish == "refusal":
        return {"type": "refusal", "refusal": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _response(answer: Answer, status: str, output: Sequence[JsonObject]) -> dict[str, object]:
    body = answer.call.body
    is_final = status != "in_progress"
    reasoning = optional_object(body, "reasoning")
    options = optional_object(body, "prompt_cache_options")
    return {
        "id": _response_id(answer),
        "object": "response",
        "created_at": answer.created_s,
        "completed_at": answer.created_s if status == "completed" else None,
        "status": status,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "model": answer.call.choice.requested,
        "output": output,
        "parallel_tool_calls": answer.call.question.tool_choice.parallel,
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": body.get("tools") or [],
        "temperature": body.get("temperature", 1.0),
        "top_p": body.get("top_p", 1.0),
        "reasoning": {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")},
        "text": body.get("text") or {"format": {"type": "text"}},
        "truncation": body.get("truncation") or "disabled",
        "store": body.get("store") is not False,
        "background": False,
        "service_tier": "default",
        "prompt_cache_options": {
            "mode": options.get("mode", "implicit"),
            "ttl": options.get("ttl", "30m"),
        },
        "usage": _usage(answer) if is_final else None,
        **{name: body.get(name) for name in _ECHOED},
    }


def _usage(answer: Answer) -> dict[str, object]:
    use = answer.use
    return {
        "input_tokens": use.total_tokens,
        "input_tokens_details": {
            "cached_tokens": use.read_tokens,
            "cache_write_tokens": use.all_written_tokens,
            "cache_write_tokens_details": {
                "ttl_30m_tokens": use.written_tokens.get(HALF_HOUR_S, 0),
                "ttl_12h_tokens": use.written_tokens.get(TWELVE_HOURS_S, 0),
            },
        },
        "output_tokens": answer.output_tokens,
        "output_tokens_details": {"reasoning_tokens": answer.reasoning_tokens},
        "total_tokens": use.total_tokens + answer.output_tokens,
    }
