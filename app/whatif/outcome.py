"""The outcome of each replayed request, as columns: what is fixed, and what is drawn."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

FIXED: Final = -1
"""In ``pool``: the request keeps the time and cost that it has here."""


@dataclass(slots=True)
class Outcomes:
    """Outcomes in order of arrival, one entry a request."""

    total_s: list[float] = field(default_factory=list)
    """Of a drawn request: as drawn in this one run."""
    cost_usd: list[float] = field(default_factory=list)
    pool: list[int] = field(default_factory=list)
    """The number of the pool that its time is drawn from, or ``FIXED``."""
    prompt_tokens: list[float] = field(default_factory=list)
    """NaN: as many as the drawn call had."""
    fixed_usd: list[float] = field(default_factory=list)
    """What a drawn request costs whatever is drawn; NaN: as drawn."""
    sources: Counter[str] = field(default_factory=Counter)
    """``fast``, ``powerful``, ``exact``, ``coalesced``, ``lane``, ``semantic``, ``other``."""
    hit: list[bool] = field(default_factory=list)

    def add(
        self,
        source: str,
        total_s: float,
        cost_usd: float,
        *,
        pool: int = FIXED,
        prompt_tokens: float = np.nan,
        fixed_usd: float = np.nan,
    ) -> None:
        """Append one request."""
        self.total_s.append(total_s)
        self.cost_usd.append(cost_usd)
        self.pool.append(pool)
        self.prompt_tokens.append(prompt_tokens)
        self.fixed_usd.append(fixed_usd)
        self.sources[source] += 1
        self.hit.append(source in {"exact", "coalesced", "lane", "semantic"})

    def columns(self) -> Columns:
        """The outcomes as arrays."""
        return Columns(
            np.array(self.total_s),
            np.array(self.cost_usd),
            np.array(self.pool, dtype=np.int64),
            np.array(self.prompt_tokens),
            np.array(self.fixed_usd),
            np.array(self.hit, dtype=np.float64),
        )


@dataclass(frozen=True, slots=True)
class Columns:
    """``Outcomes`` as arrays."""

    total_s: NDArray[np.float64]
    cost_usd: NDArray[np.float64]
    pool: NDArray[np.int64]
    prompt_tokens: NDArray[np.float64]
    fixed_usd: NDArray[np.float64]
    hit: NDArray[np.float64]
