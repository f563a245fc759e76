"""Questions that were kept under another encoder, read by a gateway and kept anew under the one in force.

The vector process moves what it can read by itself (`app.stores.moving`). What a gateway has sealed only a
gateway can read, and what a Qdrant server holds is nobody's but the gateways'. So one worker of a `data_dir`,
the one that owns the vector process, goes through both: a page of texts, then one question after the other,
each embedded when the process has nothing else to do (at most one a second while it has), so that no look-up
waits behind more than one of them. A question leaves the older place once it is in the new one: whoever is
killed in between starts again and loses nothing.

A text that no key opens, or that is too long for the new encoder, stays where it is, is counted, and named
on `/readyz`: vectors cannot be turned into those of another encoder without it.
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


class Older(Protocol):
    """Where the questions of other encoders are."""

    async def older(self, after: str, limit: int) -> OlderPage:
        """Some of them from ``after`` on ("" begins), without their answers."""
        ...

    async def anew(self, question: StoredQuestion, text: str) -> Reply:
        """Bring one over: ``Found``; ``TooLong``; ``Busy``, to be asked again; else it is gone."""
        ...


@dataclass(slots=True)
class Left:
    """What stayed behind."""

    sealed: int = 0
    """No key that is configured opens them."""
    other: int = 0
    """Too long for the encoder in force, or another program's."""

    def __bool__(self) -> bool:
        """Whether anything did."""
        return bool(self.sealed or self.other)


class Bringing:
    """One source's questions, brought over for as long as the gateway runs."""

    def __init__(
        self,
        source: Older,
        read: Callable[[StoredQuestion], str | None],
        *,
        mine: Callable[[], bool],
        on_moved: Callable[[int], None],
        on_left: Callable[[Left], None],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """``read`` gives a question's text, None where it cannot. ``mine``: whether this worker is to do it.

        ``on_moved`` is told how many more were brought over, ``on_left`` what stayed after each whole pass.
        """
        self._source, self._read, self._mine = source, read, mine
        self._on_moved, self._on_left = on_moved, on_left
        self._sleep = sleep
        self._moved = 0

    async def run(self) -> None:
        """Pass after pass until cancelled; a store that is away is asked again."""
        while True:
            try:
                whole = self._mine() and await self.once()
            except StoreError:
                whole = False
            await self._sleep(_NEXT_PASS_S if whole else _STILL_MOVING_S)

    async def once(self) -> bool:
        """One pass over everything; False where more may be there at once. Raises ``StoreError``."""
        left, after = Left(), ""
        while True:
            page = await self._source.older(after, _AT_ONCE)
            self._count(page.moved)
            for question in page.questions:
                await self._bring(question, left)
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

    async def _bring(self, question: StoredQuestion, left: Left) -> None:
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
        """Tell how many more there are; a process that was started anew begins at nought."""
        more = moved - self._moved if moved >= self._moved else moved
        self._moved = moved
        if more:
            self._on_moved(more)
