"""The cache key: pure, and the whole safety of the cache.

Two requests may share an answer only if everything that can change the answer is equal. So the key covers the
tenant, the user scope, the model asked for, the tier forced, and the whole body except an explicit list of
fields that cannot change an answer's content (``_IGNORED``). A field that this program has never heard of is
part of the key: forgetting one makes a miss, never a wrong hit.

The same question in another dialect has the same key where that is certain: plain text messages and
the common sampling fields are normalised (``_COMMON_NAMES``). Whatever is not plain stays in its own
dialect's form, tagged with the dialect, so it only matches itself.

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
_NO_FIELDS: dict[str, object] = {}
_TURN_FIELDS = ("messages", "input", "system", "instructions")
KEY_VERSION = 2
"""Part of every key: raise it when the meaning of a key changes, so that old entries are never found."""

_IGNORED = frozenset(
    {
        "model",  # the scope names it: an alias and what it stands for must not differ
        "stream",
        "stream_options",
        "metadata",
        "user",  # the vendor's abuse label; isolation is by tenant and x-slipstream-user
        "safety_identifier",
        "service_tier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "prompt_cache_options",
    },
)
_FORM_INDEPENDENT = frozenset(
    {
        "tools", "tool_choice", "parallel_tool_calls", "max_tool_calls", "response_format", "text",
        "output_config", "reasoning_effort", "reasoning", "thinking", "verbosity", "seed", "top_k",
        "frequency_penalty", "presence_penalty", "logit_bias", "prediction", "truncation", "cache_control",
    }
)  # fmt: skip
"""Fields with which an answer is the same streamed and whole; with others it might lose something."""
_CLIENT_TOOLS = frozenset({None, "function", "custom"})
"""Kinds of tools that the client runs. The output of the vendor's own has no neutral form."""
_UNCITED_BLOCKS = frozenset(
    {"text", "image", "tool_use", "tool_result", "thinking", "redacted_thinking"}
)
"""Blocks of the Messages dialect that an answer cannot cite."""
_STATE_FIELDS = frozenset(
    {
        "conversation", "previous_response_id", "background",
        "container", "thread", "mcp_servers",
    }
)  # fmt: skip
"""Fields by which a request creates state at the vendor, or continues from it."""
_SERVER_TOOLS = frozenset({"mcp", "mcp_toolset"})
"""Kinds of tools by which the vendor itself calls other servers."""
_SYSTEM_ROLES = frozenset({"system", "developer"})
_COMMON_NAMES = {
    "temperature": "temperature",
    "top_p": "top_p",
    "max_tokens": "max_tokens",
    "max_completion_tokens": "max_tokens",
    "max_output_tokens": "max_tokens",
    "stop": "stop",
    "stop_sequences": "stop",
}
_PROMPT_FIELD = {Dialect.RESPONSES: "instructions", Dialect.MESSAGES: "system"}
_TYPE_AND_TEXT = 2
_TEXT_TYPES = frozenset({"text", "input_text", "output_text"})


class _Turn(msgspec.Struct):
    """A turn of plain text; encodes as a plain request's own turns do, keys in this order."""

    role: str
    content: str


class CacheScope(NamedTuple):
    """Who may share an answer, and the model that was asked for."""

    tenant: str
    user: str
    """The ``x-slipstream-user`` of the request; "" shares within the tenant."""
    model: str
    """As requested: ``auto`` or a configured name."""
    tier: str = ""
    """The tier that the caller forced, or ""."""
    epoch: int = 0
    """The invalidation epoch in force: raising it makes every older entry unreachable."""


Scope = tuple[str, str, str, str, int]
"""A ``CacheScope`` as a bare tuple: making the named one costs as much as hashing a short question."""


def uses_vendor_state(request: ChatRequest) -> bool:
    """Whether ``request`` creates or continues state at its vendor, so that no stored answer can replace it.

    A turn of a conversation that lies there, a job, an MCP call of the vendor's own, and an answer that the
    caller has stored there (``store: true``): one from the cache would not be there afterwards. A Responses
    request without ``store`` is answered from the cache, though the vendor's own default is to store.
    """
    if request.plain is not None:
        return False
    body = request.body
    if body.get("store") is True:
        return True
    return not _STATE_FIELDS.isdisjoint(body) and any(body.get(name) for name in _STATE_FIELDS)


def has_vendor_side_effects(request: ChatRequest) -> bool:
    """Whether a second call for ``request`` would act twice at its vendor.

    Such is what ``uses_vendor_state``, and what lets the vendor call the tools of a server by itself.
    """
    if request.plain is not None:
        return False
    if uses_vendor_state(request):
        return True
    tools = request.body.get("tools")
    return isinstance(tools, list) and any(
        isinstance(tool, dict) and tool.get("type") in _SERVER_TOOLS for tool in tools
    )


def plain_key_prefix(
    scope: Scope | CacheScope, headers: Sequence[tuple[bytes, bytes]] = ()
) -> bytes:
    """Return what the keys of plain requests with this scope and these vendor headers share."""
    decides: Sequence[object] = (KEY_VERSION, *scope, "", _NO_FIELDS)
    if vendor := _vendor_headers(headers):
        decides = (vendor, *decides)
    return _encode(decides)[:-1] + b","


def plain_key(prefix: bytes, plain: PlainRequest) -> bytes:
    """As ``exact_key``, for a plain request; ``prefix`` is ``plain_key_prefix``."""
    turns, temperature, top_p, max_tokens, stop, _, _, _ = plain
    # A number that JSON cannot carry here is not plain: it was refused when it was read.
    return sha256(prefix + _encode((temperature, top_p, max_tokens, stop, turns))[1:]).digest()


def plain_key_input(prefix: bytes, plain: PlainRequest) -> bytes:
    """The bytes that ``plain_key`` hashes."""
    turns, temperature, top_p, max_tokens, stop, _, _, _ = plain
    return prefix + _encode((temperature, top_p, max_tokens, stop, turns))[1:]


def exact_key(scope: Scope | CacheScope, request: ChatRequest) -> bytes:
    """Hash all that can change the answer to ``request`` into 32 bytes, the same in every process.

    Raises ``BadRequest`` for numbers that JSON here cannot carry (integers beyond 64 bits).
    """
    plain = request.plain
    tenant, user, model, tier, epoch = scope
    decides: Sequence[object]
    if plain is not None:
        turns, temperature, top_p, max_tokens, stop, _, _, _ = plain
        decides = (
            KEY_VERSION, tenant, user, model, tier, epoch, "", _NO_FIELDS,
            temperature, top_p, max_tokens, stop, turns,
        )  # fmt: skip
    else:
        decides = (KEY_VERSION, *scope, *_content(request))
    if request.terms is not None:
        decides = (*decides, {"contract": request.terms.key})
    if request.forward_headers and (vendor := _vendor_headers(request.forward_headers)):
        decides = (vendor, *decides)
    try:
        return sha256(_encode(decides)).digest()
    except (OverflowError, TypeError, ValueError) as exc:
        message = (
            "the body holds a number that cannot be represented: use integers of at most 64 bits"
        )
        raise BadRequest(message) from exc


def _vendor_headers(headers: Sequence[tuple[bytes, bytes]]) -> list[str]:
    """Return the vendor's headers that can change an answer: a beta, a version that is not ours."""
    return sorted(
        f"{name.decode('latin-1')}: {value.decode('latin-1')}"
        for name, value in headers
        if name.endswith(b"-beta")
        or (name == b"anthropic-version" and value != DEFAULT_ANTHROPIC_VERSION)
    )


def _content(request: ChatRequest) -> Sequence[object]:
    """Normalise the body across dialects where that is certain, else keep it as it is, tagged."""
    dialect, body = request.dialect, request.body
    common: dict[str, object] = {}
    own: dict[str, object] = {}
    for name, value in body.items():
        if name in _IGNORED or name in _TURN_FIELDS or value is None:
            continue
        if name == "store" and value is False:
            continue
        if name in _COMMON_NAMES:
            _put_common(common, own, name, value)
        else:
            own[name] = value
    turns = _plain_turns(dialect, body)
    if turns is None:
        own.update((name, body[name]) for name in _TURN_FIELDS if body.get(name) is not None)
    if not _is_form_independent(dialect, own):
        own["stream"] = (request.stream, request.include_usage)
    tag = dialect.value if own else ""
    sampling = (
        common.get("temperature"),
        common.get("top_p"),
        common.get("max_tokens"),
        common.get("stop"),
    )
    return (tag, own, *sampling, turns)


def _is_form_independent(dialect: Dialect, own: Json) -> bool:
    """Whether an answer may be replayed streamed where it came whole, and the reverse."""
    for name, value in own.items():
        if name in _TURN_FIELDS:
            if dialect is Dialect.MESSAGES and not all(map(_is_uncited, _rows(value))):
                return False
        elif name == "tools":
            if not all(_is(tool, "type", _CLIENT_TOOLS) for tool in _rows(value)):
                return False
        elif (
            name not in _FORM_INDEPENDENT
            and value is not False
            and not (name == "n" and value == 1)
        ):
            return False
    return True


def _is_uncited(message: object) -> bool:
    blocks = _rows(message.get("content")) if isinstance(message, dict) else ()
    return all(_is(block, "type", _UNCITED_BLOCKS) for block in blocks)


def _rows(value: object) -> Sequence[object]:
    return value if isinstance(value, list) else ()


def _is(value: object, name: str, known: frozenset[str | None]) -> bool:
    """Whether the field ``name`` of ``value`` is among ``known``; False where ``value`` is no object."""
    field = value.get(name) if isinstance(value, dict) else 0
    return (field is None or isinstance(field, str)) and field in known


def _put_common(
    common: dict[str, object], own: dict[str, object], name: str, value: object
) -> None:
    shared = _COMMON_NAMES[name]
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
    if not _add_prompt(turns, dialect, body):
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


def _add_prompt(turns: list[_Turn], dialect: Dialect, body: Json) -> bool:
    """Append the system prompt where it is not among the turns; False unless it is plain text."""
    name = _PROMPT_FIELD.get(dialect)
    prompt = None if name is None else body.get(name)
    return prompt is None or _add_text(turns, "system", prompt)


def _add_message(turns: list[_Turn], message: object) -> bool:
    """Append ``message``; False when it is anything but a role and plain text."""
    if not isinstance(message, dict) or not _only_text_message(message):
        return False
    role = message.get("role")
    if not isinstance(role, str):
        return False
    return _add_text(turns, "system" if role in _SYSTEM_ROLES else role, message.get("content"))


def _only_text_message(message: dict[str, object]) -> bool:
    for name, value in message.items():
        if name in {"role", "content"}:
            continue
        if name == "type" and value == "message":
            continue
        return False
    return True


def _add_text(turns: list[_Turn], role: str, content: object) -> bool:
    """Append the text of ``content``; False when it is anything but plain text.

    Several text blocks are kept apart (a separator that JSON text cannot hold unescaped would be a guess):
    only a string, or a list of exactly one plain text block, is normalised.
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
