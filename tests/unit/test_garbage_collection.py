"""The garbage collector runs in small pieces, and over everything only where nobody waits for it."""

from __future__ import annotations

import asyncio

from app.garbage_collection import (
    IDLE_S,
    MAX_POSTPONED_S,
    MIN_YOUNG_OBJECTS,
    TICK_S,
    GarbageSchedule,
)


class Collector:
    """Writes down what it was told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.young = 0

    def get_count(self) -> tuple[int, int, int]:
        return self.young, 0, 0

    def collect(self, generation: int = 2) -> int:
        self.told.append(f"collect {generation}")
        self.young = 0
        return 0

    def freeze(self) -> None:
        self.told.append("freeze")

    def unfreeze(self) -> None:
        self.told.append("unfreeze")


class Scene:
    """A collector, and a thread whose CPU time a test sets."""

    def __init__(self) -> None:
        self.collector, self.used_s = Collector(), 0.0
        self.loop = asyncio.new_event_loop()
        self.loop.close()  # nothing here runs by itself
        self.collecting = GarbageSchedule(self.loop, self.collector, lambda: self.used_s)

    def ticks(self, seconds: float, *, busy: bool, young: int = 0) -> None:
        for _ in range(round(seconds / TICK_S)):
            self.used_s += TICK_S if busy else 0.0
            self.collector.young += young
            self.collecting.run_due()


EVERYTHING = ["unfreeze", "collect 2", "freeze"]


def test_what_is_new_is_looked_through_once_there_is_enough_and_then_left_alone() -> None:
    scene = Scene()
    scene.ticks(TICK_S, busy=True, young=MIN_YOUNG_OBJECTS - 1)
    assert scene.collector.told == []
    scene.ticks(TICK_S, busy=True, young=1)
    assert scene.collector.told == ["collect 0", "freeze"]


def test_everything_is_walked_over_once_nobody_has_asked_for_a_while() -> None:
    scene = Scene()
    scene.ticks(TICK_S, busy=True, young=MIN_YOUNG_OBJECTS)
    scene.collector.told.clear()
    scene.ticks(IDLE_S - TICK_S, busy=False)
    assert scene.collector.told == []
    scene.ticks(TICK_S, busy=False)
    assert scene.collector.told == EVERYTHING


def test_a_request_in_between_puts_that_off_but_not_for_ever() -> None:
    scene = Scene()
    scene.ticks(TICK_S, busy=True, young=MIN_YOUNG_OBJECTS)
    scene.collector.told.clear()
    scene.ticks(IDLE_S - TICK_S, busy=False)
    scene.ticks(TICK_S, busy=True)
    scene.ticks(IDLE_S - TICK_S, busy=False)
    assert scene.collector.told == []
    scene.ticks(MAX_POSTPONED_S - 2 * IDLE_S, busy=True)
    assert scene.collector.told == EVERYTHING


def test_a_server_that_rests_and_holds_nothing_new_is_left_in_peace() -> None:
    scene = Scene()
    scene.ticks(4 * IDLE_S, busy=False)
    assert scene.collector.told == []
    scene.ticks(TICK_S, busy=True, young=MIN_YOUNG_OBJECTS)
    scene.ticks(4 * IDLE_S, busy=False)
    assert scene.collector.told == ["collect 0", "freeze", *EVERYTHING]


def test_it_goes_on_by_itself_for_as_long_as_the_loop_runs() -> None:
    collector, over = Collector(), asyncio.Event()

    class Ending(GarbageSchedule):
        def run_due(self) -> None:
            super().run_due()
            if len(collector.told) > 2:
                over.set()
            collector.young = MIN_YOUNG_OBJECTS

    async def wait() -> None:
        Ending(asyncio.get_running_loop(), collector).start()
        await asyncio.wait_for(over.wait(), 30)

    asyncio.run(wait())
    assert collector.told[:4] == ["collect 0", "freeze"] * 2
