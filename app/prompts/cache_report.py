"""Prompt-cache usage by request and by conversation, for traces and savings.

Bounded to the newest requests and conversations. It holds counts, rules and hashes, never prompt text.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import msgspec

from app.domain.usage import Usage
from app.prompts.usage_statistics import RequestRate

MOST_CONVERSATIONS = 256
_ID_CHARS = 16
_MOST_RATES = 4_096


@dataclass(slots=True)
class CacheSavings:
    """Tokens of prompts, and what the vendor's cache saved of them."""

    cached_tokens: int = 0
    written_tokens: int = 0
    uncached_tokens: int = 0
    saved_usd: float = 0.0
    """Against plain input; what writing cost more is taken off."""
    saved_s: float = 0.0
    """Of the time to the first token, as measured."""

    def add(self, usage: Usage, usd: float, seconds: float) -> None:
        """Count one call."""
        self.cached_tokens += usage.cached_tokens
        self.written_tokens += usage.cache_write_tokens
        self.uncached_tokens += usage.input_tokens
        self.saved_usd += usd
        self.saved_s += seconds


@dataclass(slots=True)
class ModelSavings(CacheSavings):
    """Running sums of one model."""

    causes: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class ConversationSavings(CacheSavings):
    """One conversation."""

    tenant: str = ""
    model: str = ""
    """The last that answered."""
    requests: int = 0
    """Pings that keep it alive are among them."""


@dataclass(slots=True)
class RequestSavings(CacheSavings):
    """One request; all its calls together."""

    tenant: str = ""
    conversation: str = ""
    cause: str | None = None
    """Why it did not read what its conversation's last request had left; None = it did."""
    pointer: str | None = None
    vendor: str | None = None
    """The vendor's own word; None = it was not asked or said nothing."""
    agrees: bool | None = None
    """Whether that is the difference that was found here; None = the vendor does not say."""


class CacheReport:
    """The tables of requests and conversations; owned by one event loop."""

    def __init__(self, most_requests: int) -> None:
        """Keep ``most_requests`` requests."""
        self._most = most_requests
        self._told: OrderedDict[str, RequestSavings] = OrderedDict()
        self._talks: OrderedDict[bytes, ConversationSavings] = OrderedDict()
        self._rates: OrderedDict[tuple[str, str], RequestRate] = OrderedDict()

    def __len__(self) -> int:
        return len(self._told)

    def request(self, request_id: str, tenant: str) -> RequestSavings:
        """The account of a request, a new one where there is none."""
        told = self._told.get(request_id)
        if told is None:
            told = self._told[request_id] = RequestSavings(tenant=tenant)
            if len(self._told) > self._most:
                self._told.popitem(last=False)
        return told

    def conversation(self, key: bytes, tenant: str) -> ConversationSavings:
        """The account of a conversation, a new one where there is none."""
        talk = self._talks.get(key)
        if talk is None:
            talk = self._talks[key] = ConversationSavings(tenant=tenant)
            if len(self._talks) > MOST_CONVERSATIONS:
                self._talks.popitem(last=False)
        self._talks.move_to_end(key)
        return talk

    def count_request(self, tenant: str, model: str, now_s: float) -> None:
        """A request of ``tenant`` for ``model`` was answered."""
        rate = self._rates.get((tenant, model))
        if rate is None:
            rate = self._rates[tenant, model] = RequestRate()
            if len(self._rates) > _MOST_RATES:
                self._rates.popitem(last=False)
        rate.record(now_s)

    def per_hour(self, tenant: str, model: str, now_s: float) -> float:
        """Requests per hour at the recent rate."""
        rate = self._rates.get((tenant, model))
        return 0.0 if rate is None else rate.per_hour(now_s)

    def trace_of(self, request_id: str, tenant: str) -> Mapping[str, object] | None:
        """The prompt part of a request's trace; None for a short or forgotten one."""
        told = self._told.get(request_id)
        if told is None or told.tenant != tenant:
            return None
        return {name: value for name, value in _json(told) if name != "tenant"}

    def conversations(self) -> dict[str, object]:
        """The newest conversations by their id, newest first."""
        return {
            conversation_id(key): dict(_json(talk)) for key, talk in reversed(self._talks.items())
        }


def _json(value: CacheSavings) -> Iterator[tuple[str, object]]:
    told: dict[str, object] = msgspec.to_builtins(value)
    return iter(told.items())


def conversation_id(key: bytes) -> str:
    """The public id of a conversation: a prefix of its hash."""
    return key.hex()[:_ID_CHARS]
