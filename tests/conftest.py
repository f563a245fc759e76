"""What every test gets: production's event loop, and hypothesis without a stopwatch."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from pathlib import Path

# A shared, small machine makes single examples slow for reasons that are not the code's.
settings.register_profile(
    "default", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.register_profile("thorough", settings.get_profile("default"), max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))  # noqa: TID251 (test runner)


def pytest_addoption(parser: pytest.Parser) -> None:
    """How often workers are killed under their jobs."""
    parser.addoption("--kills", default="8", help="SIGKILLs of a worker in the jobs' test")


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """Async tests run on uvloop, as the gateway does."""
    return ("asyncio", {"use_uvloop": True})


@pytest.fixture(scope="session")
def root(pytestconfig: pytest.Config) -> Path:
    """The folder that holds pyproject.toml."""
    return pytestconfig.rootpath
