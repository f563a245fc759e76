"""The model-dependent part of an output contract, applied once a model is chosen and again for each fallback.

Reasoning effort and verbosity are written in the vendor's own fields, by tier, and only for models that take
them. An answer is prefilled only for models that continue it; for others the contract's schema holds instead
(vendors reject both together). The client's own values win.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import msgspec

from app.domain.chat import ChatRequest, Conversation, Dialect, Message, Role, TextPart
from app.domain.decisions import Tier
from app.domain.models import MIN_THINKING_BUDGET_TOKENS, THINKING_BUDGET_TOKENS, Model

_INCOMPATIBLE_WITH_BUDGET = ("temperature", "top_p", "top_k", "tool_choice", "tools")
"""Fields that a thinking budget is incompatible with."""
_LOWEST = {"minimal": "low"}
"""Anthropic has no less."""


@dataclass(frozen=True, slots=True)
class AnswerStyle:
    """Reasoning effort and verbosity; "" = the model's default."""

    effort: str = ""
    verbosity: str = ""


@dataclass(frozen=True, slots=True)
class ContractTerms:
    """See ``app.domain.chat.AnswerTerms``."""

    manner: AnswerStyle
    tiers: Mapping[Tier, AnswerStyle] = field(default_factory=dict)
    """Overrides by tier."""
    prefill: str = ""
    hides_reasoning: bool = False
    limit_field: str = ""
    """The Chat field that the contract's longest answer was written in; "" = the client named its own."""
    has_contract_schema: bool = False
    """The answer's schema is the contract's, not the client's."""

    @property
    def key(self) -> str:
        """See the protocol. What stands in the request's body is not repeated."""
        return repr((self.manner, sorted(self.tiers.items()), self.prefill, self.hides_reasoning))

    def of_many(self) -> ContractTerms:
        """See the protocol: their form is the call's own."""
        return replace(self, prefill="", has_contract_schema=False)

    def _of(self, model: Model) -> AnswerStyle:
        own = self.tiers.get(model.tier, self.manner)
        return AnswerStyle(own.effort or self.manner.effort, own.verbosity or self.manner.verbosity)

    # ------------------------------------------------------------ in the client's own dialect
    def native(self, request: ChatRequest, model: Model) -> tuple[ChatRequest, str]:
        """See the protocol."""
        body, dialect = dict(request.body), request.dialect
        prefilled = self.prefill if self._may_prefill(request, model) else ""
        if prefilled:
            name = "input" if dialect is Dialect.RESPONSES else "messages"
            turns = body[name]
            turns = [{"role": "user", "content": turns}] if isinstance(turns, str) else turns
            assert isinstance(turns, list)  # noqa: S101 - see _may_prefill
            body[name] = [*turns, {"role": "assistant", "content": prefilled}]
        if self.has_contract_schema and (prefilled or not model.abilities.structured_output):
            _FORMLESS[dialect](body)
        wanted = model.abilities.max_tokens_field
        if dialect is Dialect.CHAT and self.limit_field not in {"", wanted}:
            body = {wanted if k == self.limit_field else k: v for k, v in body.items()}
        manner = self._of(model)
        if manner.effort and model.abilities.thinking != "none":
            _EFFORTS[dialect](body, manner.effort, model, bool(prefilled))
        if manner.verbosity and model.abilities.verbosity:
            _set_verbosity(body, dialect, manner.verbosity)
        thinking = body.get("thinking")
        if self.hides_reasoning and isinstance(thinking, Mapping):
            _omit_thinking(body, thinking, model)
        return (request if body == request.body else _written(request, body)), prefilled

    def _may_prefill(self, request: ChatRequest, model: Model) -> bool:
        """Whether to prefill the answer: the model continues it, and nothing of the request forbids it."""
        body = request.body
        if not self.prefill or not model.abilities.prefill or body.get("tools"):
            return False
        thinking = body.get("thinking")
        if isinstance(thinking, Mapping) and thinking.get("type") not in {None, "disabled"}:
            return False
        turns = body.get("input" if request.dialect is Dialect.RESPONSES else "messages")
        last = turns[-1] if isinstance(turns, list) and turns else {"role": "user"}
        asks = isinstance(last, Mapping) and last.get("role") == "user" and bool(turns)
        return asks and (self.has_contract_schema or not _has_form(request.dialect, body))

    # ------------------------------------------------------------ on the way to another dialect
    def neutral(self, conversation: Conversation, model: Model) -> tuple[Conversation, str]:
        """See the protocol."""
        sampling, manner, can = conversation.sampling, self._of(model), model.abilities
        thinks = bool(sampling.thinking_budget_tokens) or sampling.adaptive_thinking
        last = conversation.messages[-1] if conversation.messages else None
        prefilled = ""
        if can.prefill and not thinks and not conversation.tools and last is not None:
            fits = last.role is Role.USER and (
                self.has_contract_schema or conversation.json_output is None
            )
            prefilled = self.prefill if fits else ""
        form = conversation.json_output
        if self.has_contract_schema and (prefilled or not can.structured_output):
            form = None
        effort = sampling.effort
        if effort is None and not thinks and sampling.thinking_budget_tokens is None:
            limit = can.default_max_tokens if sampling.max_tokens is None else sampling.max_tokens
            plain = sampling.temperature is None and sampling.top_p is None
            room = plain and not prefilled and not conversation.tools
            room = room and limit > MIN_THINKING_BUDGET_TOKENS
            if manner.effort and can.thinking != "none" and (can.thinking != "budget" or room):
                effort = manner.effort
        verbosity = sampling.verbosity
        if verbosity is None and manner.verbosity and can.verbosity:
            verbosity = manner.verbosity
        messages = conversation.messages
        if prefilled:
            messages = (*messages, Message(Role.ASSISTANT, (TextPart(prefilled),)))
        sampling = replace(sampling, effort=effort, verbosity=verbosity)
        return (
            replace(conversation, messages=messages, json_output=form, sampling=sampling),
            prefilled,
        )


_Body = dict[str, object]


def _written(request: ChatRequest, body: _Body) -> ChatRequest:
    """``request`` with ``body``: what is the same keeps its bytes, a message before an added one too."""
    raws = msgspec.json.decode(request.raw, type=dict[str, msgspec.Raw])
    fields: dict[str, msgspec.Raw] = {}
    for name, value in body.items():
        was = request.body.get(name)
        if name in raws and (was is value or was == value):
            fields[name] = raws[name]
        elif isinstance(was, list) and isinstance(value, list) and value[:-1] == was:
            row = msgspec.json.decode(raws[name], type=list[msgspec.Raw])
            added = msgspec.Raw(msgspec.json.encode(value[-1]))
            fields[name] = msgspec.Raw(msgspec.json.encode([*row, added]))
        else:
            fields[name] = msgspec.Raw(msgspec.json.encode(value))
    return request.with_body(body, msgspec.json.encode(fields))


def inner(body: Mapping[str, object], name: str) -> _Body:
    """A copy of the object ``name``; an empty one where there is none."""
    value = body.get(name)
    return dict(value) if isinstance(value, dict) else {}


def _has_form(dialect: Dialect, body: Mapping[str, object]) -> bool:
    if dialect is Dialect.CHAT:
        return body.get("response_format") is not None
    return "format" in inner(body, "text" if dialect is Dialect.RESPONSES else "output_config")


def _formless(name: str, within: str = "") -> Callable[[_Body], None]:
    """What takes the contract's own form out again."""

    def take(body: _Body) -> None:
        if not within:
            body.pop(name, None)
            return
        rest = {key: value for key, value in inner(body, within).items() if key != name}
        if rest:
            body[within] = rest
        else:
            body.pop(within, None)

    return take


_FORMLESS = {
    Dialect.CHAT: _formless("response_format"),
    Dialect.RESPONSES: _formless("format", "text"),
    Dialect.MESSAGES: _formless("format", "output_config"),
}


def _messages_effort(body: _Body, effort: str, model: Model, prefilled: bool) -> None:  # noqa: FBT001
    config, kind = inner(body, "output_config"), model.abilities.thinking
    if "effort" in config or (kind == "budget" and body.get("thinking") is not None):
        return
    if effort == "none":
        if kind != "budget":  # there it is off unless asked for
            body.setdefault("thinking", {"type": "disabled"})
    elif kind != "budget":
        body["output_config"] = {**config, "effort": _LOWEST.get(effort, effort)}
    elif not prefilled and all(body.get(name) is None for name in _INCOMPATIBLE_WITH_BUDGET):
        limit = body.get("max_tokens")
        if isinstance(limit, int) and limit > MIN_THINKING_BUDGET_TOKENS:
            most = max(MIN_THINKING_BUDGET_TOKENS, limit // 2)
            tokens = min(THINKING_BUDGET_TOKENS[effort], most)
            body["thinking"] = {"type": "enabled", "budget_tokens": tokens}


def _omit_thinking(body: _Body, thinking: Mapping[str, object], model: Model) -> None:
    """Have the vendor not even send the thinking that is hidden: the answer's first word comes sooner."""
    if model.abilities.thinking == "adaptive" and thinking.get("type") in {"adaptive", "enabled"}:
        body["thinking"] = {"display": "omitted", **thinking}


def _chat_effort(body: _Body, effort: str, _: Model, _prefilled: bool) -> None:  # noqa: FBT001
    if body.get("reasoning_effort") is None:
        body["reasoning_effort"] = effort


def _responses_effort(body: _Body, effort: str, _: Model, _prefilled: bool) -> None:  # noqa: FBT001
    reasoning = inner(body, "reasoning")
    if reasoning.get("effort") is None:
        body["reasoning"] = {**reasoning, "effort": effort}


_EFFORTS = {
    Dialect.CHAT: _chat_effort,
    Dialect.RESPONSES: _responses_effort,
    Dialect.MESSAGES: _messages_effort,
}


def _set_verbosity(body: _Body, dialect: Dialect, verbosity: str) -> None:
    if dialect is Dialect.CHAT and body.get("verbosity") is None:
        body["verbosity"] = verbosity
    elif dialect is Dialect.RESPONSES:
        text = inner(body, "text")
        if text.get("verbosity") is None:
            body["text"] = {**text, "verbosity": verbosity}
