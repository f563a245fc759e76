"""A worker finds an interrupted run in its siblings, and never takes silence for "no such run"."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from app.api.sibling_approvals import SiblingApprovals
from app.errors import Overloaded
from tests.support.siblings import siblings_saying

pytestmark = pytest.mark.anyio
INTERRUPT = {
    "id": "r:c1", "call_id": "c1", "name": "restart", "arguments": {"id": 2**70}, "message": "?",
}  # fmt: skip


def answer(value: object) -> bytes:
    """A whole answer with ``value`` as JSON."""
    body = json.dumps(value).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)


async def found(folder: Path, *answers: bytes):
    """What is found where each sibling gives one answer and hangs up."""
    async with siblings_saying(folder, *answers), asyncio.timeout(5):
        return await SiblingApprovals(folder).find("acme", "r")


async def test_the_sibling_that_has_the_run_gives_its_calls(tmp_path) -> None:
    run = await found(tmp_path, answer(None), b"", answer([INTERRUPT]))
    assert run is not None
    (interrupt,) = run.interrupts
    assert (interrupt.call_id, interrupt.arguments) == ("c1", {"id": 2**70})


async def test_a_run_that_no_sibling_has_is_none(tmp_path) -> None:
    (tmp_path / "dead.sock").touch()
    assert await found(tmp_path, answer(None), answer(None)) is None


@pytest.mark.parametrize("torn", [b"", answer(None)[:-2], b"HTTP/1.1 500 No\r\n\r\n", b"\r\n\r\n"])
async def test_a_sibling_that_gives_no_answer_may_have_the_run(tmp_path, torn) -> None:
    with pytest.raises(Overloaded) as silent:
        await found(tmp_path, answer(None), torn)
    assert silent.value.code == "workers_silent"


async def test_a_claim_that_is_not_answered_is_not_taken_for_either(tmp_path) -> None:
    async with siblings_saying(tmp_path, answer([INTERRUPT])), asyncio.timeout(5):
        run = await SiblingApprovals(tmp_path).find("acme", "r")
        assert run is not None
        with pytest.raises(Overloaded):
            await run.claim()  # it says the same again, which is no answer to this
