"""Continue an answer whose leader was lost in the middle of it.

A model can only be asked from the start again. So it is, and its text is compared with what the client was
shown, character by character: nothing is sent while they are equal, and then the client gets the rest, under
the answer's first id. A model whose text differs this time cannot continue: the client gets ``leader_lost``.

Only text and open reasoning can be compared: tool calls have new ids, and a signature holds for one answer.
The items of a Responses stream have ids too, so none is continued.
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

_ShownText = list[tuple[type[TextDelta] | type[ThinkingDelta], str]]


def leader_lost_error() -> UpstreamClosed:
    """The error for an answer that cannot be continued."""
    message = (
        "the worker that made this shared upstream call was lost in the middle of the answer: "
        "send the request again"
    )
    return UpstreamClosed(message, code="leader_lost")


class Continuation:
    """An ``Emit`` that skips what was shown; call ``finish_answer`` once the answer is complete."""

    def __init__(
        self, shown: _ShownText, codec: Codec, writer: StreamWriter | None, emit: Emit
    ) -> None:
        """``shown``: the text to be repeated; ``writer``: writes the rest where frames were shown."""
        self._expected, self._reader, self._codec = shown, codec.reader(), codec
        self._writer, self._emit = writer, emit
        self.ids = (b"", b"")
        """The answer's id in a frame: as the writer writes it, and as it was shown."""

    async def __call__(self, event: Event) -> None:
        """Take one event of the repeated answer; raises ``UpstreamClosed`` where it differs."""
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
        """The repeated answer is complete: end the stream; raises ``UpstreamClosed`` where it was shorter."""
        for each in self._reader.end():
            await self._take(each)
        if self._expected:
            raise leader_lost_error()
        if self._writer is not None:
            await self._emit(Frames(self._with_shown_id(self._writer.end())))

    def _with_shown_id(self, data: bytes) -> bytes:
        """``data`` with the id that was shown in place of the writer's."""
        ours, theirs = self.ids
        return data if ours == theirs else data.replace(ours, theirs)

    async def _take(self, event: Event) -> None:
        match event:
            case AnswerStarted() | Progress():
                return
            case TextDelta(text) | ThinkingDelta(text) if self._expected:
                rest = self._beyond_shown(type(event), text)
                if not rest:
                    return
                event = type(event)(rest)
            case _ if self._expected:
                raise leader_lost_error()
        if self._writer is None:
            await self._emit(event)
        elif data := self._writer.write(event):
            await self._emit(Frames(self._with_shown_id(data)))

    def _beyond_shown(self, kind: type[TextDelta | ThinkingDelta], text: str) -> str:
        """The part of ``text`` that was not shown yet; raises ``UpstreamClosed`` where it differs."""
        expected, shown = self._expected[0]
        if expected is not kind:
            raise leader_lost_error()
        if len(text) < len(shown):
            if not shown.startswith(text):
                raise leader_lost_error()
            self._expected[0] = (kind, shown[len(text) :])
            return ""
        if not text.startswith(shown):
            raise leader_lost_error()
        self._expected.pop(0)
        rest = text[len(shown) :]
        if rest and self._expected:
            raise leader_lost_error()
        return rest


def continuation(
    shown: list[Event], request: ChatRequest, gateway: Gateway, emit: Emit
) -> Continuation:
    """The ``Emit`` that continues an answer of which ``shown`` was shown; raises ``UpstreamClosed``."""
    codec = gateway.codecs[request.dialect]
    as_frames = any(isinstance(each, Frames) for each in shown)
    if as_frames and request.dialect is Dialect.RESPONSES:
        raise leader_lost_error()
    reader, plain = codec.reader(), list[Event]()
    for each in shown:
        plain += reader.feed(each.data) if isinstance(each, Frames) else [each]
    writer = codec.writer(request) if as_frames else None
    text_shown: _ShownText = []
    ids = (b"", b"")
    for each in plain:
        if writer is not None:
            writer.write(each)  # to bring the writer to the stream's state
        match each:
            case TextDelta(text) | ThinkingDelta(text):
                if text_shown and text_shown[-1][0] is type(each):
                    text_shown[-1] = (type(each), text_shown[-1][1] + text)
                else:
                    text_shown.append((type(each), text))
            case AnswerStarted():
                ids = (_id(answer_id(each.id, ID_PREFIX)), _id(each.id))
            case Progress():
                pass
            case _:
                raise leader_lost_error()
    emit_rest = Continuation(text_shown, codec, writer, emit)
    if request.dialect is Dialect.CHAT and as_frames and ids[1] != _id(""):
        emit_rest.ids = ids
    return emit_rest


def _id(answer: str) -> bytes:
    return b'"id":' + msgspec.json.encode(answer)
