"""The inference endpoints in the OpenAPI document: they are pure ASGI, so FastAPI cannot describe
them by itself.
"""

from __future__ import annotations

from collections.abc import Callable

from fastapi import FastAPI

_HEADERS = {
    "x-slipstream-cache": ("bypass, refresh or only", ["bypass", "refresh", "only", "default"]),
    "x-slipstream-tier": ("overrides the router", ["fast", "powerful"]),
    "x-slipstream-user": ("scopes cached answers to this user", None),
    "x-slipstream-tags": ("comma-separated tags for the cache entry", None),
    "x-slipstream-deadline-ms": ("the answer must be whole by then", None),
    "x-slipstream-contract": ("the name of an output contract of the configuration", None),
}
_ENDPOINTS = {
    "/v1/chat/completions": ("OpenAI Chat Completions", ["model", "messages"], "messages", True),
    "/v1/responses": ("OpenAI Responses", ["model", "input"], "input", True),
    "/v1/messages": ("Anthropic Messages", ["model", "max_tokens", "messages"], "messages", True),
    "/v1/messages/count_tokens": (
        "Anthropic token count",
        ["model", "messages"],
        "messages",
        False,
    ),
}


def describe_inference(
    app: FastAPI, described: Callable[[], dict[str, object]]
) -> dict[str, object]:
    """FastAPI's document with the inference endpoints added once."""
    document = described()
    paths = document.setdefault("paths", {})
    if isinstance(paths, dict) and "/v1/messages" not in paths:
        for path, (title, required, content, streams) in _ENDPOINTS.items():
            paths[path] = {"post": _operation(title, required, content, streams=streams)}
        paths["/v1/agent"] = {"post": _run_operation()}
    app.openapi_schema = document
    return document


def _run_operation() -> dict[str, object]:
    schema = {
        "type": "object",
        "required": [
            "threadId",
            "runId",
            "state",
            "messages",
            "tools",
            "context",
            "forwardedProps",
        ],
        "properties": {
            "threadId": {"type": "string"},
            "runId": {"type": "string"},
            "messages": {"type": "array", "items": {"type": "object"}},
            "forwardedProps": {
                "type": "object",
                "description": "`agent` names the agent; `on_disconnect` is cancel or detach",
            },
        },
        "additionalProperties": True,
    }
    form = {"type": "string", "enum": ["ag-ui", "vercel"]}
    return {
        "tags": ["agents"],
        "summary": "A run of an agent, as AG-UI events (RunAgentInput in)",
        "parameters": [{"name": "format", "in": "query", "required": False, "schema": form}],
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": {
            "200": {
                "description": "The run's events; each frame has `id: <run>:<seq>`",
                "content": {"text/event-stream": {"schema": {"type": "string"}}},
            },
            "400": {"description": "A field is wrong or missing; problem details name it"},
            "404": {"description": "No such agent"},
        },
    }


def _operation(
    title: str, required: list[str], content: str, *, streams: bool
) -> dict[str, object]:
    properties: dict[str, object] = {
        "model": {"type": "string", "description": "`auto`, a configured model, or `agent/<name>`"},
        content: {"type": "array", "items": {"type": "object"}, "minItems": 1},
    }
    if content == "input":
        properties[content] = {"anyOf": [{"type": "string"}, properties[content]]}
    if "max_tokens" in required:
        properties["max_tokens"] = {"type": "integer", "minimum": 0}
    answers: dict[str, object] = {"application/json": {"schema": {"type": "object"}}}
    if streams:
        properties["stream"] = {"type": "boolean"}
        answers["text/event-stream"] = {"schema": {"type": "string"}}
    error = {"content": {"application/json": {"schema": {"type": "object"}}}}
    schema = {
        "type": "object",
        "required": required,
        "properties": properties,
        "additionalProperties": True,
    }
    return {
        "tags": ["inference"],
        "summary": title,
        "parameters": [_header(name, text, values) for name, (text, values) in _HEADERS.items()],
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": {
            "200": {"description": "The answer, whole or streamed", "content": answers},
            **{
                status: {"description": why, **error}
                for status, why in {
                    "400": "A field is wrong, missing or cannot be carried; the message names it",
                    "401": "No key, or an unknown one",
                    "404": "Unknown model",
                    "413": "The body is too large",
                    "429": "Too many requests; retry-after says when",
                    "502": "The upstream failed",
                    "503": "No capacity now; retry-after says when",
                    "504": "A deadline passed, or nothing was cached where only a hit was wanted",
                }.items()
            },
        },
    }


def _header(name: str, text: str, values: list[str] | None) -> dict[str, object]:
    schema: dict[str, object] = {"type": "string"}
    if values is not None:
        schema["enum"] = values
    return {"name": name, "in": "header", "required": False, "description": text, "schema": schema}
