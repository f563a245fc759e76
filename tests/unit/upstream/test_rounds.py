"""A round: first all reads, then half of them processed and their writes, then the rest; streams first."""

from __future__ import annotations

import asyncio

import pytest

from app.upstream.rounds import (
    DIRECT_READS,
    LATE_READS,
    LATE_SHARE,
    MAX_HALF,
    MAX_STREAM_STARTS,
    MIN_HALF,
    MIN_ROUND_READS,
    Rounds,
)

pytestmark = pytest.mark.anyio


class Socket:
    """Logs what it processes, writes it back, and raises where it is told to."""

    def __init__(
        self, rounds: Rounds, log: list[tuple[str, bytes]], *, streams: bool = False
    ) -> None:
        self._rounds, self._log, self._streams = rounds, log, streams
        self.errors: list[Exception] = []

    def data_received(self, data: bytes) -> None:
        assert self._rounds.direct_reads or data.startswith(b"late")
        if data == b"bad":
            raise ValueError("bad")
        self._log.append(("processed", data))
        assert self._rounds.deferring_writes
        self._rounds.pending_writes.append((self.write, data))
        self._rounds.stream_starts += self._streams

    def receive_failed(self, error: Exception) -> None:
        self.errors.append(error)

    def write(self, data: bytes) -> None:
        assert not self._rounds.deferring_writes
        if data == b"closed":
            raise RuntimeError("the handler is closed")
        self._log.append(("written", data))


def of(log: list[tuple[str, bytes]], kind: str) -> list[bytes]:
    """What was processed, or written, in order."""
    return [data for each, data in log if each == kind]


@pytest.mark.parametrize("many", [1, MIN_ROUND_READS, 2 * MIN_HALF, 50, 5 * MAX_HALF])
async def test_each_half_is_written_behind_its_own_processing(many: int) -> None:
    """In the order of arrival, in the loop's next turn, and each once."""
    rounds = Rounds(asyncio.get_running_loop())
    log: list[tuple[str, bytes]] = []
    reads = [b"%d" % each for each in range(many)]
    for data in reads:
        rounds.enqueue_read(Socket(rounds, log), data)
    assert not log
    await asyncio.sleep(0)
    assert of(log, "processed") == of(log, "written") == reads
    first = [kind for kind, _ in log].index("written")
    assert first == min(many, MAX_HALF, max(MIN_HALF, (many + 1) // 2))
    assert not rounds.pending_reads


async def test_few_reads_in_a_turn_are_processed_directly_for_a_while() -> None:
    """Where a round was not worth it; an empty one changes nothing."""
    rounds = Rounds(asyncio.get_running_loop())
    socket = Socket(rounds, [])
    rounds.run_all()
    assert rounds.direct_reads == 0
    for _ in range(MIN_ROUND_READS):
        rounds.enqueue_read(socket, b"many")
    rounds.run_all()
    assert rounds.direct_reads == 0
    rounds.enqueue_read(socket, b"one")
    rounds.run_all()
    assert rounds.direct_reads == DIRECT_READS


async def test_one_that_fails_is_told_so_and_the_others_are_served() -> None:
    """One that raises, and one whose socket was closed before its bytes were written."""
    rounds = Rounds(asyncio.get_running_loop())
    log: list[tuple[str, bytes]] = []
    bad, good = Socket(rounds, log), Socket(rounds, log)
    for socket, data in ((good, b"a"), (bad, b"bad"), (bad, b"closed"), (good, b"b")):
        rounds.enqueue_read(socket, data)
    rounds.run_all()
    assert [str(error) for error in bad.errors] == ["bad"]
    assert of(log, "written") == [b"a", b"b"]
    assert not rounds.deferring_writes


async def test_a_round_of_new_streams_lets_the_loop_poll_between_its_pieces() -> None:
    """Each piece is written before the next, what comes meanwhile waits behind, and nothing is lost."""
    rounds = Rounds(asyncio.get_running_loop())
    log: list[tuple[str, bytes]] = []
    socket = Socket(rounds, log, streams=True)
    reads = [b"%d" % each for each in range(3 * MAX_STREAM_STARTS)]
    for data in reads:
        rounds.enqueue_read(socket, data)
    for turn in (1, 2):
        await asyncio.sleep(0)
        assert of(log, "written") == reads[: turn * MAX_STREAM_STARTS]
        assert not rounds.direct_reads  # what is read now has to wait behind the others
    rounds.enqueue_read(socket, b"behind")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert of(log, "processed") == of(log, "written") == [*reads, b"behind"]


async def test_late_reads_are_processed_behind_the_requests_a_few_in_each_turn() -> None:
    """Their queue shrinks by a share of itself, so that it stays bounded under a load that does not end."""
    rounds = Rounds(asyncio.get_running_loop())
    log: list[tuple[str, bytes]] = []
    late = [b"late %d" % each for each in range(10 * LATE_READS * LATE_SHARE)]
    for data in late:
        rounds.enqueue_late_read(Socket(rounds, log), data)
    rounds.enqueue_read(Socket(rounds, log, streams=True), b"a request")
    await asyncio.sleep(0)
    assert of(log, "written") == [b"a request", *late[: len(late) // LATE_SHARE]]
    del log[:]
    done = len(late) // LATE_SHARE
    while done < len(late):
        await asyncio.sleep(0)
        assert len(log) >= 2 * min(LATE_READS, len(late) - done)
        assert of(log, "written") == late[done : done + len(log) // 2]
        done += len(log) // 2
        del log[:]


async def test_an_event_that_nothing_may_overtake_has_everything_processed() -> None:
    """More streams than a turn begins, and late reads."""
    rounds = Rounds(asyncio.get_running_loop())
    log: list[tuple[str, bytes]] = []
    starting = Socket(rounds, log, streams=True)
    for each in range(2 * MAX_STREAM_STARTS):
        rounds.enqueue_late_read(Socket(rounds, log), b"late")
        rounds.enqueue_read(starting, b"%d" % each)
    rounds.run_all()
    assert len(of(log, "written")) == 4 * MAX_STREAM_STARTS
    del log[:]
    await asyncio.sleep(0)
    assert not log
