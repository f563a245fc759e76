"""Output contracts: what form and length an answer has, for the routes whose operator asked for it.

A contract fills in what the client left open and lowers a limit that is higher; it never loosens what was
asked for, and a request that no contract names is not looked at. It is applied before all else, so that
caches, router and vendor see one and the same request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from app.domain.chat import ChatRequest, Dialect
from app.errors import BadRequest

_NAME = "answer"


@dataclass(frozen=True, slots=True)
class Contract:
    """What an answer is to be."""

    model: str
    """The model that clients ask for."""
    tenant: str = ""
    """Only this tenant's requests; "" = all."""
    max_tokens: int | None = None
    json_schema: Mapping[str, object] | None = None
    effort: str = ""
    verbosity: str = ""
    name: str = ""
    """Only requests that ask for it by this name; "" = all."""


class Contracts:
    """The operator's contracts; the first that names a request's model and tenant holds."""

    def __init__(self, contracts: Sequence[Contract], limit_fields: Mapping[str, str]) -> None:
        """``limit_fields``: what the Chat dialect calls the limit of the answer, by model."""
        self._contracts = contracts
        self._limit_fields = limit_fields
        self._models = {contract.model for contract in contracts}

    def apply(self, request: ChatRequest, tenant: str, asked: str = "") -> ChatRequest:
        """``request`` under the contract that it asked for or that names it; itself where there is none.

        Raises ``BadRequest`` where it asked for one that its model and tenant do not have.
        """
        if asked:
            return self._asked(request, tenant, asked)
        if request.model not in self._models:
            return request
        for contract in self._contracts:
            if not contract.name and _names(contract, request, tenant):
                return self._under(contract, request)
        return request

    def _asked(self, request: ChatRequest, tenant: str, asked: str) -> ChatRequest:
        for contract in self._contracts:
            if contract.name == asked and _names(contract, request, tenant):
                return self._under(contract, request)
        message = f"there is no contract of that name for the model {request.model[:80]!r}"
        raise BadRequest(message, code="unknown_contract", param="x-slipstream-contract")

    def _under(self, contract: Contract, request: ChatRequest) -> ChatRequest:
        limit = self._limit_fields.get(request.model, "max_tokens")
        return _applied(contract, request, limit)


def _names(contract: Contract, request: ChatRequest, tenant: str) -> bool:
    return contract.model == request.model and contract.tenant in {"", tenant}


def _applied(contract: Contract, request: ChatRequest, limit: str) -> ChatRequest:
    body = dict(request.body)
    changes = _CHANGES[request.dialect](contract, body, limit)
    changes = {name: value for name, value in changes.items() if body.get(name) != value}
    if not changes:
        return request
    raws = msgspec.json.decode(request.raw, type=dict[str, msgspec.Raw])
    for name, value in changes.items():
        body[name] = value
        raws[name] = msgspec.Raw(msgspec.json.encode(value))
    return request.with_body(body, msgspec.json.encode(raws))


def _limit(contract: Contract, body: Mapping[str, object], name: str) -> dict[str, object]:
    """The lower of both limits; a 0 only primes the cache and stays."""
    cap, asked = contract.max_tokens, body.get(name)
    if cap is None or asked == 0:
        return {}
    return {name: min(cap, asked) if isinstance(asked, int) else cap}


def _inner(body: Mapping[str, object], name: str) -> dict[str, object]:
    value = body.get(name)
    return dict(value) if isinstance(value, dict) else {}


def _messages(contract: Contract, body: Mapping[str, object], limit: str) -> dict[str, object]:
    del limit
    changes = _limit(contract, body, "max_tokens")
    config = _inner(body, "output_config")
    if contract.effort:
        config.setdefault("effort", contract.effort)
    if contract.json_schema is not None:
        config.setdefault("format", {"type": "json_schema", "schema": contract.json_schema})
    return {**changes, "output_config": config} if config else changes


def _chat(contract: Contract, body: Mapping[str, object], limit: str) -> dict[str, object]:
    for given in ("max_tokens", "max_completion_tokens"):
        limit = given if body.get(given) is not None else limit
    changes = _limit(contract, body, limit)
    if contract.effort and body.get("reasoning_effort") is None:
        changes["reasoning_effort"] = contract.effort
    if contract.verbosity and body.get("verbosity") is None:
        changes["verbosity"] = contract.verbosity
    if contract.json_schema is not None and body.get("response_format") is None:
        schema = {"name": _NAME, "strict": True, "schema": contract.json_schema}
        changes["response_format"] = {"type": "json_schema", "json_schema": schema}
    return changes


def _responses(contract: Contract, body: Mapping[str, object], limit: str) -> dict[str, object]:
    del limit
    changes = _limit(contract, body, "max_output_tokens")
    text, reasoning = _inner(body, "text"), _inner(body, "reasoning")
    if contract.effort:
        reasoning.setdefault("effort", contract.effort)
        changes["reasoning"] = reasoning
    if contract.verbosity:
        text.setdefault("verbosity", contract.verbosity)
    if contract.json_schema is not None:
        schema = {"type": "json_schema", "name": _NAME, "strict": True}
        text.setdefault("format", {**schema, "schema": contract.json_schema})
    return {**changes, "text": text} if text else changes


_CHANGES = {
    Dialect.MESSAGES: _messages,
    Dialect.CHAT: _chat,
    Dialect.RESPONSES: _responses,
}
