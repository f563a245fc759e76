"""The partition within which questions may match semantically: all but the last user turn's text, hashed.

Built on the exact key, so that there is one definition of what can change an answer: the request is
keyed with its last user text taken out. Tenant, user, model, tier, system prompt, tools, response
format, sampling and every earlier turn are in it; forgetting a field makes a miss, never a hit.
"""

from __future__ import annotations

from dataclasses import replace
from hashlib import blake2b

from app.cache.key import CacheScope, exact_key
from app.domain.chat import ChatRequest, Dialect, Json

_TEXT_TYPES = frozenset({"text", "input_text"})
_PLACEHOLDER = "\x00the question\x00"


def partition_key(scope: CacheScope, request: ChatRequest) -> str | None:
    """The partition in hexadecimal, the same in every process.

    None when the request does not end in one plain text of the user: then only an equal request can
    have its answer. Raises ``BadRequest`` as ``exact_key`` does.
    """
    body = _without_question(request.dialect, request.body)
    if body is None:
        return None
    key = exact_key(scope, replace(request, body=body, raw=b"", plain=None))
    return blake2b(key, digest_size=32, person=b"partition").hexdigest()


def _without_question(dialect: Dialect, body: Json) -> Json | None:
    name = "input" if dialect is Dialect.RESPONSES else "messages"
    turns = body.get(name)
    if isinstance(turns, str):
        return {**body, name: _PLACEHOLDER}
    if not isinstance(turns, list) or not turns:
        return None
    last = turns[-1]
    if not isinstance(last, dict) or last.get("role") != "user":
        return None
    content = _without_text(last.get("content"))
    if content is None:
        return None
    return {**body, name: [*turns[:-1], {**last, "content": content}]}


def _without_text(content: object) -> object | None:
    if isinstance(content, str):
        return _PLACEHOLDER
    if isinstance(content, list) and len(content) == 1:
        block = content[0]
        if isinstance(block, dict) and block.get("type") in _TEXT_TYPES:
            return [{**block, "text": _PLACEHOLDER}]
    return None
