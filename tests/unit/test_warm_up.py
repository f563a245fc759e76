"""What FastAPI leaves to the first request is done in a thread, and is over before the application is."""

from __future__ import annotations

import threading

import pytest
from starlette.types import Message, Receive, Scope, Send

from app.api.warm_up import send_first_request, warming_up
from app.classify.text_classifier import LinearTextClassifier
from app.classify.topics import Topics

pytestmark = pytest.mark.anyio


class Application:
    """Notes in which thread it was asked for what, and says whatever it is told to."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.asked: list[tuple[str, int]] = []
        self.failure = failure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked.append((scope["path"], threading.get_ident()))
        assert (await receive())["type"] == "http.request"
        if self.failure is not None:
            raise self.failure
        start: Message = {"type": "http.response.start", "status": 200, "headers": []}
        await send(start)
        await send({"type": "http.response.body", "body": b"{}"})


async def test_it_is_asked_in_a_thread_so_that_the_loop_goes_on():
    app = Application()
    await send_first_request(app)
    [(path, thread)] = app.asked
    assert path == "/readyz"
    assert thread != threading.get_ident()


async def test_asked_beside_something_it_is_over_when_that_is():
    app = Application()
    async with warming_up(app):
        pass
    assert len(app.asked) == 1


async def test_what_it_raises_is_not_lost():
    with pytest.raises(OSError, match="no disk"):
        async with warming_up(Application(OSError("no disk"))):
            pass


def test_the_tables_of_the_package_are_read_once():
    """A reload builds a classifier while requests are served: 30 ms of unpacking would stop them."""
    assert Topics.shipped() is Topics.shipped()
    assert LinearTextClassifier.shipped("evergreen") is LinearTextClassifier.shipped("evergreen")
    assert LinearTextClassifier.shipped("evergreen") is not LinearTextClassifier.shipped(
        "tool_need"
    )
