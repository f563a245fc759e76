"""One plain question over a raw socket, and a verdict on what came back.

The simulated models' answers are functions of the question, so each answer is known beforehand: what
is whole and says anything else is *wrong*, what ends without an answer and without an error is *lost*.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from app.providers.simulator import expected_answer
from bench.chaos.servers import state_of

Dialect = Literal["chat", "responses", "messages"]
DIALECTS: tuple[Dialect, ...] = ("chat", "responses", "messages")
PATHS = {"chat": "/v1/chat/completions", "responses": "/v1/responses", "messages": "/v1/messages"}
Verdict = Literal["right", "error", "wrong", "lost"]
_OK = 200
_MOST_BYTES = 64 << 20
PASSED_ON = "passed_on"
"""The vendor's own broken event, forwarded as it came: no client can read it as an answer."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a request."""

    verdict: Verdict
    status: int
    code: str
    """The error's stable code, or what was wrong."""
    took_s: float
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Tally:
    """All that an experiment has sent, and what it found amiss beyond single answers."""

    outcomes: list[Outcome] = field(default_factory=list)
    amiss: list[str] = field(default_factory=list)

    def count(self, verdict: Verdict) -> int:
        """How many requests ended so."""
        return sum(each.verdict == verdict for each in self.outcomes)

    def codes(self) -> Counter[str]:
        """The codes of the errors, by frequency."""
        return Counter(f"{o.status} {o.code}" for o in self.outcomes if o.verdict != "right")

    def expect(self, holds: bool, otherwise: str) -> None:  # noqa: FBT001 - reads as an assertion
        """Note ``otherwise`` unless it ``holds``."""
        if not holds:
            self.amiss.append(otherwise)


@dataclass(frozen=True, slots=True)
class Ask:
    """A question and the form in which it is put."""

    text: str
    dialect: Dialect = "chat"
    stream: bool = False
    model: str = "small"
    headers: tuple[tuple[str, str], ...] = ()
    ticket: str = ""
    """What the agent's tool is to be asked about: the answer repeats what the tool said."""

    def body(self) -> dict[str, object]:
        """The request's JSON."""
        if self.dialect == "responses":
            return {"model": self.model, "input": self.text, "stream": self.stream}
        body: dict[str, object] = {"model": self.model, "stream": self.stream}
        body["messages"] = [{"role": "user", "content": self.text}]
        if self.dialect == "messages":
            body["max_tokens"] = 4000
        return body

    def wire(self, *, keep_alive: bool = False) -> bytes:
        """The request as it goes out."""
        raw = json.dumps(self.body()).encode()
        lines = [
            f"POST {PATHS[self.dialect]} HTTP/1.1",
            "host: gateway",
            "content-type: application/json",
            f"content-length: {len(raw)}",
            f"connection: {'keep-alive' if keep_alive else 'close'}",
            *(f"{name}: {value}" for name, value in self.headers),
        ]
        return "\r\n".join([*lines, "", ""]).encode() + raw

    def judged(self, said: str) -> tuple[Verdict, str]:
        """Whether a whole answer is the right one; of an agent's, whether it tells that its tool failed."""
        if not self.ticket:
            return (
                ("right", "")
                if said in self.answers()
                else ("wrong", "another answer, as if whole")
            )
        if not said.startswith("[sim-fast ") or f'You asked: "{self.text}"' not in said:
            return "wrong", "another answer"
        if json.dumps(state_of(self.ticket), separators=(",", ":")) in said:
            return "right", ""
        return ("error", "tool_told") if " says: Error: " in said else ("wrong", "another state")

    def may_begin(self, said: str) -> bool:
        """Whether the right answer begins so."""
        return bool(self.ticket) or any(answer.startswith(said) for answer in self.answers())

    def answers(self) -> set[str]:
        """What may be said: the fast model's words, or the powerful one's where that may be asked."""
        names = {"small": ("sim-fast",), "small2": ("sim-fast",)}
        return {
            expected_answer(self.text, name)
            for name in names.get(self.model, ("sim-fast", "sim-powerful"))
        }


async def ask(port: int, question: Ask, *, patience_s: float = 30.0) -> Outcome:
    """Put it on a connection of its own and judge the answer; never raises for what comes back."""
    began_s = time.monotonic()
    raw = b""
    try:
        async with asyncio.timeout(patience_s):
            raw = await exchange(port, question.wire())
    except TimeoutError:
        return Outcome("lost", 0, "no end within the patience", time.monotonic() - began_s)
    except OSError as failure:
        return Outcome("lost", 0, type(failure).__name__, time.monotonic() - began_s)
    return judge(question, raw, time.monotonic() - began_s)


async def exchange(port: int, sent: bytes) -> bytes:
    """Send bytes and read to the end of the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=_MOST_BYTES)
    try:
        writer.write(sent)  # and read at once: an answer may come before all is taken
        got = bytearray()
        try:
            while data := await reader.read(65_536):
                got += data
        except ConnectionError:
            if not got:
                raise
        return bytes(got)
    finally:
        writer.transport.abort()


def judge(question: Ask, raw: bytes, took_s: float) -> Outcome:
    """Whether these bytes are the right answer, a clear error, a wrong answer or none."""
    head, parted, rest = raw.partition(b"\r\n\r\n")
    if not parted:
        return Outcome("lost", 0, "no head", took_s)
    first, *lines = head.decode("latin-1").split("\r\n")
    status = int(first.split(" ")[1])
    headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines)}
    body, whole = _body(headers, rest)
    verdict, code = _verdict(question, status, body, whole=whole, sse=_is_sse(headers))
    return Outcome(verdict, status, code, took_s, headers)


def _is_sse(headers: dict[str, str]) -> bool:
    return headers.get("content-type", "").startswith("text/event-stream")


def _body(headers: dict[str, str], rest: bytes) -> tuple[bytes, bool]:
    """The body without its framing, and whether it is whole."""
    if headers.get("transfer-encoding") != "chunked":
        length = int(headers.get("content-length", "-1"))
        return rest, length < 0 or len(rest) == length
    body = bytearray()
    while True:
        size, parted, rest = rest.partition(b"\r\n")
        if not parted:
            return bytes(body), False
        count = int(size, 16)
        if count == 0:
            return bytes(body), True
        body += rest[:count]
        if len(rest) < count + 2:
            return bytes(body), False
        rest = rest[count + 2 :]


def _verdict(
    question: Ask, status: int, body: bytes, *, whole: bool, sse: bool
) -> tuple[Verdict, str]:
    if status == _OK and sse:
        return _of_stream(question, body, whole=whole)
    if not whole:
        return "lost", "cut body"
    try:
        found = json.loads(body)
    except ValueError:
        return ("wrong" if status == _OK else "lost"), "not JSON"
    if status == _OK:
        return question.judged(_said(question.dialect, found))
    code = _code(found)
    return ("error", code) if code else ("lost", "an error without a code")


def _code(found: object) -> str:
    if not isinstance(found, dict):
        return ""
    inner = found.get("error", found)
    if isinstance(inner, dict) and inner.get("message"):
        return str(inner.get("code") or inner.get("type") or "")
    return ""


def _said(dialect: Dialect, found: dict[str, object]) -> str:
    """The text of a whole answer."""
    try:
        if dialect == "chat":
            choices = found["choices"]
            return str(choices[0]["message"]["content"])  # type: ignore[index]
        if dialect == "messages":
            return "".join(part["text"] for part in found["content"])  # type: ignore[attr-defined]
        items = found["output"]
        return "".join(
            part["text"]
            for item in items  # type: ignore[attr-defined]
            if item["type"] == "message"
            for part in item["content"]
        )
    except (KeyError, IndexError, TypeError):
        return ""


def _of_stream(question: Ask, body: bytes, *, whole: bool) -> tuple[Verdict, str]:
    said, ended, failed = "", False, ""
    try:
        text = body.decode()
        for line in text.split("\n"):
            if line == "data: [DONE]":
                ended = True
            elif line.startswith("data: "):
                piece, end, code = _event(question.dialect, json.loads(line[6:]))
                said, ended, failed = said + piece, ended or end, failed or code
    except ValueError:
        # A stream of the client's own dialect is forwarded untouched: its parser says so, loudly.
        return "error", PASSED_ON
    if failed:
        begun = question.may_begin(said)
        return ("error", failed) if begun else ("wrong", "another beginning")
    if not (ended and whole):
        return "lost", "a stream without an end"
    return question.judged(said)


def _event(  # noqa: PLR0911 - a table of cases
    dialect: Dialect, found: dict[str, object]
) -> tuple[str, bool, str]:
    """The text of an event, whether it ends the answer in good order, and an error's code."""
    kind = found.get("type")
    if "error" in found and (dialect == "chat" or kind == "error"):
        return "", False, _code(found) or "?"
    if dialect == "chat":
        choices = found.get("choices")
        if not isinstance(choices, list) or not choices:
            return "", False, ""
        return str(choices[0]["delta"].get("content") or ""), False, ""
    if kind == "error":
        return "", False, _code(found) or "?"
    if kind == "response.failed":
        return "", False, "response.failed"
    delta = found.get("delta")
    if kind == "response.output_text.delta":
        return str(delta), False, ""
    if kind == "content_block_delta" and isinstance(delta, dict):
        return str(delta.get("text") or ""), False, ""
    return "", kind in {"message_stop", "response.completed"}, ""
