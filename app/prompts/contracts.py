"""Output contracts: the form and length of answers, for routes whose operator configured one.

A contract sets what the client left open and lowers a higher limit; it never loosens the request, and
requests without a contract are untouched. What does not depend on the model (maximum length, schema) is
applied first, so that caches, router and vendor see the same request; the rest is carried as ``terms`` until
a model is chosen (``app.prompts.terms``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from app.domain.chat import ChatRequest, Dialect
from app.domain.decisions import Tier
from app.errors import BadRequest
from app.prompts.terms import AnswerStyle, ContractTerms, inner

_NAME = "answer"


@dataclass(frozen=True, slots=True)
class Contract:
    """The contract of one route."""

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
    prefill: str = ""
    """How the answer begins, where the model goes on from there; else ``json_schema`` alone holds."""
    hide_reasoning: bool = False
    """The answer comes without the model's reasoning."""
    tiers: Mapping[Tier, AnswerStyle] = field(default_factory=dict)
    """Effort and verbosity by the tier that answers."""


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

    def concerns(self, model: str, tenant: str) -> bool:
        """Whether requests of ``tenant`` for ``model`` are under a contract that they need not ask for."""
        return any(
            each.model == model and each.tenant in {"", tenant} and not each.name
            for each in self._contracts
        )

    def constrains(self, model: str, tenant: str) -> bool:
        """Whether every request of ``tenant`` for ``model`` is under a contract of length or form."""
        return any(
            each.model == model
            and each.tenant in {"", tenant}
            and not each.name
            and (each.max_tokens is not None or each.json_schema is not None)
            for each in self._contracts
        )

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
    if body.get("max_tokens") == 0:
        return request  # it only primes the cache: there is no answer
    changes = _CHANGES[request.dialect](contract, body, limit)
    changes = {name: value for name, value in changes.items() if body.get(name) != value}
    raws = msgspec.json.decode(request.raw, type=dict[str, msgspec.Raw])
    for name, value in changes.items():
        body[name] = value
        raws[name] = msgspec.Raw(msgspec.json.encode(value))
    own = limit in changes and request.body.get(limit) is None
    under = request.with_body(body, msgspec.json.encode(raws) if changes else request.raw)
    under.terms = ContractTerms(
        AnswerStyle(contract.effort, contract.verbosity),
        contract.tiers,
        contract.prefill,
        contract.hide_reasoning,
        limit if own and request.dialect is Dialect.CHAT else "",
        bool(changes.keys() & {"output_config", "response_format", "text"}),
    )
    return under


def _limit(contract: Contract, body: Mapping[str, object], name: str) -> dict[str, object]:
    """The lower of both limits."""
    cap, asked = contract.max_tokens, body.get(name)
    if cap is None:
        return {}
    return {name: min(cap, asked) if isinstance(asked, int) else cap}


def _messages(contract: Contract, body: Mapping[str, object], limit: str) -> dict[str, object]:
    del limit
    changes = _limit(contract, body, "max_tokens")
    config = inner(body, "output_config")
    if contract.json_schema is not None and "format" not in config:
        form = {"type": "json_schema", "schema": contract.json_schema}
        changes["output_config"] = {**config, "format": form}
    return changes


def _chat(contract: Contract, body: Mapping[str, object], limit: str) -> dict[str, object]:
    for given in ("max_tokens", "max_completion_tokens"):
        limit = given if body.get(given) is not None else limit
    changes = _limit(contract, body, limit)
    if contract.json_schema is not None and body.get("response_format") is None:
        schema = {"name": _NAME, "strict": True, "schema": contract.json_schema}
        changes["response_format"] = {"type": "json_schema", "json_schema": schema}
    return changes


def _responses(contract: Contract, body: Mapping[str, object], limit: str) -> dict[str, object]:
    del limit
    changes = _limit(contract, body, "max_output_tokens")
    text = inner(body, "text")
    if contract.json_schema is not None and "format" not in text:
        schema = {"type": "json_schema", "name": _NAME, "strict": True}
        changes["text"] = {**text, "format": {**schema, "schema": contract.json_schema}}
    return changes


_CHANGES = {
    Dialect.MESSAGES: _messages,
    Dialect.CHAT: _chat,
    Dialect.RESPONSES: _responses,
}
