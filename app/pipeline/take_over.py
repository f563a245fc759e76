"""Go on with an answer whose leader died in the middle of it.

Nothing can be asked of a model but to begin again. So it is asked again, and what it says is compared,
letter by letter, with what the client was shown: as long as it is the same nothing is sent, and from
where the stream stood on the client gets the rest, under the answer's first id. A model that says
something else this time cannot be gone on with: the client is told so (``leader_lost``).

Only text and open reasoning can be compared: calls of tools have ids of their own, and a signature
holds for one answer. The items of a Responses stream have ids too, so none is gone on with.
"""

from __future__ import annotations

import msgspec

from app.domain.chat import ChatRequest, Dialect
from app.domain.events import (
    AnswerStarted,
    Emit,
    Event,
    Frames,
    Progress,
    TextDelta,
    ThinkingDelta,
    WholeBody,
)
from app.domain.replay import replay
from app.errors import UpstreamClosed
from app.pipeline.gateway import Gateway
from app.ports import Codec, StreamWriter
from app.wire.identity import answer_id
from app.wire.openai_chat_answer import ID_PREFIX

_Said = list[tuple[type[TextDelta] | type[ThinkingDelta], str]]


def lost() -> UpstreamClosed:
    """What a client is told where nothing can go on."""
    message = (
        "the worker that made this shared upstream call was lost in the middle of the answer: "
        "send the request again"
    )
    return UpstreamClosed(message, code="leader_lost")


class GoingOn:
    """An ``Emit`` that passes over what was shown; ``finish_answer`` once the answer is whole."""

    def __init__(self, said: _Said, codec: Codec, writer: StreamWriter | None, emit: Emit) -> None:
        """``said``: what is to be repeated; ``writer``: writes the rest where frames were shown."""
        self._said, self._reader, self._codec = said, codec.reader(), codec
        self._writer, self._emit = writer, emit
        self.ids = (b"", b"")
        """The answer's id in a frame as the writer spells it, and as it was shown."""

    async def __call__(self, event: Event) -> None:
        """Take one event of the answer that was begun again; raises ``UpstreamClosed``."""
        match event:
            case Frames(data):
                for each in self._reader.feed(data):
                    await self._take(each)
            case WholeBody(body):
                for each in replay(self._codec.read_answer(body)):
                    await self._take(each)
            case _:
                await self._take(event)

    async def finish_answer(self) -> None:
        """The answer is whole: say its end."""
        for each in self._reader.end():
            await self._take(each)
        if self._said:
            raise lost()
        if self._writer is not None:
            await self._emit(Frames(self._as_shown(self._writer.end())))

    def _as_shown(self, data: bytes) -> bytes:
        """A frame under the id that the upstream gave, where ours would be spelled otherwise."""
        ours, theirs = self.ids
        return data if ours == theirs else data.replace(ours, theirs)

    async def _take(self, event: Event) -> None:
        match event:
            case AnswerStarted() | Progress():
                return
            case TextDelta(text) | ThinkingDelta(text) if self._said:
                rest = self._compared(type(event), text)
                if not rest:
                    return
                event = type(event)(rest)
            case _ if self._said:
                raise lost()
        if self._writer is None:
            await self._emit(event)
        elif data := self._writer.write(event):
            await self._emit(Frames(self._as_shown(data)))

    def _compared(self, kind: type[TextDelta | ThinkingDelta], text: str) -> str:
        """What of ``text`` was not shown yet."""
        expected, shown = self._said[0]
        if expected is not kind:
            raise lost()
        if len(text) < len(shown):
            if not shown.startswith(text):
                raise lost()
            self._said[0] = (kind, shown[len(text) :])
            return ""
        if not text.startswith(shown):
            raise lost()
        self._said.pop(0)
        rest = text[len(shown) :]
        if rest and self._said:
            raise lost()
        return rest


def going_on(shown: list[Event], request: ChatRequest, gateway: Gateway, emit: Emit) -> GoingOn:
    """Make way for the rest of an answer of which ``shown`` was shown; raises ``UpstreamClosed``."""
    codec = gateway.codecs[request.dialect]
    as_frames = any(isinstance(each, Frames) for each in shown)
    if as_frames and request.dialect is Dialect.RESPONSES:
        raise lost()
    reader, plain = codec.reader(), list[Event]()
    for each in shown:
        plain += reader.feed(each.data) if isinstance(each, Frames) else [each]
    writer = codec.writer(request) if as_frames else None
    said: _Said = []
    ids = (b"", b"")
    for each in plain:
        if writer is not None:
            writer.write(each)  # so that it stands where the stream stands
        match each:
            case TextDelta(text) | ThinkingDelta(text):
                if said and said[-1][0] is type(each):
                    said[-1] = (type(each), said[-1][1] + text)
                else:
                    said.append((type(each), text))
            case AnswerStarted():
                ids = (_id(answer_id(each.id, ID_PREFIX)), _id(each.id))
            case Progress():
                pass
            case _:
                raise lost()
    on = GoingOn(said, codec, writer, emit)
    if request.dialect is Dialect.CHAT and as_frames and ids[1] != _id(""):
        on.ids = ids
    return on


def _id(answer: str) -> bytes:
    return b'"id":' + msgspec.json.encode(answer)
