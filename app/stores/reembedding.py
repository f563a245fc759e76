"""Re-embeds questions that another encoder embedded, where a gateway must read them.

The vector process migrates what it can read itself (`app.stores.older_builds`). Encrypted texts only a
gateway can read, and the collections of a Qdrant server no single process owns. So the worker of a
`data_dir` that owns the vector process goes through both: a page of texts, then one question after the
other, each embedded while the process is idle (at most one a second while it is busy), so that no look-up
waits behind more than one of them. A question leaves the older place once it is in the new one, so a kill
in between loses nothing.

A text that no key decrypts, or that is too long for the new encoder, stays where it is, is counted, and
shown on `/readyz`: vectors cannot be converted to another encoder without the text.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Protocol

from app.domain.vectors import StoredQuestion
from app.errors import StoreError
from app.stores.vectors import Busy, Found, OlderPage, Reply, TooLong

_AT_ONCE: Final = 64
_BETWEEN_S: Final = 0.005
_WHERE_BUSY_S: Final = 0.1
_STILL_MOVING_S: Final = 1.0
_NEXT_PASS_S: Final = 600.0


class OlderQuestions(Protocol):
    """A place with questions of other encoders."""

    async def older(self, after: str, limit: int) -> OlderPage:
        """A page of them after ``after`` ("" for the first), without their answers."""
        ...

    async def anew(self, question: StoredQuestion, text: str) -> Reply:
        """Re-embed one: ``Found``; ``TooLong``; ``Busy``, to be retried; else it is gone."""
        ...


@dataclass(slots=True)
class LeftBehind:
    """Questions that could not be moved."""

    sealed: int = 0
    """No configured key decrypts them."""
    other: int = 0
    """Too long for the encoder in force, or another program's."""

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self.sealed or self.other)


class Reembedding:
    """Moves one source's questions, for as long as the gateway runs."""

    def __init__(
        self,
        source: OlderQuestions,
        read: Callable[[StoredQuestion], str | None],
        *,
        mine: Callable[[], bool],
        on_moved: Callable[[int], None],
        on_left: Callable[[LeftBehind], None],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """``read`` returns a question's text, None where it cannot. ``mine``: whether this worker is to run.

        ``on_moved`` gets how many more were moved, ``on_left`` what stayed after each complete pass.
        """
        self._source, self._read, self._mine = source, read, mine
        self._on_moved, self._on_left = on_moved, on_left
        self._sleep = sleep
        self._moved = 0

    async def run(self) -> None:
        """Pass after pass until cancelled; a store that is unavailable is retried."""
        while True:
            try:
                whole = self._mine() and await self.run_once()
            except StoreError:
                whole = False
            await self._sleep(_NEXT_PASS_S if whole else _STILL_MOVING_S)

    async def run_once(self) -> bool:
        """One pass; False where there may be more at once. Raises ``StoreError``."""
        left, after = LeftBehind(), ""
        while True:
            page = await self._source.older(after, _AT_ONCE)
            self._count(page.moved)
            for question in page.questions:
                await self._reembed(question, left)
            after = page.next
            if not after:
                break
        after_all = await self._source.older("", 1)
        self._count(after_all.moved)
        if after_all.moving:
            return False
        left.other = max(left.other, after_all.left - left.sealed)
        self._on_left(left)
        return True

    async def _reembed(self, question: StoredQuestion, left: LeftBehind) -> None:
        text = self._read(question)
        if text is None:
            left.sealed += 1
            return
        while True:
            reply = await self._source.anew(question, text)
            if not isinstance(reply, Busy):
                break
            await self._sleep(_WHERE_BUSY_S)
        if isinstance(reply, TooLong):
            left.other += 1
        elif isinstance(reply, Found):
            await self._sleep(_BETWEEN_S)

    def _count(self, moved: int) -> None:
        """Report how many more were moved; a restarted process counts from 0."""
        more = moved - self._moved if moved >= self._moved else moved
        self._moved = moved
        if more:
            self._on_moved(more)
