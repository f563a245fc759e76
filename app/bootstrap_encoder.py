"""The part of the composition root that starts the vector process, before the rest is loaded."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from app.stores.sidecar_start import StartedProcess, launch

if TYPE_CHECKING:
    from app.settings import Settings


def launch_encoder(settings: Settings) -> StartedProcess | None:
    """Start the vector process where hits by meaning are on and nobody else has it."""
    cache = settings.cache
    if not (cache.semantic.enabled and cache.exact.enabled):
        return None
    return launch(semantic_folder(settings), embedder_folder(), cache.semantic.max_entries)


def semantic_folder(settings: Settings) -> Path:
    """The folder of the semantic cache."""
    return Path(settings.state.data_dir) / "semantic"


def embedder_folder() -> Path:
    """Where `scripts/install` puts the embedding model."""
    return Path(sys.prefix) / "embedder"
