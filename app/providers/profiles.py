"""Model abilities as data: by kind of upstream, then by model name, then by the operator's configuration.

Sources: the vendors' model pages and SDK types of November 2026. An unknown name gets the defaults of its
kind; ``models[].abilities`` in the configuration overrides any of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from app.domain.models import Abilities

_OPENAI = Abilities(cache_breakpoints="implicit", verbosity=True)
_ANTHROPIC = Abilities(
    thinking="budget", cache_breakpoints="anthropic", max_tokens_field="max_tokens", prefill=True
)

_PROFILES: tuple[tuple[str, re.Pattern[str], Mapping[str, object]], ...] = (
    ("openai", re.compile(r"gpt-(3|4)|chatgpt-4"), {"verbosity": False}),
    (
        "openai",
        re.compile(r"gpt-(5\.[6-9]|6)"),
        {
            "thinking": "effort",
            "max_tokens_field": "max_completion_tokens",
            "cache_breakpoints": "openai",
        },
    ),
    (
        "openai",
        re.compile(r"(gpt-5|o[1-9])"),
        {"thinking": "effort", "temperature": False, "max_tokens_field": "max_completion_tokens"},
    ),
    ("openai", re.compile(r"o[1-9]"), {"verbosity": False}),
    (
        "anthropic",
        re.compile(r"claude-(fable|mythos|opus|sonnet|haiku)-5"),
        {"thinking": "adaptive", "prefill": False},
    ),
    (
        "anthropic",
        re.compile(r"claude-(opus|sonnet)-4-[6-9]"),
        {"thinking": "adaptive", "prefill": False},
    ),
    ("anthropic", re.compile(r"claude-(opus-5|fable-5|mythos-5)$"), {"cache_minimum_tokens": 512}),
    ("anthropic", re.compile(r"claude-(opus-4-[56]|haiku-4-5)"), {"cache_minimum_tokens": 4096}),
    ("anthropic", re.compile(r"claude-opus-4-7"), {"cache_minimum_tokens": 2048}),
)


def abilities(kind: str, upstream_model: str, corrections: Mapping[str, object]) -> Abilities:
    """The abilities of ``upstream_model`` at an upstream of ``kind`` (``openai`` or ``anthropic``)."""
    found = _ANTHROPIC if kind == "anthropic" else _OPENAI
    if kind == "anthropic":  # clouds prefix the name with regions and vendors
        upstream_model = upstream_model[max(0, upstream_model.find("claude-")) :]
    for profile_kind, pattern, values in _PROFILES:
        if profile_kind == kind and pattern.match(upstream_model):
            found = replace(found, **values)  # type: ignore[arg-type]
    return replace(found, **corrections) if corrections else found  # type: ignore[arg-type]
