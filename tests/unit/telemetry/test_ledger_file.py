"""The ledger survives a restart, adds up whatever the traffic, and never stands in a turn's way."""

from __future__ import annotations

import csv
import gc
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.domain.usage import Usage
from app.telemetry.ledger import TECHNIQUES, Ledger
from app.telemetry.ledger_file import MAX_ROWS_PER_S, LedgerFile
from tests.unit.telemetry.records import a_hit, a_turn
from tests.unit.telemetry.test_ledger import LARGE, SMALL

DAY_S = 86_400
NOW_S = 1_800_000_000.0


class Book:
    """A book with what it told."""

    def __init__(self, path: Path, now_s: float = NOW_S, keep_days: int = 30) -> None:
        self.lost: list[int] = []
        self.faults: list[str] = []
        self.book = LedgerFile(
            path,
            TECHNIQUES,
            keep_days=keep_days,
            on_lost=self.lost.append,
            on_fault=self.faults.append,
            clock=lambda: now_s,
        )
        self.ledger = Ledger([SMALL, LARGE], clock=lambda: now_s)
        self.ledger.write_to(self.book, self.book.start())

    def rows(self) -> list[dict[str, str]]:
        """What the CSV says of all time."""
        return list(csv.DictReader("".join(self.book.as_csv(0, 1e12, None)).splitlines()))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def book(path: Path) -> Iterator[Book]:
    made = Book(path)
    yield made
    made.book.close()


def test_each_turn_is_a_row_with_what_each_technique_saved_on_it(book: Book) -> None:
    book.ledger.record(
        a_turn(request_id="one", started_unix_s=NOW_S - 9, cost_usd=0.5, routed=False)
    )
    book.ledger.record(a_hit(request_id="two", started_unix_s=NOW_S - 5, avoided_cost_usd=0.25))
    book.book.close()
    rows = {row["request_id"]: row for row in book.rows()}
    assert set(rows) == {"one", "two"}
    assert float(rows["one"]["cost_usd"]) == 0.5
    assert float(rows["two"]["saved_usd_exact"]) == 0.25
    assert float(rows["one"]["saved_usd_exact"]) == 0.0
    assert book.lost == book.faults == []


def test_what_was_saved_is_still_known_after_a_restart(path: Path, book: Book) -> None:
    book.ledger.record(a_hit(started_unix_s=NOW_S - 100, avoided_cost_usd=0.25))
    before = book.ledger.savings(3600)
    book.book.close()
    again = Book(path)
    after = again.ledger.savings(3600)
    again.book.close()
    assert after["turns"] == before["turns"] == 1
    assert after["by_technique"] == before["by_technique"]
    assert after["saved_usd"] == 0.25


def test_of_many_turns_at_once_every_total_stays_exact(book: Book) -> None:
    many = [
        a_turn(request_id=str(n), started_unix_s=NOW_S, cost_usd=0.01, routed=False)
        for n in range(2 * MAX_ROWS_PER_S)
    ]
    for at in range(0, len(many), 50):
        book.ledger.record_all(many[at : at + 50])
    book.book.close()
    rows = book.rows()
    assert len(rows) < len(many)
    assert sum(int(row["turns"]) for row in rows) == len(many)
    assert sum(float(row["cost_usd"]) for row in rows) == pytest.approx(0.01 * len(many))
    assert any(not row["request_id"] for row in rows)


def test_what_is_older_than_it_is_to_be_kept_is_forgotten_at_the_next_start(path: Path) -> None:
    old = Book(path)
    old.ledger.record(a_turn(request_id="old", started_unix_s=NOW_S - 8 * DAY_S))
    old.ledger.record(a_turn(request_id="new", started_unix_s=NOW_S - 2 * DAY_S))
    old.book.close()
    new = Book(path, keep_days=7)
    assert [row["request_id"] for row in new.rows()] == ["new"]
    assert new.ledger.savings(None)["turns"] == 0, "the report reaches back a day"
    new.book.close()


def test_of_several_workers_one_brings_the_last_day_back(path: Path, book: Book) -> None:
    book.ledger.record(a_turn(started_unix_s=NOW_S - 100))
    book.book.close()
    first, second = Book(path), Book(path)
    turns = sorted(int(each.ledger.savings(None)["turns"]) for each in (first, second))
    assert turns == [0, 1]
    first.ledger.record(a_turn(started_unix_s=NOW_S))
    second.ledger.record(a_turn(started_unix_s=NOW_S))
    first.book.close()
    second.book.close()
    assert len(book.rows()) == 3


@pytest.mark.parametrize(
    "damage", [b"no database at all" * 100, b"SQLite format 3\0" + b"\xff" * 900]
)
def test_a_file_that_is_no_ledger_is_put_aside_and_named(path: Path, damage: bytes) -> None:
    path.write_bytes(damage)
    book = Book(path)
    book.ledger.record(a_turn(started_unix_s=NOW_S))
    book.book.close()
    assert len(book.rows()) == 1
    assert "put aside" in book.faults[0]
    assert [p.read_bytes() for p in path.parent.glob("*.aside-*")] == [damage]


def test_a_book_of_before_a_technique_existed_gets_its_columns(path: Path) -> None:
    old = LedgerFile(
        path,
        TECHNIQUES[:2],
        keep_days=30,
        on_lost=[].append,
        on_fault=[].append,
        clock=lambda: NOW_S,
    )
    old.start()
    old.add([a_turn(started_unix_s=NOW_S)], [])
    old.close()
    new = Book(path)
    assert "saved_usd_prompt_cache" in new.rows()[0]
    new.book.close()
    assert new.faults == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_to_costs_rows_and_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o500)
    book = Book(folder / "ledger.sqlite")
    book.ledger.record(a_turn())
    book.book.close()
    assert sum(book.lost) == 1
    assert book.faults


def test_a_file_that_vanishes_under_it_costs_no_more_than_rows(path: Path, book: Book) -> None:
    book.ledger.record(a_turn(started_unix_s=NOW_S))
    for file in path.parent.glob("ledger.sqlite*"):
        file.unlink()
    path.mkdir()
    book.book.close()
    assert sum(book.lost) == 1
    assert "could not be written" in book.faults[-1]


def test_a_full_disk_costs_rows_and_no_descriptor(path: Path, book: Book) -> None:
    """Each second of a full disk left three files open until the collector came by."""
    book.ledger.record(a_turn(started_unix_s=NOW_S))
    book.book.close()
    gc.disable()  # the gateway's collector comes seldom
    asked = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        for _ in range(3):
            book.ledger.record(a_turn(started_unix_s=NOW_S))
            book.book._write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, asked)
        gc.enable()
    assert sum(book.lost) == 3
    assert [name for name in _open_files() if name.startswith(str(path))] == []


def _open_files() -> list[str]:
    folder = Path("/proc/self/fd")
    return [str(each.readlink()) for each in folder.iterdir() if each.is_symlink()]


def test_a_turn_that_no_file_can_hold_costs_its_own_row_alone(book: Book) -> None:
    """Tokens beyond 64 bits, as only a broken upstream tells them."""
    beyond = Usage(input_tokens=1 << 70)
    for request_id, usage in (("one", None), ("two", beyond), ("three", None)):
        book.ledger.record(a_turn(request_id=request_id, started_unix_s=NOW_S - 9, usage=usage))
    book.book.close()
    assert {row["request_id"] for row in book.rows()} == {"one", "three"}
    assert book.lost == [1]
