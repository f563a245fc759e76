"""An MCP server over standard input and output whose list of tools is what no vendor would take."""

from __future__ import annotations

import json
import sys

_PATH = {"type": "object", "properties": {"path": {"type": "string"}}}


def _of(path: dict[str, object]) -> dict[str, object]:
    return {"type": "object", "properties": {"path": path}}


TOOLS = [
    ("plain", _PATH),
    ("files.read/file", _PATH),
    ("x" * 100, _PATH),
    ("no_schema", _of({"type": "strnig"})),
    ("runs_away", _of({"type": "string", "pattern": "^(?=(a+)+$)b"})),
    ("refers_away", _of({"$ref": "http://127.0.0.1:9/schema"})),
]


def _answer(method: str, params: dict[str, object]) -> object:
    if method == "initialize":
        return {
            "protocolVersion": params["protocolVersion"],
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "odd", "version": "1"},
        }
    if method == "tools/list":
        return {"tools": [{"name": name, "inputSchema": schema} for name, schema in TOOLS]}
    if method == "tools/call":
        return {"content": [{"type": "text", "text": params["name"]}]}
    return None


def main() -> None:
    """Answer line by line."""
    for line in sys.stdin:
        asked = json.loads(line)
        if "id" not in asked:
            continue
        result = _answer(asked["method"], asked.get("params") or {})
        answer: dict[str, object] = {"jsonrpc": "2.0", "id": asked["id"]}
        if result is None:
            answer["error"] = {"code": -32601, "message": "no such method"}
        else:
            answer["result"] = result
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
