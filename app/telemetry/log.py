"""The log: one canonical line a turn, written by a thread, so that the hot path only appends to a
deque.

Theory of operation. A stdlib log call costs 7 us and may block on a full pipe; an append costs
0.05. ``LogWriter`` owns a deque and one daemon thread that wakes every ``interval_s``, formats what
has come and writes it with one call. It polls, because waking it per line would cost the event loop
more than the line. When the deque is full (the disk or the pipe is slower than the traffic) new
lines are dropped and counted, and the count is logged as soon as there is room: a log may lose
lines, it may not stop a turn. ``close`` writes what is left.

Nothing secret is in it: values under telling names (``authorization``, ``api_key`` ...) and
anything shaped like a key are replaced, and fields that would hold content (``prompt``,
``messages`` ...) are withheld.
"""

from __future__ import annotations

import json
import logging
import re
import threading
from collections import deque
from collections.abc import Callable, MutableMapping, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from time import time
from typing import TextIO, cast

import orjson
import structlog

from app.domain.turn_record import TurnRecord
from app.telemetry.turn_batch import TurnBatch
from app.telemetry.turn_line import TurnLines

Line = MutableMapping[str, object]

QUEUE_LINES = 20_000
"""About 10 MB at most; at 25,000 turns a second it fills in 0.8 s if nothing is written."""

_BATCH_LINES = 64
"""Formatted at once, in half a millisecond: only the write behind them lets the event loop's thread
go on.
"""

_SECRET_NAMES = re.compile(
    r"(?i)(authorization|api[_-]?key|secret|password|passwd|cookie|credential|bearer|(access|auth|refresh)[_-]?token)"
)
_SECRET_SHAPES = re.compile(
    r"(?i)\b(?:bearer\s+[\w.~+/=-]{6,}|(?:sk|pk|rk|key)-[\w-]{8,}|eyJ[\w-]{8,}\.[\w-]+\.[\w-]+)"
)
_URL_PASSWORDS = re.compile(r"(?<=://)[^/\s:@]*:[^/\s@]*(?=@)")
_CONTENT_NAMES = frozenset(
    {
        "prompt",
        "messages",
        "content",
        "body",
        "input",
        "answer",
        "completion",
        "system",
        "arguments",
    }
)
_REDACTED = "[redacted]"
_WITHHELD = "[withheld]"


class LogWriter:
    """A thread that writes lines; ``put`` never blocks and never raises."""

    def __init__(
        self,
        sink: TextIO,
        *,
        human: bool | None = None,
        capacity: int = QUEUE_LINES,
        interval_s: float = 0.1,
    ) -> None:
        """``human`` None: a terminal gets lines for eyes, everything else JSON."""
        self._sink = sink
        self.human = sink.isatty() if human is None else human
        self._capacity = capacity
        self._interval_s = interval_s
        self._queue: deque[Sequence[TurnRecord] | Line] = deque()
        # Turns come many to an entry. Each count has one writer: who puts, and who writes.
        self._turns_put = self._turns_written = 0
        self._stopping = threading.Event()
        self._writing = threading.Lock()
        self.dropped = 0
        """Lines lost since the start, because the queue was full or the sink was gone."""
        self._told_dropped = 0
        self._turns = TurnLines(turn_fields, _iso)
        self._thread = threading.Thread(target=self._run, name="slipstream-log", daemon=True)

    def start(self) -> None:
        """Begin to write in the background."""
        self._thread.start()

    def put(self, line: Line) -> None:
        """Queue one line: a mapping with ``event``; about 0.1 us."""
        if len(self._queue) >= self._capacity:
            self.dropped += 1
            return
        self._queue.append(line)

    def put_turns(self, turns: Sequence[TurnRecord]) -> None:
        """Queue the lines of finished turns of one ``kind``; nobody changes ``turns`` afterwards."""
        room = self._capacity - len(self._queue) - self._turns_put + self._turns_written
        if room < len(turns):
            self.dropped += len(turns) - max(0, room)
            turns = TurnBatch(turns[: max(0, room)])
        if turns:
            self._turns_put += len(turns)
            self._queue.append(turns)

    def flush(self) -> None:
        """Write everything that is queued, in the calling thread."""
        with self._writing:
            while self._queue:
                self._write_batch()

    def close(self) -> None:
        """Write what is left and end the thread; idempotent."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5.0)
        self.flush()

    def _run(self) -> None:
        while not self._stopping.wait(self._interval_s):
            if self._queue:
                self.flush()

    def _write_batch(self) -> None:
        show = human_line if self.human else json_line
        lines: list[str] = []
        lost = self.dropped - self._told_dropped
        if lost:
            self._told_dropped += lost
            lines.append(show({"event": "log_lines_dropped", "level": "warning", "lines": lost}))
        count = len(lines)
        while self._queue and count < _BATCH_LINES:
            item = self._queue.popleft()
            if isinstance(item, MutableMapping):
                lines.append(show(redacted(item)))
                count += 1
                continue
            self._turns_written += len(item)
            count += len(item)
            if self.human:
                lines += [human_line(turn_fields(turn)) for turn in item]
            else:
                lines.append(self._turns.lines(item))
        try:
            self._sink.write("".join(lines))
            self._sink.flush()
        except (OSError, ValueError):
            # The pipe's reader is gone or the file is closed: turns matter more than their lines.
            self.dropped += count


def turn_fields(record: TurnRecord) -> Line:
    """The canonical line of a turn: everything an operator filters by, times in milliseconds,
    nothing said.
    """
    usage = record.usage
    line: Line = {
        "timestamp": _iso(record.started_unix_s + record.total_s),
        "level": "info"
        if record.status < HTTPStatus.INTERNAL_SERVER_ERROR and not record.code
        else "warning",
        "event": "turn_finished",
        "request_id": record.request_id,
        "dialect": record.dialect,
        "status": record.status,
        "code": record.code,
        "stream": record.stream,
        "tenant": record.tenant,
        "requested_model": _clean("", record.requested_model[:80]),
        "model": record.model,
        "provider": record.provider,
        "tier": record.tier,
        "band": record.band,
        "cache": record.cache,
        "cache_reason": record.cache_reason,
        "reason": record.reason,
        "finish": record.finish,
        "total_ms": round(record.total_s * 1e3, 3),
        "ttft_ms": None if record.ttft_s is None else round(record.ttft_s * 1e3, 3),
        "upstream_ms": round(record.upstream_s * 1e3, 3),
        "overhead_ms": None if record.overhead_s is None else round(record.overhead_s * 1e3, 3),
        "input_tokens": usage.prompt_tokens if usage else None,
        "cached_tokens": usage.cached_tokens if usage else None,
        "output_tokens": usage.output_tokens if usage else None,
        "cost_usd": record.cost_usd,
        "attempts": record.attempts,
        "disconnect": record.disconnect,
    }
    if record.tools:
        line["tools"] = [f"{use.name}:{use.outcome}" for use in record.tools]
    if record.times is not None:
        line["stages_ms"] = {
            stage: round(passed_ns / 1e6, 3)
            for stage, passed_ns in record.times.stage_times_ns().items()
        }
    return {name: value for name, value in line.items() if value is not None and value != ""}


def redacted(line: Line) -> Line:
    """The line without secrets and without content; nested values too."""
    return {name: _clean(name, value) for name, value in line.items()}


def _clean(name: str, value: object) -> object:
    if _SECRET_NAMES.search(name):
        return _REDACTED
    if name in _CONTENT_NAMES:
        return _WITHHELD
    if isinstance(value, str):
        return _URL_PASSWORDS.sub(_REDACTED, _SECRET_SHAPES.sub(_REDACTED, value))
    if isinstance(value, dict):
        mapping = cast("dict[object, object]", value)
        return {str(key): _clean(str(key), inner) for key, inner in mapping.items()}
    if isinstance(value, (list, tuple)):
        return [_clean("", inner) for inner in cast("list[object]", value)]
    return value


def json_line(line: Line) -> str:
    """One line of JSON; a value that JSON does not know is written as its text."""
    try:
        return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode() + "\n"
    except orjson.JSONEncodeError:
        # Lone surrogates and giant integers: rare, and the standard library can write them.
        return json.dumps(line, default=str) + "\n"


_COLOURS = {"warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[31m", "debug": "\x1b[2m"}


def human_line(line: Line) -> str:
    """One line for a person at a terminal: the clock, what happened, then ``name=value``."""
    rest = dict(line)
    at, level = str(rest.pop("timestamp", "")), str(rest.pop("level", "info"))
    event = str(rest.pop("event", ""))
    clock = at[11:23]
    colour = _COLOURS.get(level, "")
    if event == "turn_finished":
        body = _human_turn(rest)
    else:
        body = " ".join([event, *(f"\x1b[2m{name}=\x1b[0m{value}" for name, value in rest.items())])
    return f"\x1b[2m{clock}\x1b[0m {colour}{_printable(body)}\x1b[0m\n"


def _human_turn(line: Line) -> str:
    parts = [str(line.get("status", "")), str(line.get("dialect", ""))]
    if line.get("model"):
        parts.append(f"→ {line.get('model')}")
    parts += [str(line[name]) for name in ("tier", "cache", "code") if line.get(name)]
    parts += [
        f"\x1b[2m{name.removesuffix('_ms')}\x1b[0m {line[name]} ms"
        for name in ("ttft_ms", "total_ms", "overhead_ms")
        if name in line
    ]
    if "output_tokens" in line:
        parts.append(f"\x1b[2mtokens\x1b[0m {line.get('input_tokens')}+{line['output_tokens']}")
    if line.get("cost_usd"):
        parts.append(f"${line['cost_usd']:.6f}")
    parts.append(f"\x1b[2m{line.get('request_id', '')}\x1b[0m")
    return "  ".join(part for part in parts if part)


def _printable(text: str) -> str:
    """No control characters but our own colours: a header's value must not drive somebody's
    terminal.
    """
    return re.sub(r"[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f]|\x1b(?!\[\d{1,2}m)", "?", text).replace(
        "\n", "⏎"
    )


def configure(writer: LogWriter, level: int = logging.INFO) -> None:
    """Send structlog's events and the standard library's records to ``writer``; called once by the
    command.
    """

    def hand_over(_: object, __: str, event: Line) -> Line:
        writer.put(dict(event))
        raise structlog.DropEvent

    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            hand_over,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    root.handlers[:] = [_StandardRecords(writer.put)]
    root.setLevel(level)


class _StandardRecords(logging.Handler):
    """Other packages' records, as lines of ours."""

    def __init__(self, put: Callable[[Line], None]) -> None:
        super().__init__()
        self._put = put

    def emit(self, record: logging.LogRecord) -> None:
        """Queue the record; its arguments are formatted here, because they may change."""
        line: Line = {
            "timestamp": _iso(record.created),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            "logger": record.name,
        }
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = logging.Formatter().formatException(record.exc_info)
        self._put(line)


def _iso(unix_s: float | None = None) -> str:
    moment = datetime.fromtimestamp(time() if unix_s is None else unix_s, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
