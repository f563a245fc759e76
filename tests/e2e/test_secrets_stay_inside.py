"""After a run rich in faults no secret stands in anything that the gateway says or keeps."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import httpx
import pytest

from app.domain.access import Access
from app.stores.key_file import KeyFile
from tests.support.gateway import configuration, gateway_process
from tests.support.tool_server import Asked, tool_server

pytestmark = pytest.mark.anyio

VENDOR = "sk-vendor-5f1c9b7de2a84c63"
CLAUDE = "sk-ant-api-77aa33cc11ee"
HEADER = "header-secret-90210"
TOOL = "tool-secret-31337"
CONFIGURED = "gateway-key-of-the-file-4711"
SECRETS = {VENDOR, CLAUDE, HEADER, TOOL, CONFIGURED}
PROMPT = "the-prompt-that-nobody-may-log"
CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"


async def misbehave(asked: Asked) -> None:
    """Every fault in turn, some of which tell the caller's own key back, as careless upstreams do."""
    faults = misbehave.faults  # type: ignore[attr-defined]
    fault = faults[misbehave.turn % len(faults)]  # type: ignore[attr-defined]
    misbehave.turn += 1  # type: ignore[attr-defined]
    sent = asked.headers.get("authorization") or asked.headers.get("x-api-key") or ""
    misbehave.seen.add(sent)  # type: ignore[attr-defined]
    if fault == "reset":
        asked.writer.transport.abort()
    elif fault == "html":
        await asked.answer(b"<html>busy</html>", 200, "text/html")
    elif fault == "nothing":
        await asked.answer(b"", 200)
    else:
        message = f"no, not for {sent} of {asked.headers.get('x-org')}"
        await asked.answer({"error": {"message": message, "type": "server_error"}}, int(fault))


def strings_of(secrets: set[str]) -> set[bytes]:
    """The secrets, and how they look in base64."""
    plain = {secret.encode() for secret in secrets}
    return plain | {base64.b64encode(secret)[:-4] for secret in plain}


async def test_no_secret_is_told_logged_counted_or_kept(tmp_path: Path):
    misbehave.faults = ["500", "429", "401", "404", "reset", "html", "nothing", "529"]  # type: ignore[attr-defined]
    misbehave.turn, misbehave.seen = 0, set()  # type: ignore[attr-defined]
    data = tmp_path / "data"
    keys = KeyFile(data / "keys")
    stored, _ = keys.create(Access("", "acme", admin=True))
    revoked, access = keys.create(Access("", "acme"))
    keys.revoke(access.id)
    secrets = SECRETS | {key.split("_", 2)[2] for key in (stored, revoked)}
    async with tool_server(dict.fromkeys((CHAT, MESSAGES, "/t"), misbehave)) as upstream:
        values = configuration(upstream.url)
        providers = values["providers"]
        assert isinstance(providers, dict)
        providers["local"] |= {"api_key": "${VENDOR_SECRET}", "headers": {"x-org": HEADER}}
        providers["claude"] |= {"api_key": "${CLAUDE_SECRET}"}
        tool = {"name": "get", "http": {"url": upstream.url + "/t", "headers": {"x-key": TOOL}}}
        values |= {
            "auth": {"required": True, "keys": [{"key": CONFIGURED, "tenant": "t"}]},
            "tools": [tool],
            "agents": [{"name": "desk", "tools": ["get"], "model": "small"}],
            "telemetry": {"log_format": "json", "log_level": "debug"},
            "state": {"data_dir": str(data)},
        }
        environment = {"VENDOR_SECRET": VENDOR, "CLAUDE_SECRET": CLAUDE}
        said: list[bytes] = []
        with gateway_process(values, env=environment) as gateway:
            async with httpx.AsyncClient(base_url=gateway.url, timeout=30) as http:

                async def ask(method: str, path: str, key: str | None, body: object = None) -> None:
                    headers = {} if key is None else {"authorization": f"Bearer {key}"}
                    answer = await http.request(method, path, headers=headers, json=body)
                    head = "".join(f"{k}: {v}\n" for k, v in answer.headers.items())
                    said.append(head.encode() + answer.content)

                for number in range(24):
                    turns = [{"role": "user", "content": f"{PROMPT} {number}"}]
                    stream = number % 2 == 0
                    for model, path in (
                        ("small", CHAT),
                        ("small2", MESSAGES),
                        ("agent/desk", CHAT),
                    ):
                        body = {
                            "model": model,
                            "messages": turns,
                            "stream": stream,
                            "max_tokens": 9,
                        }
                        await ask("POST", path, stored, body)
                for key in (CONFIGURED, revoked, stored + "x", VENDOR, None):
                    await ask("POST", CHAT, key, {"model": "small", "messages": []})
                    await ask("GET", "/metrics", key)
                for path in (
                    "/metrics", "/v1/traces?limit=500", "/v1/savings", "/v1/models", "/v1/cache/stats",
                    "/readyz", "/openapi.json", "/", "/v1/speculation",
                ):  # fmt: skip
                    await ask("GET", path, stored)
        log = "".join(gateway.log).encode()
    assert any(VENDOR in seen for seen in misbehave.seen), "the vendor's key was never sent"  # type: ignore[attr-defined]
    assert len(log.splitlines()) > 40
    said.append(log)
    said += [file.read_bytes() for file in data.rglob("*") if file.is_file()]
    for secret in strings_of(secrets):
        for text in said:
            assert secret not in text
    assert PROMPT.encode() not in log
    assert not [text for text in said if b"Traceback" in text]
    assert json.loads((data / "keys" / "keys.json").read_bytes())["version"] == 1
