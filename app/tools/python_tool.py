"""A tool that is a Python callable of the operator's own, named by import path.

A coroutine function runs on the event loop and is cancelled like everything else. A plain function
runs in a thread: it cannot be stopped, so when its time is over the run goes on without it and its
result is dropped.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
from collections.abc import Awaitable, Callable
from typing import cast

from app.domain.chat import Json
from app.errors import ToolError

_LONGEST_REASON_CHARS = 200


class PythonTool:
    """One Python tool; see ``app.ports.Tool`` for its promises."""

    def __init__(self, function: Callable[..., object]) -> None:
        """Call ``function`` with the arguments as keywords."""
        self._function = function
        self._is_async = inspect.iscoroutinefunction(function)

    async def call(self, arguments: Json) -> object:
        """Call it once."""
        try:
            if self._is_async:
                return await cast("Awaitable[object]", self._function(**arguments))
            return await asyncio.to_thread(self._function, **arguments)
        except ToolError:
            raise
        except Exception as exc:
            reason = str(exc)[:_LONGEST_REASON_CHARS]
            raise ToolError(f"failed: {type(exc).__name__}: {reason}", code="tool_failed") from exc


def imported(path: str) -> Callable[..., object]:
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
