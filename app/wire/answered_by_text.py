"""Whether a lane's text is a complete answer to a request.

A lane answers with one text, without a model or tokens. Requests for several choices, log probabilities,
speech, a search, another format, or a shorter answer, and requests with files, need a model. The fields that
do not matter are listed here; any other field, including future ones, leaves the answer to a model. Checked
only once a lane has an answer, so that no other request pays for it.
"""

from __future__ import annotations

from collections.abc import Mapping

from app.domain.chat import Json

_IRRELEVANT = frozenset(
    (
        *("model", "messages", "input", "stream", "stream_options", "user", "metadata"),
        *("temperature", "top_p", "top_k", "seed", "frequency_penalty", "presence_penalty"),
        *("service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"),
        *(
            "reasoning",
            "reasoning_effort",
            "thinking",
            "verbosity",
            "parallel_tool_calls",
            "include",
        ),
        *("truncation", "prompt_cache_options", "cache_control", "diagnostics"),
    )
)
"""Fields that do not change a fixed text; the lane itself examines the messages."""
_EMPTY: tuple[object, ...] = (
    [],
    "",
    False,
    None,
)  # not {}: `web_search_options: {}` asks for a search
_LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_STOPS = ("stop", "stop_sequences")
_TEXT_PARTS = frozenset(("text", "input_text"))
_PLAIN_VALUES: Mapping[str, object] = {
    "n": 1,
    "modalities": ["text"],
    "response_format": {"type": "text"},
    "tool_choice": "none",
}


def is_answered_by_text(body: Json, text: str) -> bool:
    """Whether ``text`` answers the checked ``body``, in any dialect, in full; never raises on one."""
    return _is_one_text(body) and all(
        name in _IRRELEVANT or value in _EMPTY or _allows(name, value, text)
        for name, value in body.items()
    )


def _allows(name: str, value: object, text: str) -> bool:
    if name in _LIMITS:  # a token is at least one byte
        return isinstance(value, int) and len(text.encode()) <= value
    if name in _STOPS:
        stops = [value] if isinstance(value, str) else value
        return isinstance(stops, list) and not any(str(each) in text for each in stops)
    if name in {"text", "output_config"} and isinstance(value, Mapping):
        form = value.get("format")
        return form is None or form == {"type": "text"}
    return _PLAIN_VALUES.get(name, _EMPTY) == value


def _is_one_text(body: Json) -> bool:
    """Whether the conversation is a single user message of text."""
    messages = body.get("messages", body.get("input"))
    if isinstance(messages, str):
        return True
    if not isinstance(messages, list) or len(messages) != 1 or not isinstance(messages[0], Mapping):
        return False
    content = messages[0].get("content")
    return isinstance(content, str) or (
        isinstance(content, list)
        and all(isinstance(part, Mapping) and part.get("type") in _TEXT_PARTS for part in content)
    )
