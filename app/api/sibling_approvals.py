"""Approvals between the workers of one server that have no Redis: found and claimed over their own sockets.

The worker that takes an approval asks its siblings which of them has the run that asked, checks the
person's answers against the calls of that run, and claims them there. The claim is one step in the worker
that has the run, so of approvals that meet several workers at once one is taken. Both requests are served
on the siblings' sockets alone, in a folder that only this user may enter: no client can send them.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.sibling_call import reply_or_timeout, sibling_sockets
from app.domain.run_events import Interrupt
from app.errors import Overloaded
from app.pipeline.agent_runs import Runs
from app.pipeline.approvals import InterruptedRun

_FIND: Final = "/siblings/interrupted-run"
_CLAIM: Final = "/siblings/approval-claim"
_WITHIN_S: Final = 1.0
_REQUEST: Final = (
    b"POST %s HTTP/1.1\r\nhost: sibling\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%s"
)


class SiblingApprovals:
    """The interrupted runs of the other workers whose sockets are in a folder."""

    def __init__(self, folder: Path) -> None:
        """Ask every socket in ``folder`` but this process's own."""
        self._folder = folder

    async def find(self, tenant: str, run_id: str) -> InterruptedRun | None:
        """A sibling's run with calls to approve; raises ``Overloaded`` if one that may have it is silent."""
        sockets = sibling_sockets(self._folder)
        async with asyncio.TaskGroup() as at_once:
            asked = [at_once.create_task(_ask(path, _FIND, tenant, run_id)) for path in sockets]
        answers = [each.result() for each in asked]
        for path, answer in zip(sockets, answers, strict=True):
            if isinstance(answer, list):
                interrupts = tuple(msgspec.convert(answer, list[Interrupt]))
                return InterruptedRun(interrupts, partial(_claim, path, tenant, run_id))
        if any(isinstance(answer, _Silent) for answer in answers):
            raise _unanswered()
        return None


class ForSiblings:
    """ASGI at a worker's own socket: what ``SiblingApprovals`` asks, and the application beside it."""

    def __init__(self, app: ASGIApp, runs: Runs) -> None:
        """Answer for ``runs``; all else is ``app``'s."""
        self._app, self._runs = app, runs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        path = scope["path"] if scope["type"] == "http" else ""
        if path not in {_FIND, _CLAIM}:
            await self._app(scope, receive, send)
            return
        tenant, run_id = msgspec.json.decode(
            await Request(scope, receive).body(), type=tuple[str, str]
        )
        found = self._runs.interrupted_here(tenant, run_id)
        if found is None:
            answer: object = None
        elif path == _FIND:
            answer = [asdict(each) for each in found.interrupts]
        else:
            answer = await found.claim()
        await JSONResponse(answer)(scope, receive, send)


@dataclass(frozen=True, slots=True)
class _Silent:
    """What a worker answers that is there and gives no answer."""


async def _claim(path: Path, tenant: str, run_id: str) -> bool:
    answer = await _ask(path, _CLAIM, tenant, run_id)
    if not isinstance(answer, bool):
        raise _unanswered()
    return answer


async def _ask(path: Path, target: str, tenant: str, run_id: str) -> object:
    """A sibling's answer as JSON; None where it does not know the run, or is gone."""
    body = json.dumps([tenant, run_id]).encode()
    request = _REQUEST % (target.encode(), len(body), body)
    reply = await reply_or_timeout(path, request, _WITHIN_S)
    if reply is None:
        return None
    try:
        return json.loads(reply.body)
    except ValueError:  # no answer came in time, or none of ours
        return _Silent()


def _unanswered() -> Overloaded:
    message = "a worker that may have the run did not answer in time: send the approval again"
    return Overloaded(message, code="workers_silent", retry_after_s=1)
