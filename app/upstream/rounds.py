"""Rounds: what many sockets have heard in one turn of the loop is read, then dealt with, then answered.

Theory of operation. Under load the loop finds a few dozen sockets with something to read in each of its
turns. To read, to reckon and to write for one after the other has the processor go through the kernel's
code, the interpreter's and the kernel's again for each: far more than its nearest caches hold, so that it
mostly waits for instructions. Done in rounds (all reads, then the reckoning of half of them, then their
writes, then the other half) each kind of code stays at hand for the next of its kind.

* Whoever hears something hands it to ``hear``, and is given it again before the loop looks at its sockets
  the next time. One that hears more meanwhile hands that over too, in order; whoever is told in another way
  of something that must not overtake it (an end, a shutdown) has the round attended to first.
* What is said within a round waits for the end of its half, and goes in the order in which it was said. In
  halves, and not all at once: those to whom we write have something to do meanwhile.
* Where few sockets have something at once there is nothing to gain, and all is done at once: ``alone`` says
  how often before a round is tried again. While something waits it is 0.

One event loop owns it, and all sockets of that loop share it (``rounds_of``).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, Protocol

FEW: Final = 4
"""Fewer in a turn are not worth a round."""
UNTRIED: Final = 32
"""So many reads are dealt with at once before a round is tried again."""
LEAST, MOST = 8, 32
"""How many are reckoned before their writes: half a round, within these."""
_ENDLESS: Final = 1 << 29
_log = logging.getLogger("slipstream.wire")


class Hearer(Protocol):
    """A socket's protocol."""

    def data_received(self, data: bytes) -> None:
        """The loop's callback, and the round's: hands ``data`` to ``Rounds.hear`` while ``alone`` is 0."""

    def fail(self, raised: Exception) -> None:
        """``data_received`` has raised in a round: do what the loop does where a callback has."""


class Rounds:
    """The rounds of one event loop."""

    __slots__ = ("_call_soon", "alone", "attending", "heard", "said")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Nothing was heard yet."""
        self._call_soon = loop.call_soon
        self.heard: list[tuple[Hearer, bytes]] = []
        """What waits, in the order in which it came."""
        self.alone = 0
        """So many reads more are to be dealt with at once; whoever does so takes one off."""
        self.attending = False
        """What is to be written now goes into ``said``."""
        self.said: list[tuple[Callable[[bytes], None], bytes]] = []

    def hear(self, hearer: Hearer, data: bytes) -> None:
        """Have ``hearer`` attend to ``data`` in this turn's round; only while ``alone`` is 0."""
        if not self.heard:
            self._call_soon(self.attend)
        self.heard.append((hearer, data))

    def attend(self) -> None:
        """Have all attended to that was heard, and what they say written; nothing where it was already."""
        many = len(self.heard)
        if not many:
            return
        heard, self.heard = self.heard, []
        self.alone = _ENDLESS  # what is given again is dealt with
        at_once = min(MOST, max(LEAST, (many + 1) // 2))
        for start in range(0, many, at_once):
            self.attending = True
            for hearer, data in heard[start : start + at_once]:
                try:
                    hearer.data_received(data)
                except Exception as raised:  # noqa: BLE001 - as in a socket's callback
                    hearer.fail(raised)
                except BaseException:  # the process is to end: nobody comes back here
                    self.attending = False
                    raise
            self.attending = False
            self._write()
        self.alone = UNTRIED if many < FEW else 0

    def _write(self) -> None:
        said, self.said = self.said, []
        for write, data in said:
            try:
                write(data)
            except RuntimeError as raised:  # closed since; its protocol hears of that by itself
                _log.info("said_to_a_closed_socket", exc_info=raised)


def rounds_of(loop: asyncio.AbstractEventLoop) -> Rounds:
    """The rounds of ``loop``; on another loop than the server's each who asks has its own."""
    return getattr(loop, "rounds", None) or Rounds(loop)
