"""Build the operator's own checks on answers from the settings.

`settings` may not import what runs them, and the pipeline knows no configuration file; here the two meet.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import msgspec
import re2

from app.errors import ToolError
from app.pipeline.answer_checks import schema_violation
from app.routing.escalation import Check, EscalationPolicy, OperatorCheck
from app.settings import Problem, SettingsError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AsyncExitStack

    import httpx

    from app.domain.chat import Json
    from app.settings import AnswerCheckSettings, TriggerSettings

_MOST_BYTES = 64 * 1024


def escalation_of(
    settings: TriggerSettings, stack: AsyncExitStack, private: Sequence[str] = ()
) -> EscalationPolicy:
    """The policy that the settings ask for; `stack` closes the client of checks by URL.

    `private`: the addresses that may be reached though they are not public (`egress.private`).
    """
    own = (own_check(each, stack, private) for each in settings.checks)
    return EscalationPolicy(
        lacks=frozenset(settings.lacks),
        hold_s=settings.hold_ms / 1e3,
        grey_hedge=settings.grey_hedge,
        min_mean_logprob=settings.min_mean_logprob,
        operator_checks=tuple(own),
    )


def own_check(
    settings: AnswerCheckSettings, stack: AsyncExitStack, private: Sequence[str] = ()
) -> OperatorCheck:
    """The check that one entry asks for; `stack` closes its client. Raises SettingsError."""
    client: httpx.AsyncClient | None = None
    if settings.url is not None:
        from app.tools.addresses import Addresses
        from app.tools.checked_client import (
            checked_client,  # a quarter second that few configurations need
        )
        from app.tools.egress import origin_of

        addresses = Addresses(private)
        addresses.declare(origin_of(settings.url).host)
        client = checked_client(addresses)
        stack.push_async_callback(client.aclose)
    return OperatorCheck(settings.name, check_of(settings, client), settings.timeout_s)


def check_of(settings: AnswerCheckSettings, client: httpx.AsyncClient | None) -> Check:
    """The check that one entry asks for. Raises SettingsError where it cannot be made."""
    if settings.pattern is not None:
        return _by_pattern(settings.name, settings.pattern)
    if settings.json_schema is not None:
        return _by_schema(settings.json_schema)
    if settings.python is not None:
        return _by_python(settings.name, settings.python)
    assert settings.url is not None  # noqa: S101 - the settings promise one of the four
    assert client is not None  # noqa: S101 - made where any check has a URL
    return _by_url(settings.url, client)


def _by_pattern(name: str, pattern: str) -> Check:
    try:
        compiled = re2.compile(pattern)
    except re2.error as exc:
        raise _unusable(name, f"no RE2 pattern: {exc}") from exc

    async def check(_question: str, answer: str) -> str:
        # Half a surrogate pair is nothing that UTF-8 has, nor RE2.
        text = answer.encode("utf-8", "replace").decode("utf-8")
        return "" if compiled.search(text) else f"it does not match {pattern}"

    return check


def _by_schema(schema: Json) -> Check:
    async def check(_question: str, answer: str) -> str:
        try:
            value = json.loads(answer)
        except (ValueError, RecursionError) as exc:
            return f"it is not JSON: {exc}"
        return schema_violation(value, schema)

    return check


def _by_python(name: str, path: str) -> Check:
    from app.tools.python_tool import PythonTool, import_callable

    try:
        tool = PythonTool(import_callable(path))
    except ToolError as exc:
        raise _unusable(name, str(exc)) from exc

    async def check(question: str, answer: str) -> str:
        return _fault(await tool.call({"question": question, "answer": answer}))

    return check


def _by_url(url: str, client: httpx.AsyncClient) -> Check:
    async def check(question: str, answer: str) -> str:
        import httpx

        try:
            async with client.stream(
                "POST", url, json={"question": question, "answer": answer}
            ) as reply:
                body = b""
                async for part in reply.aiter_bytes():
                    body += part
                    if len(body) > _MOST_BYTES:
                        raise ToolError("the check's answer is too large", code="tool_too_large")
            said = msgspec.json.decode(body, type=_Verdict) if reply.is_success else None
        except (httpx.HTTPError, msgspec.DecodeError) as exc:
            raise ToolError(f"the check at {url} failed", code="tool_failed") from exc
        if said is None or said.ok:
            return ""
        return said.message or "the check found it wanting"

    return check


class _Verdict(msgspec.Struct):
    ok: bool
    message: str = ""


def _fault(said: object) -> str:
    if said is None or said is True or (not said and said is not False):
        return ""
    return said if isinstance(said, str) else "the check found it wanting"


def _unusable(name: str, why: str) -> SettingsError:
    return SettingsError([Problem("", None, "routing.triggers.checks", None, f"{name}: {why}", "")])
