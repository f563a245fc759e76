"""The simulated upstream: a server that speaks the vendors' dialects with a scripted clock.

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
