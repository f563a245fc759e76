"""The log: one line a turn, nothing secret, and a turn never waits for it."""

from __future__ import annotations

import io
import json
import logging
import re
import threading
from typing import TYPE_CHECKING

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from app.telemetry.log import LogWriter, configure, human_line, json_line, redacted, turn_fields
from app.telemetry.timeline import Timeline
from tests.unit.telemetry.records import a_turn

if TYPE_CHECKING:
    from collections.abc import Iterator


def lines(sink: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in sink.getvalue().splitlines()]


@pytest.fixture
def writer() -> Iterator[LogWriter]:
    made = LogWriter(io.StringIO(), human=False)
    yield made
    made.close()


def sink_of(writer: LogWriter) -> io.StringIO:
    sink = writer._sink
    assert isinstance(sink, io.StringIO)
    return sink


def test_a_turn_is_one_line_with_its_times_and_outcome(writer: LogWriter) -> None:
    timeline = Timeline(lambda: 0)
    timeline.mark("cache", 0, 310_000)
    writer.put_turns([a_turn(times=timeline)])
    writer.flush()
    (line,) = lines(sink_of(writer))
    assert line["event"] == "turn_finished"
    assert line["stages_ms"] == {"cache": 0.31}
    assert (line["status"], line["cache"], line["total_ms"]) == (200, "miss", 800.0)
    assert str(line["timestamp"]).endswith("Z")


def test_close_writes_what_is_queued_by_any_number_of_threads() -> None:
    sink = io.StringIO()
    writer = LogWriter(sink, human=False, interval_s=0.001)
    writer.start()

    def put() -> None:
        for n in range(500):
            writer.put({"event": "x", "n": n})

    threads = [threading.Thread(target=put) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    writer.close()
    assert len(lines(sink)) == 2000


def test_a_full_queue_drops_lines_counts_them_and_says_so() -> None:
    sink = io.StringIO()
    writer = LogWriter(sink, human=False, capacity=3)
    for n in range(10):
        writer.put({"event": "x", "n": n})
    assert writer.dropped == 7
    writer.flush()
    told, *kept = lines(sink)
    assert told == {"event": "log_lines_dropped", "level": "warning", "lines": 7}
    assert [line["n"] for line in kept] == [0, 1, 2]


def test_a_reader_that_went_away_costs_lines_and_not_the_process() -> None:
    sink = io.StringIO()
    writer = LogWriter(sink, human=False)
    sink.close()
    writer.put({"event": "x"})
    writer.close()
    assert writer.dropped == 1


@pytest.mark.parametrize(
    "name", ["Authorization", "api_key", "x-api-key", "client_secret", "password", "set-cookie"]
)
def test_values_under_telling_names_are_redacted(name: str) -> None:
    line = redacted({"event": "x", "headers": {name: "canary"}, name: "canary"})
    assert "canary" not in json_line(line)


@pytest.mark.parametrize(
    "text",
    [
        "sk-canary1234567890",
        "refused: Bearer canary1234567890",
        "https://user:canary@host/path",
        "eyJhbGciOiJIUzI1.canary.signature",
    ],
)
def test_what_is_shaped_like_a_key_is_redacted_wherever_it_stands(text: str) -> None:
    line = redacted({"event": f"failed {text}", "why": [text], "deep": {"er": (text,)}})
    assert "canary" not in json_line(line)


@pytest.mark.parametrize("name", ["prompt", "messages", "content", "input", "answer"])
def test_content_is_withheld(name: str) -> None:
    assert "canary" not in json_line(redacted({"event": "x", name: ["canary"]}))


def test_a_key_typed_as_a_model_name_does_not_reach_the_log() -> None:
    assert "canary" not in json_line(turn_fields(a_turn(requested_model="sk-canary1234567890")))


@given(st.dictionaries(st.text(), st.text() | st.integers() | st.floats() | st.none()))
def test_any_line_becomes_exactly_one_line_in_both_forms(fields: dict[str, object]) -> None:
    line = redacted({**fields, "event": "x"})
    for text in (json_line(line), human_line(line)):
        assert text.endswith("\n")
        assert text.count("\n") == 1
    json.loads(json_line(line))


def test_a_value_cannot_drive_the_terminal() -> None:
    text = human_line({"event": "x", "model": "\x1b]0;title\x07\x1b[2Jgone\r"})
    assert not re.search(r"[\x07\r]|\x1b(?!\[\d{1,2}m)", text)


def test_structlog_and_the_standard_library_arrive_as_lines(writer: LogWriter) -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        configure(writer)
        structlog.get_logger().info("pool_warmed", connections=4)
        structlog.get_logger().debug("not_shown")
        logging.getLogger("another.package").warning("port %s", 8080)
        writer.flush()
    finally:
        root.handlers[:] = before
        root.setLevel(level)
        structlog.reset_defaults()
    ours, theirs = lines(sink_of(writer))
    assert (ours["event"], ours["connections"], ours["level"]) == ("pool_warmed", 4, "info")
    assert (theirs["event"], theirs["logger"]) == ("port 8080", "another.package")
