"""What runs teach is kept, shared, sealed, and learned once."""

from __future__ import annotations

import os

import pytest

from app.learn.argument_sources import ConversationState, PastCall
from app.learn.lessons import Lesson, LessonTurn, decode_lesson, encode_lesson
from app.learn.next_calls import SpeculativeTool
from app.pipeline.lesson_exchange import LessonExchange
from app.pipeline.speculation import Speculation
from app.stores.lesson_file import LessonFile
from app.stores.seal import Sealer

pytestmark = pytest.mark.anyio
GET = SpeculativeTool(
    "get",
    "Get a ticket.",
    {"type": "object", "properties": {"id": {"type": "string"}}, "required": ["id"]},
)


def lesson(number: int, tenant: str = "t") -> Lesson:
    """A user names a ticket, which is looked up."""
    call = PastCall("get", {"id": f"INC-{number}"}, {"state": "open"})
    text = f"see INC-{number}"
    turns = (LessonTurn("start", text, (call,)), LessonTurn("get", "open", ()))
    return Lesson(
        f"{tenant}{number}", tenant, "desk", text, (), (), turns, (GET,), {"get": GET.parameters}, (), 0.1
    )  # fmt: skip


def never(why: str) -> None:
    """No fault is expected."""
    raise AssertionError(why)


def foreseen(speculation: Speculation, tenant: str = "t") -> list[object]:
    """The arguments that are foreseen for a ticket that nobody has named before."""
    habits = speculation.next_call_model(tenant, "desk")
    templates = speculation.stage_patterns(tenant, "desk", "start").predict("see INC-7", ["get"])
    found = [
        each.arguments
        for each in habits.predict(ConversationState("see INC-7"), (GET,)).predictions
    ]
    return [*found, *(each.arguments for each in templates if each.tries)]


async def taught(folder, seal=None, numbers=range(100, 112), **limits) -> None:
    """One process that has seen a few runs, and is over."""
    speculation = Speculation()
    lessons = LessonExchange(speculation, LessonFile(folder, never, seal, **limits))
    for number in numbers:
        speculation.on_lesson(lesson(number))
    await lessons.aclose()


def test_a_lesson_is_read_as_it_was_written() -> None:
    line = encode_lesson(lesson(1))
    assert line is not None
    assert b"\n" not in line
    assert decode_lesson(line) == lesson(1)
    assert decode_lesson(b"{}") is None
    assert decode_lesson(b"\xff") is None


async def test_what_was_learned_is_there_again_after_a_start(tmp_path) -> None:
    await taught(tmp_path)
    speculation = Speculation()
    assert foreseen(speculation) == []
    await LessonExchange(speculation, LessonFile(tmp_path, never)).restore()
    assert {"id": "INC-7"} in foreseen(speculation)
    assert speculation.next_call_model("t", "desk").turns == 12
    assert foreseen(speculation, "somebody else") == []


async def test_workers_learn_from_each_other_and_nothing_twice(tmp_path) -> None:
    one, two = Speculation(), Speculation()
    of_one = LessonExchange(one, LessonFile(tmp_path, never))
    of_two = LessonExchange(two, LessonFile(tmp_path, never))
    for number in range(100, 112):
        one.on_lesson(lesson(number))
    await of_one.exchange()
    for _ in range(3):
        await of_two.exchange()
        await of_one.exchange()
    await two.aclose()
    assert {"id": "INC-7"} in foreseen(two)
    assert two.next_call_model("t", "desk").turns == 12
    assert one.next_call_model("t", "desk").turns == 0  # its own runs taught it when they were over


async def test_what_is_kept_is_sealed_and_opens_with_the_key_alone(tmp_path) -> None:
    key = os.urandom(32)
    await taught(tmp_path, Sealer([key]))
    raw = (tmp_path / "lessons.jsonl").read_bytes()
    assert b"INC" not in raw
    assert b"Get a ticket" not in raw
    found = LessonFile(tmp_path, never, Sealer([key])).read_new()
    assert [decode_lesson(line) for line in found] == [lesson(number) for number in range(100, 112)]
    assert LessonFile(tmp_path, never, Sealer([os.urandom(32)])).read_new() == []


async def test_the_file_stays_short_and_its_readers_go_on(tmp_path) -> None:
    reader, seen = LessonFile(tmp_path, never), set()
    for number in range(200):
        await taught(tmp_path, numbers=[number], most_bytes=20_000)
        seen |= {decode_lesson(line).lesson_id for line in reader.read_new()}
    assert (tmp_path / "lessons.jsonl").stat().st_size <= 20_000
    assert seen == {f"t{number}" for number in range(200)}


async def test_damage_and_a_folder_that_cannot_be_written_cost_nothing_else(tmp_path) -> None:
    await taught(tmp_path)
    with (tmp_path / "lessons.jsonl").open("ab") as file:
        file.write(b"\x00\xff broken\n" + b'{"half": ')
    speculation = Speculation()
    await LessonExchange(speculation, LessonFile(tmp_path, never)).restore()
    assert speculation.next_call_model("t", "desk").turns == 12
    (tmp_path / "file").write_text("")
    told: list[str] = []
    LessonFile(tmp_path / "file", told.append).append([b"x"])
    assert len(told) == 1
