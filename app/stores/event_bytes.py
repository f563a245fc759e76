"""The encoding of answer events and run events in Redis.

An event is its class's name and its fields. A name or a field that this version does not know makes the
whole unreadable, which readers treat as a broken stream.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar, get_args

import msgspec

from app.domain import events, run_events
from app.domain.events import Event
from app.domain.run_events import RunEvent, Within

E = TypeVar("E")
_EVENTS: dict[str, type[Event]] = {each.__name__: each for each in get_args(events.Event)}
_RUN_EVENTS: dict[str, type[RunEvent]] = {
    each.__name__: each for each in get_args(run_events.RunEvent)
}
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[str, msgspec.Raw]).decode
_decode_all = msgspec.msgpack.Decoder(list[tuple[str, msgspec.Raw]]).decode
_decode_within = msgspec.msgpack.Decoder(tuple[str, bytes]).decode


def events_to_bytes(answer_events: Sequence[Event]) -> bytes:
    """Encode some events of an answer."""
    return _encode([(type(event).__name__, event) for event in answer_events])


def events_from_bytes(data: bytes) -> list[Event]:
    """Decode them; raises ``ValueError`` for those of another version."""
    return [_of(_EVENTS, name, raw) for name, raw in _decode_all(data)]


def run_event_to_bytes(event: RunEvent) -> bytes:
    """Encode one event of a run."""
    if isinstance(event, Within):
        inner: object = (event.subagent_id, run_event_to_bytes(event.event))
        return _encode((Within.__name__, inner))
    return _encode((type(event).__name__, event))


def run_event_from_bytes(data: bytes) -> RunEvent:
    """Decode it; raises ``ValueError`` for one of another version."""
    name, raw = _decode(data)
    if name == Within.__name__:
        subagent_id, inner = _decode_within(raw)
        event = run_event_from_bytes(inner)
        return Within(subagent_id, event)  # type: ignore[arg-type] # only an inner one was wrapped
    return _of(_RUN_EVENTS, name, raw)


def _of(known: Mapping[str, type[E]], name: str, raw: msgspec.Raw) -> E:
    made = known.get(name)
    if made is None:
        raise ValueError(f"an event of another version: {name[:40]!r}")
    return msgspec.msgpack.decode(raw, type=made)
