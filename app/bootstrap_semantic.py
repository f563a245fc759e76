"""The composition root's part for the semantic cache; loads nothing where that is off."""

from __future__ import annotations

from collections.abc import Coroutine
from contextlib import AsyncExitStack
from random import SystemRandom
from typing import TYPE_CHECKING, get_args

import structlog

from app.bootstrap_encoder import embedder_folder, semantic_folder
from app.operator_access import seal_of
from app.pipeline.gateway import Gateway
from app.settings import Settings
from app.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from app.cache.semantic import QuestionStore
    from app.stores.qdrant import QdrantStore
    from app.stores.reembedding import LeftBehind, Reembedding
    from app.stores.sidecar_client import VectorProcess
    from app.stores.sidecar_start import StartedProcess

_SWEEP_S = 300.0

BackgroundTask = tuple[Coroutine[None, None, None], str]
"""What runs beside the requests, and its name."""


async def open_semantic_cache(
    settings: Settings,
    gateway: Gateway,
    metrics: Metrics,
    degraded: dict[str, str],
    stack: AsyncExitStack,
    *,
    begun: StartedProcess | None = None,
) -> list[BackgroundTask]:
    """Give the gateway its semantic cache and start the vector process, unless it has ``begun``.

    Returns what is to run beside the requests.
    """
    wanted = settings.cache.semantic
    if not wanted.enabled or gateway.exact is None:
        return []
    # Learners and the store's client: 0.1 s that a gateway without a semantic cache need not load.
    from app.cache.bound import Limits
    from app.cache.pending_removals import PendingRemovals
    from app.cache.routes import RouteStore
    from app.cache.semantic import LookupOutcome, SemanticCache
    from app.pipeline.semantic_answers import SemanticAnswers
    from app.stores.sidecar_client import VectorProcess

    faults = _Faults(metrics, degraded)
    folder = semantic_folder(settings)
    memory = VectorProcess(
        folder,
        embedder_folder(),
        on_state=lambda why: faults.process(why, memory),
        max_entries=wanted.max_entries,
        begun=begun,
    )
    remote, seal = _remote(settings, memory, stack), seal_of(settings)
    beside: list[BackgroundTask] = []
    store: QuestionStore = memory
    if remote is not None:
        from app.stores.qdrant import RemoteVectors, sweeping

        store = RemoteVectors(memory, remote)
        beside.append((sweeping(remote, _SWEEP_S, faults.store), "sweeping"))
    if seal is not None:
        from app.stores.sealed_vectors import SealedVectors

        store = SealedVectors(store, seal)
    beside.append((_migration(memory, remote, store, metrics, faults).run(), "bringing"))
    routes = RouteStore(
        folder / "routes",
        limits=Limits.of(wanted.max_error_rate),
        audit_rate=wanted.audit_rate,
        build_id=lambda: memory.build_id,
        on_fault=faults.evidence,
        seal=seal,
    )
    cache = SemanticCache(
        store,
        routes,
        rng=SystemRandom(),
        on_lookup=lambda word: metrics.semantic_looks.child(word).inc(),
        budget_s=wanted.budget_ms / 1000,
        sharing=gateway.sharing,
        pending_removals=PendingRemovals(folder / "owed", faults.store),
    )
    cache.on_fault = faults.store
    gateway.semantic = SemanticAnswers(
        cache,
        classify=gateway.classifier.classify,
        codecs=gateway.codecs,
        ttl_s=wanted.ttl_s,
        on_settled=lambda word, count: metrics.semantic_answers.child(word).inc(count),
        sharing=gateway.sharing,
        race_for=wanted.race_for,
        on_race=lambda winner: metrics.semantic_races.child(winner).inc(),
    )
    # Every label exists from the start, so that a panel shows 0 rather than no data.
    for word in get_args(LookupOutcome):
        metrics.semantic_looks.child(word)
    metrics.vector_losses.child()
    metrics.semantic_moved.child()
    stack.push_async_callback(memory.aclose)
    stack.push_async_callback(cache.aclose)
    await memory.start()
    return [(gateway.semantic.run(), "meaning"), *beside]


class _Faults:
    """Shows faults of the semantic cache on ``/readyz`` and in the log, and counts them."""

    def __init__(self, metrics: Metrics, degraded: dict[str, str]) -> None:
        self._metrics, self._degraded = metrics, degraded

    def process(self, why: str | None, memory: VectorProcess) -> None:
        """The vector process is up (None), or why not."""
        if why is None:
            self._degraded.pop("semantic_cache", None)
            for aside in memory.moved_aside:
                self._report("semantic_files", f"put aside, unreadable: {aside}")
            return
        reason = f"no hits by meaning: the vector process {why}"
        if why == "is starting":
            self._degraded["semantic_cache"] = reason
            return
        self._report("semantic_cache", reason)
        self._metrics.vector_losses.child().inc()

    def evidence(self, why: str) -> None:
        """A route's evidence cannot be read, fitted or written."""
        self._report("semantic_evidence", why)

    def unmigrated(self, left: LeftBehind) -> None:
        """Another encoder's questions that cannot be migrated; empty where all were."""
        if left:
            self._report(
                "semantic_older",
                f"{left.sealed + left.other} questions kept under another encoder stay unused until they"
                f" expire: {left.sealed} sealed with no key that is configured, {left.other} too long for"
                " this encoder or another program's",
            )
        else:
            self._degraded.pop("semantic_older", None)

    def store(self, why: str) -> None:
        """The store is slow, full or cannot remove; "": it works again."""
        if why:
            self._report("semantic_store", why)
        elif self._degraded.pop("semantic_store", None) is not None:
            structlog.get_logger().info("semantic_store_back")

    def _report(self, what: str, why: str) -> None:
        if self._degraded.get(what) != why:
            self._degraded[what] = why
            self._metrics.semantic_faults.child(what.removeprefix("semantic_")).inc()
            structlog.get_logger().warning("degraded", what=what, reason=why)


def _migration(
    process: VectorProcess,
    remote: QdrantStore | None,
    store: QuestionStore,
    metrics: Metrics,
    faults: _Faults,
) -> Reembedding:
    """Migrates another encoder's questions that the vector process cannot read itself."""
    from app.stores.reembedding import Reembedding
    from app.stores.sealed_vectors import SealedVectors, plain_text

    older: VectorProcess | OlderQdrantCollections = process
    if remote is not None:
        from app.stores.qdrant_older import OlderQdrantCollections

        older = OlderQdrantCollections(remote, process, rng=SystemRandom())
    return Reembedding(
        older,
        store.text_of if isinstance(store, SealedVectors) else plain_text,
        mine=lambda: process.pid is not None,
        on_moved=lambda count: metrics.semantic_moved.child().inc(count),
        on_left=faults.unmigrated,
    )


def _remote(
    settings: Settings, process: VectorProcess, stack: AsyncExitStack
) -> QdrantStore | None:
    """The Qdrant server's vectors, where one is configured; the process then only embeds."""
    url, key = settings.state.qdrant_url, settings.state.qdrant_api_key
    if not url:
        return None
    from app.stores.qdrant import QdrantStore  # the client takes half a second

    store = QdrantStore(
        url,
        api_key=None if key is None else key.get_secret_value(),
        build_id=lambda: process.build_id,
    )
    stack.push_async_callback(store.aclose)
    return store
