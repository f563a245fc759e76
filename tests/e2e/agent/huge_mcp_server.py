"""An MCP server over standard input and output whose answers are as long as their tool's name says."""

from __future__ import annotations

import json
import sys

TOOLS = ["small", "huge", "endless", "page"]
HUGE_BYTES = 100 << 20
PIECE = "x" * (1 << 16)


def _say(request_id: object, result: object) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", "id": request_id, "result": result}) + "\n")
    sys.stdout.flush()


def _call(request_id: object, name: str) -> None:
    if name == "small":
        _say(request_id, {"content": [{"type": "text", "text": "small"}]})
        return
    head = {
        "jsonrpc": "2.0",
        "id": request_id,
        "result": {"content": [{"type": "text", "text": "?"}]},
    }
    begin, _, end = json.dumps(head).partition("?")
    sys.stdout.write(begin)
    written = 0
    while name == "endless" or written < HUGE_BYTES:
        sys.stdout.write(PIECE)
        written += len(PIECE)
    sys.stdout.write(end + "\n")
    sys.stdout.flush()


def main() -> None:
    """Answer line by line."""
    for line in sys.stdin:
        asked = json.loads(line)
        method, params = asked["method"], asked.get("params") or {}
        if "id" not in asked:
            continue
        if method == "initialize":
            version = params["protocolVersion"]
            info = {"name": "huge", "version": "1"}
            about = {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info}
            _say(asked["id"], about)
        elif method == "tools/list":
            listed = [{"name": name, "inputSchema": {"type": "object"}} for name in TOOLS]
            if "endless-list" in sys.argv:  # each page is allowed, all of them together are not
                listed = [
                    {"name": "page", "description": PIECE * 16, "inputSchema": {"type": "object"}}
                ]
            more = {"nextCursor": "more"} if "endless-list" in sys.argv else {}
            _say(asked["id"], {"tools": listed, **more})
        elif method == "tools/call":
            _call(asked["id"], params["name"])
        else:
            error = {"code": -32601, "message": "no such method"}
            said = {"jsonrpc": "2.0", "id": asked["id"], "error": error}
            sys.stdout.write(json.dumps(said) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
