"""A tool that is a Python callable of the operator's own, named by import path.

A coroutine function runs on the event loop and is cancelled like everything else. A plain function
runs in a thread of its own: it cannot be stopped, so when its time is over the run goes on without it and its
result is dropped. It keeps its place among the tool's calls until it returns, so that a limit of one
means one; and it is none of the loop's threads, which look up names and read files for everybody, and
which a process waits for at its end.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import copy_context
from typing import cast

from app.domain.chat import Json
from app.errors import ToolError

_LONGEST_REASON_CHARS = 200
_CALLS_AT_ONCE = 16


class PythonTool:
    """One Python tool; see ``app.ports.Tool`` for its promises."""

    def __init__(
        self, function: Callable[..., object], max_concurrency: int = _CALLS_AT_ONCE
    ) -> None:
        """Call ``function`` with the arguments as keywords, in at most ``max_concurrency`` threads."""
        self._function = function
        self._is_async = inspect.iscoroutinefunction(function)
        self._room = asyncio.Semaphore(max_concurrency)

    async def call(self, arguments: Json) -> object:
        """Call it once."""
        try:
            if self._is_async:
                return await cast("Awaitable[object]", self._function(**arguments))
            return await self._in_a_thread(arguments)
        except ToolError:
            raise
        except (Exception, SystemExit) as exc:
            reason = str(exc)[:_LONGEST_REASON_CHARS]
            raise ToolError(f"failed: {type(exc).__name__}: {reason}", code="tool_failed") from exc

    async def _in_a_thread(self, arguments: Json) -> object:
        await self._room.acquire()
        loop = asyncio.get_running_loop()
        done: asyncio.Future[object] = loop.create_future()
        context = copy_context()

        def tell(value: object, error: BaseException | None) -> None:
            self._room.release()
            if done.done():
                return  # its time was over
            if error is None:
                done.set_result(value)
            else:
                done.set_exception(error)

        def work() -> None:
            value, error = None, None
            try:
                value = context.run(self._function, **arguments)
            except BaseException as exc:  # noqa: BLE001 - handed to who waits, whatever it is
                error = _tellable(exc)
            with suppress(RuntimeError):  # the loop is gone
                loop.call_soon_threadsafe(tell, value, error)

        try:
            threading.Thread(target=work, daemon=True, name="python tool").start()
        except RuntimeError:  # no thread is to be had
            self._room.release()
            raise
        return await done


def _tellable(error: BaseException) -> BaseException:
    """``error``, or what stands for one that a future does not take or that would end the loop."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    return RuntimeError(f"{type(error).__name__}: {error}")


def import_callable(path: str) -> Callable[..., object]:
    """The callable at ``package.module:function``; raises ``ToolError`` where there is none."""
    module_name, _, name = path.partition(":")
    try:
        found: object = importlib.import_module(module_name)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as exc:
        raise ToolError(f"{path} cannot be imported: {exc}", code="tool_import") from exc
    if not callable(found):
        raise ToolError(f"{path} is not callable", code="tool_import")
    return found
