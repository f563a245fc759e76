"""The messages between a gateway and its vector process, and the names of collections.

Frames on a unix socket: four bytes of length (little-endian), then MessagePack. Requests carry a number
that their reply repeats, so that many can be in flight. Both sides are the same version of this program,
so nobody else needs to read this; but a frame that is too long or unreadable ends the connection, never
the process.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from app.domain.vectors import Neighbour, QuestionFilter, StoredQuestion

SCHEMA = 1
"""Part of a collection's name: raise it when what is kept changes, so that older files are left."""
COLLECTIONS = f"questions-v{SCHEMA}-"
"""What the names of this schema's collections begin with, whatever the encoder."""
FAILED_MODEL = 3
FAILED_STORE = 4
"""Exit statuses of the process that say what is wrong where starting again does not help at once."""
NICENESS = 10
"""Of the process: requests come first."""
MAX_FRAME_BYTES = 8 * 1024 * 1024
_LENGTH_BYTES = 4


class Recall(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Embed ``text`` and give the ``k`` nearest live questions of ``partition``; ``k`` 0: embed only."""

    text: str
    partition: str
    k: int
    now_unix_s: float


class Nearest(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The ``k`` nearest live questions of ``partition`` to ``vector``."""

    vector: bytes
    partition: str
    k: int
    now_unix_s: float


class Keep(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Keep ``question`` at ``vector``."""

    question: StoredQuestion
    vector: bytes


class Fetch(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Give the question of ``id``, if it is kept."""

    id: str


class Page(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Give ``limit`` questions of ``tenant`` from the id ``after`` on."""

    tenant: str
    after: str
    limit: int


class Remove(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Remove these; the number that was there is the reply."""

    ids: tuple[str, ...]


class RemoveWhere(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Remove those that match; the number that was there is the reply."""

    which: QuestionFilter


class Count(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """How many questions are kept, and what the process is: an ``About``."""


class Older(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Give ``limit`` sealed questions of the folders of other builds, from ``after`` on: an ``OlderPage``."""

    after: str
    limit: int


class Spare(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Embed ``text`` if nobody else wants anything, else ``Busy``. With the ``id`` of a question in an older
    build's folder, bring it over at that vector; ``Number(0)`` where it is not there any more.
    """

    text: str
    id: str


Command = Recall | Nearest | Keep | Fetch | Page | Remove | RemoveWhere | Count | Older | Spare


class Found(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The reply to ``Recall`` and ``Nearest``."""

    vector: bytes
    near: tuple[Neighbour, ...]


class TooLong(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The reply to a ``Recall`` whose text the encoder cannot read whole."""

    tokens: int


class Number(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """How many were there."""

    value: int


class Fetched(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The reply to ``Fetch``."""

    question: StoredQuestion | None


class Paged(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The reply to ``Page``; ``next`` is "" at the end."""

    questions: tuple[StoredQuestion, ...]
    next: str


class About(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The process's state."""

    count: int
    build_id: str
    moved_aside: tuple[str, ...]
    """Folders that could not be read and were put aside, newest last."""


class Failed(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The request failed; the process goes on."""

    message: str


class OlderPage(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The reply to ``Older``: questions without their answers; ``next`` is "" at the end."""

    questions: tuple[StoredQuestion, ...]
    next: str
    moving: bool
    """Whether there are folders that were not gone through yet: the end is not the end."""
    left: int
    """How many questions are in those that were gone through; 0 where only a whole pass can tell."""
    moved: int
    """How many were brought over since whoever answers has started."""


class Busy(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The reply to ``Spare`` where others come first."""


Reply = Found | TooLong | Number | Fetched | Paged | About | Failed | OlderPage | Busy


class Ask(msgspec.Struct, frozen=True, array_like=True):
    """A numbered request."""

    number: int
    command: Command


class Answered(msgspec.Struct, frozen=True, array_like=True):
    """The reply to the request of that number."""

    number: int
    reply: Reply


class Framing:
    """Bytes in, whole messages out. Raises ``ValueError`` for a frame over the limit."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        """Start empty."""
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take bytes split anywhere; give each message that became whole."""
        buffer = self._buffer
        buffer += data
        while len(buffer) >= _LENGTH_BYTES:
            length = int.from_bytes(buffer[:_LENGTH_BYTES], "little")
            if length > MAX_FRAME_BYTES:
                raise ValueError(f"a frame of {length} bytes: the limit is {MAX_FRAME_BYTES}")
            end = _LENGTH_BYTES + length
            if len(buffer) < end:
                return
            message = bytes(buffer[_LENGTH_BYTES:end])
            del buffer[:end]
            yield message


def framed(message: bytes) -> bytes:
    """``message`` with its length before it."""
    return len(message).to_bytes(_LENGTH_BYTES, "little") + message


def collection_name(build_id: str) -> str:
    """The folder or collection for vectors of this encoder build and this schema."""
    return f"{COLLECTIONS}{re.sub(r'[^A-Za-z0-9]+', '-', build_id).strip('-')[:80]}"


def payload_of(question: StoredQuestion) -> dict[str, object]:
    """What a point carries beside its vector; all but ``kept``, ``text`` and ``body`` is indexed."""
    return {
        "partition": question.partition,
        "tenant": question.tenant,
        "model": question.model,
        "tags": list(question.tags),
        "kept": question.kept_unix_s,
        "expires": question.expires_unix_s,
        "text": question.text,
        "body": question.body,
    }


def question_of(entry_id: str, payload: object) -> StoredQuestion | None:
    """The question of a point; None for one that another program wrote."""
    if not isinstance(payload, dict):
        return None
    try:
        return msgspec.convert(
            {
                "id": entry_id.replace("-", ""),
                "kept_unix_s": payload["kept"],
                "expires_unix_s": payload["expires"],
                **{n: payload[n] for n in ("partition", "tenant", "model", "tags", "text", "body")},
            },
            StoredQuestion,
        )
    except (KeyError, msgspec.ValidationError):
        return None
