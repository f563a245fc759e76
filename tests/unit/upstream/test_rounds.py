"""A round: first all that was heard, then half of it dealt with and what was said written, then the rest."""

from __future__ import annotations

import asyncio

import pytest

from app.upstream.rounds import FEW, LEAST, MOST, UNTRIED, Rounds

pytestmark = pytest.mark.anyio


class Socket:
    """Writes down what is attended to, says it, and raises where it is told to."""

    def __init__(self, rounds: Rounds, log: list[tuple[str, bytes]]) -> None:
        self._rounds, self._log = rounds, log
        self.failures: list[Exception] = []

    def data_received(self, data: bytes) -> None:
        assert self._rounds.alone
        if data == b"bad":
            raise ValueError("bad")
        self._log.append(("dealt with", data))
        assert self._rounds.attending
        self._rounds.said.append((self.write, data))

    def fail(self, raised: Exception) -> None:
        self.failures.append(raised)

    def write(self, data: bytes) -> None:
        assert not self._rounds.attending
        if data == b"closed":
            raise RuntimeError("the handler is closed")
        self._log.append(("written", data))


@pytest.mark.parametrize("many", [1, FEW, 2 * LEAST, 50, 5 * MOST])
async def test_each_half_is_written_behind_its_own_reckoning(many: int) -> None:
    """In the order in which it was heard, in the loop's next turn, and each once."""
    rounds = Rounds(asyncio.get_running_loop())
    log: list[tuple[str, bytes]] = []
    said = [b"%d" % each for each in range(many)]
    for data in said:
        rounds.hear(Socket(rounds, log), data)
    assert not log
    await asyncio.sleep(0)
    assert [data for how, data in log if how == "dealt with"] == said
    assert [data for how, data in log if how == "written"] == said
    first = [how for how, _ in log].index("written")
    assert first == min(many, MOST, max(LEAST, (many + 1) // 2))
    assert not rounds.heard


async def test_few_at_once_are_left_alone_for_a_while() -> None:
    """Where a round was not worth it; an empty one says nothing."""
    rounds = Rounds(asyncio.get_running_loop())
    socket = Socket(rounds, [])
    rounds.attend()
    assert rounds.alone == 0
    for _ in range(FEW):
        rounds.hear(socket, b"many")
    rounds.attend()
    assert rounds.alone == 0
    rounds.hear(socket, b"one")
    rounds.attend()
    assert rounds.alone == UNTRIED


async def test_what_fails_is_told_so_and_the_others_are_served() -> None:
    """One that raises, and one whose socket was closed before its words were written."""
    rounds = Rounds(asyncio.get_running_loop())
    log: list[tuple[str, bytes]] = []
    bad, good = Socket(rounds, log), Socket(rounds, log)
    for socket, data in ((good, b"a"), (bad, b"bad"), (bad, b"closed"), (good, b"b")):
        rounds.hear(socket, data)
    rounds.attend()
    assert [str(raised) for raised in bad.failures] == ["bad"]
    assert [data for how, data in log if how == "written"] == [b"a", b"b"]
    assert not rounds.attending
