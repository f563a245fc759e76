"""Conversations that are kept at the server (`message-threads-2026-08-12`): a turn sends only what is new.

`thread: {type: create}` begins one, `{type: continue, previous_message_id}` goes on behind an answer, with
the fields that the thread was created with. As with the vendor, an answer that is not known, or not any more,
is a `thread_not_found`, after which the official client sends the whole history again.
"""

from __future__ import annotations

from collections import OrderedDict

from app.providers.simulator.errors import RefusedError
from app.providers.simulator.fields import JsonObject, as_text, optional_list, optional_object

_MOST_KEPT = 1_024
_OF_ONE_TURN = frozenset({"messages", "thread", "stream", "max_tokens", "model"})


class Threads:
    """What was said in threads, by the id of the last answer."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, JsonObject] = OrderedDict()

    def whole(self, body: JsonObject) -> JsonObject:
        """`body` with all that its thread holds. Raises `RefusedError`."""
        thread = optional_object(body, "thread")
        if not thread or thread.get("type") == "create":
            return body
        if thread.get("type") != "continue":
            raise RefusedError("thread.type: Input should be 'create' or 'continue'")
        last = as_text(thread.get("previous_message_id"), "thread.previous_message_id")
        kept = self._kept.get(last)
        if kept is None:
            message = f"thread.previous_message_id: no message {last!r} is stored"
            details: dict[str, object] = {"error_code": "thread_not_found"}
            raise RefusedError(message, kind="not_found", status=404, details=details)
        messages = [*optional_list(kept, "messages"), *optional_list(body, "messages")]
        return {**kept, **body, "messages": messages}

    def keep(self, message_id: str, body: JsonObject, content: list[dict[str, object]]) -> None:
        """Put down an answer to `body`, where it belongs to a thread."""
        if not body.get("thread"):
            return
        said = [*optional_list(body, "messages"), {"role": "assistant", "content": content}]
        fields = {name: value for name, value in body.items() if name not in _OF_ONE_TURN}
        self._kept[message_id] = {**fields, "messages": said}
        if len(self._kept) > _MOST_KEPT:
            self._kept.popitem(last=False)
