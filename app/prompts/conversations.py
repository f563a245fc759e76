"""The state of conversations: where each is warm, and the blocks of its last request.

A bounded LRU table, by tenant and opening. It holds hashes and positions, never text.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from app.domain.chat import ChatRequest, Dialect
from app.prompts.prefix import IsMoved, RenderedPrompt, digest

_MOST = 8_192


@dataclass(frozen=True, slots=True)
class BlockSummary:
    """A block of an earlier request, without its text."""

    section: str
    pointer: str
    content_hash: bytes
    prefix_hash: bytes
    tokens: int
    label: str
    canonical_hash: bytes
    """Hash with sorted keys, of tools only: tells a reordered tool from a changed one."""


@dataclass(slots=True)
class ConversationState:
    """The last request of one conversation."""

    model: str
    dialect: Dialect
    blocks: tuple[BlockSummary, ...]
    options: dict[str, bytes]
    last_s: float
    """When its answer ended."""
    warm_tokens: int = 0
    """Estimated tokens of its prefix that the vendor holds."""
    marked: bool = True
    turns: int = 1
    answer_id: str = ""
    """The vendor's own id of its answer, where its diagnosis is asked for."""


class Conversations:
    """The table; owned by one event loop."""

    def __init__(self) -> None:
        """Know none."""
        self._table: OrderedDict[bytes, ConversationState] = OrderedDict()

    def __len__(self) -> int:
        return len(self._table)

    def get(self, key: bytes) -> ConversationState | None:
        """The state of a conversation."""
        return self._table.get(key)

    def put(self, key: bytes, conversation: ConversationState) -> None:
        """Store it; the least recently used of too many is dropped."""
        self._table[key] = conversation
        self._table.move_to_end(key)
        if len(self._table) > _MOST:
            self._table.popitem(last=False)


def conversation_key(tenant: str, opening: str) -> bytes:
    """The key of a conversation: a hash of its tenant and opening."""
    return digest(tenant.encode(), opening.encode("utf-8", "surrogatepass"))


def opening_of(request: ChatRequest, is_moved: IsMoved | None = None) -> str:
    """The opening as ``render`` finds it, from a parsed body."""
    given = request.body.get("input" if request.dialect is Dialect.RESPONSES else "messages")
    if isinstance(given, str):
        return given[:4096]
    for message in given if isinstance(given, list) else ():
        if not isinstance(message, dict) or message.get("role") != "user":
            continue
        content = message.get("content")
        if isinstance(content, str):
            return content[:4096]
        texts = [
            part["text"]
            for part in (content if isinstance(content, list) else ())
            if isinstance(part, dict) and isinstance(part.get("text"), str)
        ]
        if is_moved is not None:
            texts = [text for text in texts if not is_moved(text)]
        if texts:
            return str(texts[-1])[:4096]
    return ""


def summarise_blocks(
    rendered: RenderedPrompt, loose: dict[bytes, bytes]
) -> tuple[BlockSummary, ...]:
    """A request's blocks that its next turn repeats, without their text.

    ``loose``: the tools' canonical hashes by content hash.
    """
    return tuple(
        BlockSummary(
            block.section,
            block.pointer,
            block.content_hash,
            block.prefix_hash,
            block.tokens,
            block.label,
            loose.get(block.content_hash, b""),
        )
        for block in rendered.blocks[: rendered.last_repeated + 1]
    )
