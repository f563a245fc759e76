"""Removals that a store owes are remembered until they are done, also by the next start."""

from __future__ import annotations

import pytest

from app.cache.pending_removals import PendingRemovals
from app.domain.vectors import QuestionFilter

REMOVALS = [
    ("ab" * 16,),
    QuestionFilter("t", "small", ("a", "b")),
    QuestionFilter("t"),
    QuestionFilter(),
]


@pytest.mark.parametrize("what", REMOVALS, ids=str)
def test_a_removal_is_pending_after_a_restart_until_it_is_done(tmp_path, what):
    faults: list[str] = []
    PendingRemovals(tmp_path / "owed", faults.append).add(what)
    again = PendingRemovals(tmp_path / "owed", faults.append)
    assert again.oldest() == what
    again.remove_oldest()
    assert not again
    assert not PendingRemovals(tmp_path / "owed", faults.append)
    assert faults == []


def test_one_that_cannot_be_read_is_named_and_may_have_meant_everything(tmp_path):
    faults: list[str] = []
    for name, data in (("a", b"{no"), ("b", b"{}"), ("c", b'{"ids": 3}'), ("d", b"")):
        (tmp_path / f"{name}.owed").write_bytes(data)
    pending = PendingRemovals(tmp_path, faults.append)
    assert len(faults) == 4
    for _ in range(4):
        assert pending.oldest() == QuestionFilter()
        pending.remove_oldest()
    assert not pending
    assert not list(tmp_path.glob("*.owed"))


def test_a_folder_that_cannot_be_written_is_a_fault_and_the_removal_stays_pending(tmp_path):
    (tmp_path / "owed").write_text("a file where the folder should be")
    faults: list[str] = []
    pending = PendingRemovals(tmp_path / "owed", faults.append)
    pending.add(QuestionFilter("t"))
    assert pending.oldest() == QuestionFilter("t")
    assert "cannot be written" in faults[0]
