"""Token usage and cost of an answer.

Vendors count prompts differently: OpenAI's ``prompt_tokens`` includes the cached ones, Anthropic's
``input_tokens`` is the uncached remainder. ``Usage`` keeps the three disjoint parts, from which both
are derived.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import add

_PER_MILLION = 1_000_000
MAX_TOKENS = 1 << 40
"""More than any answer has. A larger count is the upstream's mistake, and would overflow prices and sums."""


def token_count(count: int | None) -> int:
    """An upstream's count of tokens; 0 where it is absent, negative or above ``MAX_TOKENS``."""
    return count if count and 0 < count <= MAX_TOKENS else 0


@dataclass(slots=True, unsafe_hash=True)
class Usage:
    """Tokens of one answer, in disjoint parts.

    Treated as immutable; not ``frozen``, because one is made per answer and freezing triples the cost.
    """

    input_tokens: int = 0
    """Prompt tokens that were neither read from nor written to the vendor's prompt cache."""
    cached_tokens: int = 0
    """Prompt tokens read from the vendor's prompt cache."""
    cache_write_tokens: int = 0
    """Prompt tokens written to the vendor's prompt cache."""
    output_tokens: int = 0
    """Tokens generated, reasoning included."""
    reasoning_tokens: int = 0
    """The part of ``output_tokens`` that was reasoning."""

    @property
    def prompt_tokens(self) -> int:
        """All prompt tokens, as OpenAI counts them."""
        return self.input_tokens + self.cached_tokens + self.cache_write_tokens

    @property
    def total_tokens(self) -> int:
        """Prompt and output together."""
        return self.prompt_tokens + self.output_tokens

    @property
    def counts(self) -> tuple[int, int, int, int, int]:
        """The fields in order, for serialisation: ``Usage(*counts)`` is the same usage."""
        return (
            self.input_tokens,
            self.cached_tokens,
            self.cache_write_tokens,
            self.output_tokens,
            self.reasoning_tokens,
        )

    def plus(self, other: Usage) -> Usage:
        """The sum with another usage."""
        return Usage(*map(add, self.counts, other.counts))


@dataclass(frozen=True, slots=True)
class Price:
    """USD per million tokens."""

    input: float = 0.0
    output: float = 0.0
    cached_input: float | None = None
    """None: as ``input``."""
    cache_write: float | None = None
    """None: as ``input``."""

    def cost_usd(self, usage: Usage) -> float:
        """What ``usage`` costs at these prices, in USD."""
        if not usage.cached_tokens and not usage.cache_write_tokens:
            fresh, output = usage.input_tokens * self.input, usage.output_tokens * self.output
            return (fresh + output) / _PER_MILLION
        cached = self.input if self.cached_input is None else self.cached_input
        write = self.input if self.cache_write is None else self.cache_write
        return (
            usage.input_tokens * self.input
            + usage.cached_tokens * cached
            + usage.cache_write_tokens * write
            + usage.output_tokens * self.output
        ) / _PER_MILLION
