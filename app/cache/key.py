"""The cache key: pure, and the whole safety of the cache.

Two requests may share an answer only if everything that can change the answer is equal. So the key covers the
tenant, the user scope, the model asked for, the tier forced, and the whole body except an explicit list of
fields that cannot change an answer's content (``_IGNORED``). A field that this program has never heard of is
part of the key: forgetting one makes a miss, never a wrong hit.

The same question in another dialect has the same key where the reading is certain: plain text messages and
the common sampling fields are brought to one form (``_common``). Whatever is not plain is kept in its own
dialect's form, tagged with the dialect, so it can only meet itself.

Byte-stable across processes, machines and orders of keys: JSON with sorted keys, hashed with SHA-256 (which
processors have instructions for: a long prompt costs a third of what BLAKE2b takes).
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import NamedTuple

import msgspec

from app.domain.chat import DEFAULT_ANTHROPIC_VERSION, ChatRequest, Dialect, Json, PlainRequest
from app.errors import BadRequest

_encode = msgspec.json.Encoder(order="deterministic").encode
_NOTHING: dict[str, object] = {}
_SPOKEN = ("messages", "input", "system", "instructions")
KEY_VERSION = 2
"""Part of every key: raise it when the meaning of a key changes, so that old entries are never found."""

_IGNORED = frozenset(
    {
        "model",  # the scope names it: an alias and what it stands for must not differ
        "stream",
        "stream_options",
        "metadata",
        "store",
        "user",  # the vendor's abuse label; isolation is by tenant and x-slipstream-user
        "safety_identifier",
        "service_tier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "prompt_cache_options",
    },
)
_IN_ANY_FORM = frozenset(
    {
        "tools", "tool_choice", "parallel_tool_calls", "max_tool_calls", "response_format", "text",
        "output_config", "reasoning_effort", "reasoning", "thinking", "verbosity", "seed", "top_k",
        "frequency_penalty", "presence_penalty", "logit_bias", "prediction", "truncation", "cache_control",
    }
)  # fmt: skip
"""Fields after which an answer says the same streamed and whole; after others it might lose something."""
_OWN_TOOLS = frozenset({None, "function", "custom"})
"""Kinds of tools that the client runs. What comes of the vendor's own has no neutral form."""
_READ_BLOCKS = frozenset(
    {"text", "image", "tool_use", "tool_result", "thinking", "redacted_thinking"}
)
"""Blocks of the Messages dialect after which an answer cites nothing."""
_STATE = frozenset(
    {
        "conversation", "previous_response_id", "background",
        "container", "thread", "mcp_servers",
    }
)  # fmt: skip
"""Fields after which an answer leaves something behind at the vendor, or goes on from it."""
_ACTING_TOOLS = frozenset({"mcp", "mcp_toolset"})
"""Kinds of tools with which the vendor acts upon the servers of others."""
_SYSTEM_ROLES = frozenset({"system", "developer"})
_COMMON = {
    "temperature": "temperature",
    "top_p": "top_p",
    "max_tokens": "max_tokens",
    "max_completion_tokens": "max_tokens",
    "max_output_tokens": "max_tokens",
    "stop": "stop",
    "stop_sequences": "stop",
}
_BESIDE_THE_TURNS = {Dialect.RESPONSES: "instructions", Dialect.MESSAGES: "system"}
_TYPE_AND_TEXT = 2
_TEXT_TYPES = frozenset({"text", "input_text", "output_text"})


class _Turn(msgspec.Struct):
    """A turn of plain text; encodes as a plain request's own turns do, keys in this order."""

    role: str
    content: str


class CacheScope(NamedTuple):
    """Who may share an answer, and for what was asked."""

    tenant: str
    user: str
    """The ``x-slipstream-user`` of the request; "" shares within the tenant."""
    model: str
    """As asked: ``auto`` or a configured name."""
    tier: str = ""
    """The tier that the caller forced, or ""."""
    epoch: int = 0
    """The invalidation epoch in force: raising it makes every older entry unreachable."""


Scope = tuple[str, str, str, str, int]
"""A ``CacheScope`` as the tuple that it is: to name its parts costs as much as to hash a short question."""


def moves_a_state(request: ChatRequest) -> bool:
    """Whether ``request`` is to do something at its vendor beside being answered, so that no answer stands
    for another: a turn of a conversation that is kept there, a job, a call of the vendor's own.
    """
    if request.plain is not None:
        return False
    body = request.body
    return not _STATE.isdisjoint(body) and any(body.get(name) for name in _STATE)


def leaves_something_behind(request: ChatRequest) -> bool:
    """Whether a second call for ``request`` would act twice at its vendor: what ``moves_a_state``, what is to
    be stored there, and what lets the vendor call the tools of a server by itself.
    """
    if request.plain is not None:
        return False
    if request.body.get("store") is True or moves_a_state(request):
        return True
    tools = request.body.get("tools")
    return isinstance(tools, list) and any(
        isinstance(tool, dict) and tool.get("type") in _ACTING_TOOLS for tool in tools
    )


def plain_start(scope: Scope | CacheScope, said: Sequence[tuple[bytes, bytes]] = ()) -> bytes:
    """What plain requests of ``scope`` that say ``said`` to the vendor have in common, for ``plain_key``."""
    decides: Sequence[object] = (KEY_VERSION, *scope, "", _NOTHING)
    if asked := _asked(said):
        decides = (asked, *decides)
    return _encode(decides)[:-1] + b","


def plain_key(start: bytes, plain: PlainRequest) -> bytes:
    """As ``exact_key``, for a plain request; ``start`` is ``plain_start``."""
    turns, warmth, top, most, stop, _, _, _ = plain
    # A number that JSON cannot carry here is not plain: it was refused when it was read.
    return sha256(start + _encode((warmth, top, most, stop, turns))[1:]).digest()


def plain_text(start: bytes, plain: PlainRequest) -> bytes:
    """What ``plain_key`` hashes."""
    turns, warmth, top, most, stop, _, _, _ = plain
    return start + _encode((warmth, top, most, stop, turns))[1:]


def exact_key(scope: Scope | CacheScope, request: ChatRequest) -> bytes:
    """Hash what decides the answer to ``request`` into 32 bytes, the same in every process.

    Raises ``BadRequest`` for numbers that JSON here cannot carry (integers beyond 64 bits).
    """
    plain = request.plain
    tenant, user, model, tier, epoch = scope
    decides: Sequence[object]
    if plain is not None:
        turns, warmth, top, most, stop, _, _, _ = plain
        decides = (
            KEY_VERSION, tenant, user, model, tier, epoch, "", _NOTHING, warmth, top, most, stop, turns,
        )  # fmt: skip
    else:
        decides = (KEY_VERSION, *scope, *_content(request))
    if request.terms is not None:
        decides = (*decides, {"contract": request.terms.key})
    if request.forward_headers and (asked := _asked(request.forward_headers)):
        decides = (asked, *decides)
    try:
        return sha256(_encode(decides)).digest()
    except (OverflowError, TypeError, ValueError) as exc:
        message = (
            "the body holds a number that cannot be represented: use integers of at most 64 bits"
        )
        raise BadRequest(message) from exc


def _asked(headers: Sequence[tuple[bytes, bytes]]) -> list[str]:
    """The vendor's headers that can change an answer: a beta, a version that is not ours."""
    return sorted(
        f"{name.decode('latin-1')}: {value.decode('latin-1')}"
        for name, value in headers
        if name.endswith(b"-beta")
        or (name == b"anthropic-version" and value != DEFAULT_ANTHROPIC_VERSION)
    )


def _content(request: ChatRequest) -> Sequence[object]:
    """Bring the body to one form across dialects where that is certain, else keep it as it is, tagged."""
    dialect, body = request.dialect, request.body
    common: dict[str, object] = {}
    own: dict[str, object] = {}
    for name, value in body.items():
        if name in _IGNORED or name in _SPOKEN or value is None:
            continue
        if name in _COMMON:
            _put_common(common, own, name, value)
        else:
            own[name] = value
    turns = _plain_turns(dialect, body)
    if turns is None:
        own.update((name, body[name]) for name in _SPOKEN if body.get(name) is not None)
    if not _says_the_same_in_any_form(dialect, own):
        own["stream"] = (request.stream, request.include_usage)
    tag = dialect.value if own else ""
    sampling = (
        common.get("temperature"),
        common.get("top_p"),
        common.get("max_tokens"),
        common.get("stop"),
    )
    return (tag, own, *sampling, turns)


def _says_the_same_in_any_form(dialect: Dialect, own: Json) -> bool:
    """Whether an answer to what ``own`` asks may be told streamed where it came whole, and the reverse."""
    for name, value in own.items():
        if name in _SPOKEN:
            if dialect is Dialect.MESSAGES and not all(map(_cites_nothing, _rows(value))):
                return False
        elif name == "tools":
            if not all(_is(tool, "type", _OWN_TOOLS) for tool in _rows(value)):
                return False
        elif name not in _IN_ANY_FORM and value is not False and not (name == "n" and value == 1):
            return False
    return True


def _cites_nothing(message: object) -> bool:
    blocks = _rows(message.get("content")) if isinstance(message, dict) else ()
    return all(_is(block, "type", _READ_BLOCKS) for block in blocks)


def _rows(value: object) -> Sequence[object]:
    return value if isinstance(value, list) else ()


def _is(value: object, name: str, known: frozenset[str | None]) -> bool:
    """Whether the field ``name`` of ``value`` is among ``known``; no where that cannot be said."""
    said = value.get(name) if isinstance(value, dict) else 0
    return (said is None or isinstance(said, str)) and said in known


def _put_common(
    common: dict[str, object], own: dict[str, object], name: str, value: object
) -> None:
    shared = _COMMON[name]
    if shared == "stop" and isinstance(value, str):
        value = [value]
    if shared in ("temperature", "top_p") and type(value) is int:
        value = float(value)
    if shared in common:  # two spellings of one field: keep both, apart from every ordinary request
        own[name] = value
    else:
        common[shared] = value


def _plain_turns(dialect: Dialect, body: Json) -> list[_Turn] | None:
    """``[{role, content}, ...]`` when every message is plain text, else None."""
    turns: list[_Turn] = []
    if not _add_system(turns, dialect, body):
        return None
    if dialect is Dialect.RESPONSES:
        source = body.get("input")
        if isinstance(source, str):
            turns.append(_Turn("user", source))
            return turns
    else:
        source = body.get("messages")
    if isinstance(source, list) and all(_add_message(turns, message) for message in source):
        return turns
    return None


def _add_system(turns: list[_Turn], dialect: Dialect, body: Json) -> bool:
    """Append the prompt that stands beside the turns, where the dialect has one; False unless plain text."""
    name = _BESIDE_THE_TURNS.get(dialect)
    prompt = None if name is None else body.get(name)
    return prompt is None or _add(turns, "system", prompt)


def _add_message(turns: list[_Turn], message: object) -> bool:
    """Append ``message``; False when it is anything but a role and plain text."""
    if not isinstance(message, dict) or not _only_text_message(message):
        return False
    role = message.get("role")
    if not isinstance(role, str):
        return False
    return _add(turns, "system" if role in _SYSTEM_ROLES else role, message.get("content"))


def _only_text_message(message: dict[str, object]) -> bool:
    for name, value in message.items():
        if name in {"role", "content"}:
            continue
        if name == "type" and value == "message":
            continue
        return False
    return True


def _add(turns: list[_Turn], role: str, content: object) -> bool:
    """Append the text of ``content``; False when it is anything but plain text.

    Several text blocks are kept apart (a separator that JSON text cannot hold unescaped would be a guess):
    only a string, or a list of exactly one plain text block, is brought to the common form.
    """
    if isinstance(content, str):
        turns.append(_Turn(role, content))
        return True
    if isinstance(content, list) and len(content) == 1:
        block = content[0]
        if (
            isinstance(block, dict)
            and len(block) == _TYPE_AND_TEXT
            and block.get("type") in _TEXT_TYPES
        ):
            text = block.get("text")
            if isinstance(text, str):
                turns.append(_Turn(role, text))
                return True
    return False
