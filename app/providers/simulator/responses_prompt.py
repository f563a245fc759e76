"""Reading the `input` of `POST /v1/responses`: items of many types, in one flat row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from app.providers.simulator.errors import RefusedError
from app.providers.simulator.fields import JsonObject, as_list, as_object, as_text, missing
from app.providers.simulator.openai_prompt import Prompt
from app.providers.simulator.question import Role

_ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}


def items_of(value: object) -> list[JsonObject]:
    """The input as a row of items: a string is one user message. Raises `RefusedError`."""
    if isinstance(value, str):
        return [{"type": "message", "role": "user", "content": value}]
    items = as_list(value, "input")
    if not items:
        raise RefusedError("Invalid 'input': the array is empty.", param="input")
    return [as_object(item, f"input[{index}]") for index, item in enumerate(items)]


def read_items(prompt: Prompt, items: Sequence[JsonObject]) -> None:
    """Append every item to the prompt, and check that calls and their outputs belong together."""
    waiting: set[str] = set()
    for index, item in enumerate(items):
        path = f"input[{index}]"
        kind = item.get("type", "message")
        read = _READERS.get(kind) if isinstance(kind, str) else None
        if read is None:
            known = ", ".join(sorted(_READERS))
            raise RefusedError(
                f"Invalid value for '{path}.type': '{kind}'; the simulator knows: {known}.",
                param=f"{path}.type",
            )
        read(prompt, item, path, waiting)
    if waiting:
        raise RefusedError(
            f"No tool output found for function call {', '.join(sorted(waiting))}.", param="input"
        )


def _read_message(prompt: Prompt, item: JsonObject, path: str, waiting: set[str]) -> None:
    del waiting
    role = as_text(item.get("role"), f"{path}.role")
    if role not in _ROLES:
        raise RefusedError(
            f"Invalid value for '{path}.role': '{role}'; supported are: assistant, developer, "
            "system, user.",
            param=f"{path}.role",
        )
    if "content" not in item:
        raise missing(f"{path}.content")
    prompt.add_content(_ROLES[role], item["content"], f"{path}.content")


def _read_call(prompt: Prompt, item: JsonObject, path: str, waiting: set[str]) -> None:
    call_id = as_text(item.get("call_id"), f"{path}.call_id")
    name = as_text(item.get("name"), f"{path}.name")
    prompt.add_call(call_id, name, as_text(item.get("arguments"), f"{path}.arguments"))
    waiting.add(call_id)


def _read_output(prompt: Prompt, item: JsonObject, path: str, waiting: set[str]) -> None:
    call_id = as_text(item.get("call_id"), f"{path}.call_id")
    if call_id not in waiting:
        raise RefusedError(
            f"No tool call found for function call output with call_id {call_id}.", param="input"
        )
    if "output" not in item:
        raise missing(f"{path}.output")
    waiting.discard(call_id)
    prompt.add_result(call_id, item["output"], f"{path}.output")


def _read_reasoning(prompt: Prompt, item: JsonObject, path: str, waiting: set[str]) -> None:
    """Earlier reasoning is accepted and does not bear on the answer."""
    del prompt, waiting
    as_list(item.get("summary"), f"{path}.summary")


_READERS: Mapping[str, Callable[[Prompt, JsonObject, str, set[str]], None]] = {
    "message": _read_message,
    "function_call": _read_call,
    "function_call_output": _read_output,
    "reasoning": _read_reasoning,
}
