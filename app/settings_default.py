"""The configuration that serves when no file is given: it works on a fresh machine without a key.

A file that names neither providers nor models, because it is about something else, gets the vendors whose
keys are in the environment too; but never the simulator: an emptied file must not make up answers.

With a vendor's key in the environment that vendor's models are served. Without any, the same four
models as in the reference configuration are served from the simulator, which the gateway then
starts itself. No prices are given for real models: they change, and a wrong one is worse than none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

SIMULATOR_PORT = 9100
SIMULATOR_PORT_VARIABLE = "SLIPSTREAM_SIMULATOR__PORT"
"""Where the simulator is moved to, the built-in providers follow."""

_OPENAI = "OPENAI_API_KEY"
_ANTHROPIC = "ANTHROPIC_API_KEY"


def embedded(env: Mapping[str, str]) -> dict[str, object]:
    """Make the default configuration's values, as a file would hold them after expansion."""
    return vendors(env) or _simulated(env.get(SIMULATOR_PORT_VARIABLE) or SIMULATOR_PORT)


def vendors(env: Mapping[str, str]) -> dict[str, object]:
    """The providers and models of the vendors whose keys are in the environment; empty without any."""
    providers: dict[str, object] = {}
    models: list[object] = []
    if env.get(_OPENAI):
        providers["openai"] = {
            "kind": "openai",
            "base_url": env.get("UPSTREAM_OPENAI") or "https://api.openai.com/v1",
            "api_key": env[_OPENAI],
        }
        models += [
            _model("gpt-6-luna", "openai", "fast"),
            _model("gpt-6.1-sol", "openai", "powerful"),
        ]
    if env.get(_ANTHROPIC):
        providers["anthropic"] = {
            "kind": "anthropic",
            "base_url": env.get("UPSTREAM_ANTHROPIC") or "https://api.anthropic.com",
            "api_key": env[_ANTHROPIC],
        }
        models += [
            _model("claude-haiku-5-5", "anthropic", "fast"),
            _model("claude-opus-5-5", "anthropic", "powerful"),
        ]
    return {"providers": providers, "models": models} if models else {}


def _model(name: str, provider: str, tier: str) -> dict[str, object]:
    return {"name": name, "provider": provider, "model": name, "tier": tier}


def _simulated(port: str | int) -> dict[str, object]:
    host = f"http://127.0.0.1:{port}"
    return {
        "simulator": {"start": True, "port": port},
        "providers": {
            "local": {"kind": "openai", "base_url": f"{host}/v1"},
            "claude": {"kind": "anthropic", "base_url": host},
        },
        "models": [
            _simulated_model("small", "local", "fast", (0.15, 0.60, 0.015)),
            _simulated_model("small2", "claude", "fast", (0.25, 1.25, 0.025)),
            _simulated_model("large", "local", "powerful", (2.50, 10.0, 0.25)),
            _simulated_model("large2", "claude", "powerful", (3.00, 15.0, 0.30)),
        ],
    }


def _simulated_model(
    name: str, provider: str, tier: str, price: tuple[float, float, float]
) -> dict[str, object]:
    return {
        "name": name,
        "provider": provider,
        "model": f"sim-{tier}",
        "tier": tier,
        "price": dict(zip(("input", "output", "cached_input"), price, strict=True)),
    }
