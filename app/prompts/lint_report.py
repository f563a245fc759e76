"""The linter's findings as JSON values and as lines: for the endpoint, and for the command."""

from __future__ import annotations

import msgspec

from app.domain.chat import Dialect
from app.domain.models import Model
from app.prompts.lint import Finding, compare, costs, finding_from_cause, lint
from app.prompts.prefix import RenderedPrompt
from app.prompts.spans import UnreadableError, fields, whole
from app.prompts.usage_statistics import ModelCacheStats


def detect_dialect(body: bytes) -> Dialect:
    """Which dialect a body is of: ``input`` is Responses, Anthropic's own fields Messages, else Chat.

    Raises ``UnreadableError`` for what holds no prompt.
    """
    found = fields(body, whole(body))
    if "messages" not in found and "input" not in found:
        raise UnreadableError("it has neither messages nor input")
    if "messages" not in found:
        return Dialect.RESPONSES
    ours = {"system", "max_tokens", "thinking", "stop_sequences", "cache_control", "top_k"}
    theirs = {"response_format", "max_completion_tokens", "reasoning_effort", "stream_options"}
    roles = (b'"role":"system"', b'"role": "system"', b'"role":"developer"', b'"role": "developer"')
    if theirs & found.keys() or any(role in body for role in roles):
        return Dialect.CHAT
    if "system" in found or b'"cache_control"' in body or b'"input_schema"' in body:
        return Dialect.MESSAGES
    return Dialect.MESSAGES if ours & found.keys() and b'"function"' not in body else Dialect.CHAT


def report(
    rendered: RenderedPrompt,
    findings: list[Finding],
    model: Model,
    facts: ModelCacheStats,
    per_hour: float = 0.0,
) -> dict[str, object]:
    """The answer of ``POST /v1/prompts/lint``; ``per_hour``: how many such requests come."""
    shown = [_json(each, *costs(each, model, facts), per_hour) for each in findings]
    return {
        "model": model.name,
        "dialect": rendered.dialect.value,
        "prompt_tokens": facts.tokens(sum(block.tokens for block in rendered.blocks)),
        "minimum_tokens": facts.minimum_tokens,
        "requests_per_hour": round(per_hour, 3),
        "findings": shown,
    }


def _json(finding: Finding, ms: float, usd: float, per_hour: float) -> dict[str, object]:
    return {
        "rule": finding.rule,
        "severity": finding.severity,
        "pointer": finding.pointer,
        "bytes": [finding.span.start, finding.span.end],
        "why": finding.why,
        "costs": {
            "ms": round(ms, 3),
            "usd": round(usd, 9),
            "s_per_hour": round(ms * per_hour / 1e3, 3),
            "usd_per_hour": round(usd * per_hour, 6),
        },
        "mend": finding.fix,
    }


def parse_requests(text: bytes) -> list[bytes]:
    """The requests of a file: one JSON object, an array of them, or one a line."""
    head = text.lstrip()[:1]
    try:
        if head == b"[":
            return [bytes(each) for each in msgspec.json.decode(text, type=list[msgspec.Raw])]
        msgspec.json.decode(text)
    except msgspec.DecodeError:
        return [line for line in text.splitlines() if line.strip()]
    return [text]


def lint_all(
    requests: list[bytes], minimum_tokens: int = 1024
) -> list[tuple[int, RenderedPrompt, list[Finding]]]:
    """Lint each request, and each beside the one before it that opens the same conversation.

    Raises ``UnreadableError``.
    """
    last: dict[str, RenderedPrompt] = {}
    found: list[tuple[int, RenderedPrompt, list[Finding]]] = []
    for number, body in enumerate(requests):
        rendered, findings = lint(body, detect_dialect(body), minimum_tokens)
        before = last.get(rendered.opening)
        cause = None if before is None else compare(before, rendered)
        if cause is not None:
            findings.insert(0, finding_from_cause(cause))
        last[rendered.opening] = rendered
        found.append((number, rendered, findings))
    return found
