"""What a simulated model is like, and how the simulator as a whole is set up.

The figures of the two built-in models make a short question cost about 500 ms (`sim-fast`) and
about 2.5 s (`sim-powerful`), and give a long prompt the price in first-token time that was
published for the real thing: 151,629 tokens in 20.87 s cold and 1.94 s from the prompt cache, so
about 125 us a token read anew and 10 us a token found.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Literal, get_args
from urllib.parse import parse_qsl

from app.providers.simulator.errors import RefusedError

ImplicitCache = Literal["every_block", "latest"]
"""Where an OpenAI-style model without explicit breakpoints writes its prompt cache.

`every_block`: after every block, so any shared prefix is found again (models before GPT-5.6).
`latest`: after the latest block alone, so a changed last message loses a stable prefix (GPT-5.6).
"""


@dataclass(frozen=True, slots=True)
class ModelProfile:
    """The clock and the habits of one simulated model. All times in seconds, before scaling."""

    name: str
    first_token_s: float
    """From the request to the first token, without the time to read the prompt."""
    token_s: float
    """Between two output tokens; hidden reasoning tokens cost as much."""
    answer_tokens: int
    """About how long a plain answer is."""
    prefill_token_s: float = 30e-6
    cached_prefill_token_s: float = 2.5e-6
    jitter: float = 0.05
    """Sigma of the log-normal factor on the first token, and of the one on all the others."""
    tail_probability: float = 0.0
    """The share of requests whose first token is late, 0 to 1."""
    tail_multiplier: float = 10.0
    """How many times later such a first token is."""
    cache_minimum_tokens: int = 1_024
    implicit_cache: ImplicitCache = "every_block"
    capacity: int = 0
    """How many requests it answers at once; more are answered 429. 0: as many as come."""
    context_tokens: int = 200_000
    output_limit_tokens: int = 32_000


SIM_FAST = ModelProfile("sim-fast", first_token_s=0.15, token_s=0.0054, answer_tokens=60)
SIM_POWERFUL = ModelProfile(
    "sim-powerful",
    first_token_s=0.5,
    token_s=0.0139,
    answer_tokens=140,
    prefill_token_s=125e-6,
    cached_prefill_token_s=10e-6,
)


def _built_in() -> Mapping[str, ModelProfile]:
    return {profile.name: profile for profile in (SIM_FAST, SIM_POWERFUL)}


@dataclass(frozen=True, slots=True)
class SimulatorSettings:
    """All that can be chosen about a simulator. The defaults are a realistic, healthy one."""

    seed: int = 0
    """Seeds every draw: jitter, tails and random faults, in the order in which requests arrive."""
    time_scale: float = 1.0
    """Multiplies every wait; 0 answers at once, as tests want it."""
    profiles: Mapping[str, ModelProfile] = field(default_factory=_built_in)
    """The models, by name. Start from `built_in_profiles()` to change or add one."""
    fault_rates: Mapping[str, float] = field(default_factory=dict)
    """The share of requests, 0 to 1, that meet a fault, by its spec: `{"429": 0.01}`."""
    require_key: str | None = None
    """When set, a request without this key is answered 401."""
    keep_requests: int = 0
    """How many of the last request bodies `/sim/requests` shows; 0 keeps none."""
    drip_gap_s: float = 0.002
    """Between two bytes of the fault `drip`, before scaling."""
    max_body_bytes: int = 64 * 1024 * 1024

    def __post_init__(self) -> None:
        """Refuse settings that cannot be meant. Raises `ValueError` naming the setting."""
        if self.time_scale < 0:
            raise ValueError(f"time_scale must be 0 or more, not {self.time_scale}")
        for spec, rate in self.fault_rates.items():
            if not 0 <= rate <= 1:
                raise ValueError(f"fault_rates[{spec!r}] must be within 0 and 1, not {rate}")


def built_in_profiles(**changes: Mapping[str, object]) -> dict[str, ModelProfile]:
    """The built-in models by name, each with the changes given under its name (`_` for `-`).

    >>> built_in_profiles(sim_fast={"token_s": 0.001})["sim-fast"].token_s
    0.001
    """
    profiles = dict(_built_in())
    for key, values in changes.items():
        name = key.replace("_", "-")
        profiles[name] = changed(profiles[name], {k: str(v) for k, v in values.items()})
    return profiles


def changed(profile: ModelProfile, options: Mapping[str, str]) -> ModelProfile:
    """`profile` with options read from text. Raises `ValueError` naming what is wrong."""
    kinds = {f.name: f.type for f in fields(ModelProfile) if f.name != "name"}
    chosen: dict[str, object] = {}
    for name, value in options.items():
        if name not in kinds:
            raise ValueError(f"unknown model option {name!r}; known: {', '.join(sorted(kinds))}")
        if kinds[name] == "ImplicitCache":
            if value not in get_args(ImplicitCache):
                raise ValueError(f"{name} must be one of {get_args(ImplicitCache)}, not {value!r}")
            chosen[name] = value
        else:
            chosen[name] = int(value) if kinds[name] == "int" else float(value)
    return replace(profile, **chosen)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """What a request's model name asks for: the profile and, after `!`, a fault's spec."""

    requested: str
    profile: ModelProfile
    fault: str | None = None


def choose_model(requested: str, profiles: Mapping[str, ModelProfile]) -> ModelChoice:
    """Read `sim-fast`, `sim-fast!429` or `sim-fast?token_s=0.001&answer_tokens=20!stall:3`.

    Raises `RefusedError` (404) for a model that does not exist.
    """
    name, _, fault = requested.partition("!")
    base, _, query = name.partition("?")
    profile = profiles.get(base)
    if profile is None:
        raise RefusedError(
            f"The model `{requested}` does not exist or you do not have access to it.",
            status=404,
            kind="model_not_found",
            param="model",
        )
    if query:
        try:
            profile = changed(profile, dict(parse_qsl(query, strict_parsing=True)))
        except ValueError as exc:
            raise RefusedError(f"Invalid option in 'model': {exc}.", param="model") from exc
    return ModelChoice(requested, profile, fault or None)
