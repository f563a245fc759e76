"""What stands in for a tool and for a Qdrant server: as much of each as the gateway asks for.

The tool says the state of a ticket, a function of its number, so that an answer with another's state is known
to be wrong. The Qdrant speaks the REST calls of ``app.stores.qdrant`` and holds nothing: no question was ever
asked before, and what is kept is thrown away.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

from bench.loopback import Answer, Request, send_json

Respond = Callable[[str, str], object]
"""Method and path to the JSON that answers."""


def state_of(ticket: str) -> dict[str, str]:
    """What the tool says of a ticket."""
    return {"ticket": ticket, "state": f"state-of-{ticket}"}


def tool(_: str, path: str) -> object:
    """Answer ``GET /t/TICKET``."""
    return state_of(path.rpartition("/")[2])


def qdrant(method: str, path: str) -> object:
    """Answer the store's calls; nothing is ever found."""
    results: dict[str, object] = {
        "exists": {"exists": True},
        "query": {"points": []},
        "scroll": {"points": [], "next_page_offset": None},
        "count": {"count": 0},
    }
    last = path.partition("?")[0].rpartition("/")[2]
    done = {"operation_id": 1, "status": "completed"}
    result = results.get(last, [] if (method, last) == ("POST", "points") else done)
    return {"result": result, "status": "ok", "time": 0.0}


def answering(respond: Respond) -> Answer:
    """Answer every request with the JSON that ``respond`` gives."""

    async def answer(asked: Request, writer: asyncio.StreamWriter) -> None:
        told = json.dumps(respond(asked.method, asked.target), separators=(",", ":"))
        await send_json(told.encode(), writer)

    return answer
