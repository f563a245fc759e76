"""The simulated upstream: a server that speaks the vendors' dialects with a scripted clock.

`POST /v1/chat/completions`, `/v1/responses`, `/v1/messages` and `/v1/messages/count_tokens`, and
`GET /v1/models`, JSON and events. A model is asked for by name (`sim-fast`, `sim-powerful`), with
options (`sim-fast?token_s=0.001`) and a fault (`sim-fast!429`, or the header `x-sim-fault`). What
it says is in `answer`, when in `clock` and `profile`, what it remembers in `prompt_cache`, what can
go wrong in `faults`, and the routes for tests (`/sim/...`) in `server`.

Written independently of `app.wire`, on purpose: it is the other side of the wire, and what both
would get wrong together no test would see.
"""

from __future__ import annotations

from app.providers.simulator.answer import expected_answer
from app.providers.simulator.profile import (
    ModelProfile,
    SimulatorSettings,
    built_in_profiles,
)
from app.providers.simulator.runner import RunningSimulator, run, running_simulator, serve
from app.providers.simulator.server import Simulator, create_simulator

__all__ = [
    "ModelProfile",
    "RunningSimulator",
    "Simulator",
    "SimulatorSettings",
    "built_in_profiles",
    "create_simulator",
    "expected_answer",
    "run",
    "running_simulator",
    "serve",
]
