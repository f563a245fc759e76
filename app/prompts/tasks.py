"""Many small tasks in one prompt, and their answers out of one answer.

Tasks with the same system prompt are told as a JSON array behind it; the system prompt itself stays in
front as it is, so that the vendor's cache reads it. Whatever cannot surely be told so is no task of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec

from app.domain.chat import Conversation, JsonOutput, Message, Role, TextPart
from app.domain.events import Answer, FinishReason
from app.domain.usage import Usage

_EACH_TOKENS = 16
"""What an answer's place in the array takes beside the answer."""
_CHARS_PER_TOKEN = 8
"""No answer of so many characters a token of its task's limit is let through."""
_INSTRUCTION = (
    "The user message is a JSON array of independent tasks, each with id and text. Do each task alone, "
    "as if it were the only message of the user: nothing in one task's text has a say in another's. "
)
_AS_OBJECT = (
    'Answer with one JSON object {"answers": [...]} that holds for every task '
    '{"id": its id, "answer": its answer}.'
)
_AS_ARRAY = (
    "Answer with a JSON array only, without a word around it, that holds for every task "
    '{"id": its id, "answer": its answer}.'
)


@dataclass(frozen=True, slots=True)
class Task:
    """One request, as a part of a batch."""

    text: str
    """What its user says."""
    shared: Conversation
    """All the rest: equal for the tasks that may go together."""

    @property
    def together(self) -> str:
        """What tells the groups apart."""
        return repr(self.shared)

    @property
    def schema(self) -> Mapping[str, object] | None:
        """The form of the answer, where the client gave one."""
        return None if self.shared.json_output is None else self.shared.json_output.schema


def task_of(conversation: Conversation, most_chars: int) -> Task | None:
    """``conversation`` as a task; None where it is more than a short text behind a system prompt."""
    *before, last = conversation.messages or (Message(Role.SYSTEM, ()),)
    sampling, form = conversation.sampling, conversation.json_output
    texts = [part.text for part in last.parts if isinstance(part, TextPart)]
    if (
        last.role is not Role.USER
        or last.name
        or not before
        or any(message.role is not Role.SYSTEM for message in before)
        or len(texts) != len(last.parts)
        or sum(map(len, texts)) > most_chars
        or conversation.tools
        or conversation.metadata is not None
        or sampling.stop
        or sampling.thinking_budget_tokens
        or sampling.adaptive_thinking
        or sampling.max_tokens == 0
        or (
            form is not None
            and (form.schema is None or b"$ref" in msgspec.json.encode(form.schema))
        )
    ):
        return None
    return Task("\n".join(texts), replace(conversation, messages=tuple(before)))


def batch_conversation(tasks: Sequence[Task], *, structured: bool) -> Conversation:
    """One conversation that asks all of ``tasks``, which go together.

    ``structured``: the model takes a JSON schema for its answer; else it is asked for an array in words.
    """
    shared, schema = tasks[0].shared, tasks[0].schema
    instruction = _INSTRUCTION + (_AS_OBJECT if structured else _AS_ARRAY)
    if schema is not None and not structured:
        instruction += f" Each answer is of the JSON Schema {msgspec.json.encode(schema).decode()}"
    texts = [{"id": number, "task": task.text} for number, task in enumerate(tasks)]
    limit = shared.sampling.max_tokens
    if limit is not None:
        limit = len(tasks) * (limit + _EACH_TOKENS) + _EACH_TOKENS
    asked = (
        Message(Role.SYSTEM, (TextPart(instruction),)),
        Message(Role.USER, (TextPart(msgspec.json.encode(texts).decode()),)),
    )
    return replace(
        shared,
        messages=(*shared.messages, *asked),
        sampling=replace(shared.sampling, max_tokens=limit),
        json_output=JsonOutput(_form(schema), "answers", strict=True) if structured else None,
    )


def _form(schema: Mapping[str, object] | None) -> dict[str, object]:
    each: dict[str, object] = {"id": {"type": "integer"}, "answer": schema or {"type": "string"}}
    return _object({"answers": {"type": "array", "items": _object(each)}})


def _object(properties: dict[str, object]) -> dict[str, object]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def split_answers(answer: Answer | None, tasks: Sequence[Task]) -> list[str | None]:
    """Each task's answer; None where the batch's answer does not hold it exactly once and in its form."""
    missing: list[str | None] = [None] * len(tasks)
    if answer is None or answer.finish is not FinishReason.STOP or answer.tool_calls:
        return missing
    try:
        told = msgspec.json.decode(answer.text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return missing
    given = told.get("answers") if isinstance(told, dict) else told
    if not isinstance(given, list) or not all(isinstance(each, dict) for each in given):
        return missing
    ids = [each.get("id") for each in given]
    found = list(missing)
    for number, each in zip(ids, given, strict=True):
        # True is 1 to Python, and no id.
        if type(number) is int and 0 <= number < len(tasks) and ids.count(number) == 1:
            found[number] = _text(each.get("answer"), tasks[number])
    return found


def _text(value: object, task: Task) -> str | None:
    """One answer as its client would have read it."""
    if task.schema is not None:
        text = None if value is None else msgspec.json.encode(value).decode()
    else:
        text = value if isinstance(value, str) and value else None
    most = task.shared.sampling.max_tokens
    return None if text is None or (most and len(text) > most * _CHARS_PER_TOKEN) else text


def split_usage(usage: Usage, weights: Sequence[int]) -> list[Usage]:
    """``usage`` by ``weights``; the parts add up to it exactly."""
    columns = [
        _shares(tokens, weights)
        for tokens in (
            usage.input_tokens,
            usage.cached_tokens,
            usage.cache_write_tokens,
            usage.output_tokens,
            usage.reasoning_tokens,
        )
    ]
    return [Usage(*row) for row in zip(*columns, strict=True)]


def _shares(tokens: int, weights: Sequence[int]) -> list[int]:
    """Whole numbers in proportion: each part is the step of the rounded running sum."""
    total, running, told = max(1, sum(weights)), 0, 0
    shares = []
    for weight in weights:
        running += weight
        share = tokens * running // total - told
        told += share
        shares.append(share)
    return shares
