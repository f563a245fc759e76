"""The routes' learned states: in memory while used, on disk for the next start.

A route is a tenant's traffic to one model name: narrow enough to be homogeneous, wide enough to gather
evidence. At most 256 are in memory; beyond, the least recently used is written and evicted. Reading,
writing and fitting happen off the event loop, on copies; while a route is being read it is absent from
memory, so it serves and learns nothing, and nothing old is overwritten.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

from app.cache.bound import Limits, pseudo_counts_of
from app.cache.refit import RefitProcess
from app.cache.route_archive import ArchiveError, dump, load
from app.cache.route_state import RouteState
from app.domain.seal import Seal
from app.errors import StoreError

_SUFFIX = ".route"
_MAX_ROUTES = 256


@dataclass(slots=True)
class Route:
    """One route's state; owned by the event loop."""

    name: str
    state: RouteState
    unsaved_changes: int = 0
    """Labels and verdicts since the last write."""
    fitting: bool = field(default=False, repr=False)


class RouteStore:
    """The routes of one gateway worker."""

    def __init__(
        self,
        folder: Path,
        *,
        limits: Limits,
        audit_rate: float,
        build_id: Callable[[], str],
        on_fault: Callable[[str], None],
        seal: Seal | None = None,
    ) -> None:
        """Read nothing yet. ``build_id`` names the encoder, "" while unknown."""
        self._seal = seal
        self._folder = folder
        self.limits, self._audit_rate = limits, audit_rate
        self._build_id = build_id
        self._on_fault = on_fault
        self._routes: OrderedDict[str, Route] = OrderedDict()
        self._fit: RefitProcess | None = None

    @property
    def by_name(self) -> Mapping[str, Route]:
        """A live view of those in memory, by name; reading it does not count as use."""
        return self._routes

    def loaded(self, name: str) -> Route | None:
        """The route, if it is in memory."""
        route = self._routes.get(name)
        if route is not None:
            self._routes.move_to_end(name)
        return route

    def all_loaded(self) -> list[Route]:
        """Those in memory, most recently used last."""
        return list(self._routes.values())

    async def load(self, name: str) -> Route:
        """Return the route from memory, from disk, or new."""
        route = self.loaded(name)
        if route is not None:
            return route
        state = await asyncio.to_thread(self._read, name, self._build_id())
        route = self._routes.setdefault(name, Route(name, state or self.new_state()))
        while len(self._routes) > _MAX_ROUTES:
            _, evicted = self._routes.popitem(last=False)
            await self._save(evicted)
        return route

    def new_state(self) -> RouteState:
        """Return a new route's state: shadow mode, without evidence."""
        return RouteState(self.limits, audit_rate=self._audit_rate)

    async def fit(self, route: Route) -> bool:
        """Fit the route in a process of its own; False when that failed or an alarm came meanwhile."""
        state, build_id = route.state, self._build_id()
        if route.fitting or not build_id:
            return False
        others = [r.state.threshold for r in self._routes.values() if r is not route]
        state.pseudo_counts = pseudo_counts_of([(t.hits, t.wrong) for t in others if t is not None])
        route.fitting, self._fit = True, RefitProcess()
        alarms, labels = state.alarms, state.labels
        try:
            fitted = await asyncio.to_thread(self._fit.run, state.copy(), build_id)
        except (OSError, ValueError) as exc:
            self._on_fault(f"a route could not be fitted: {exc}")
            state.fitted_at = labels  # retry when the labels have grown
            return False
        finally:
            route.fitting, self._fit = False, None
        if state.alarms != alarms:
            return False
        state.adopt_fit(fitted, labels)
        route.unsaved_changes += 1
        await self._save(route)
        return True

    async def save(self, *, least_changes: int = 1) -> None:
        """Write every route with at least so many unsaved changes."""
        for route in self.all_loaded():
            if route.unsaved_changes >= least_changes:
                await self._save(route)

    def stop_fit(self) -> None:
        """End the fit that runs, if any."""
        if self._fit is not None:
            self._fit.stop()

    async def _save(self, route: Route) -> None:
        build_id = self._build_id()
        if not build_id or not route.unsaved_changes:
            return
        route.unsaved_changes = 0
        try:
            await asyncio.to_thread(self._write, route.name, route.state.copy(), build_id)
        except OSError as exc:
            self._on_fault(f"a route's evidence could not be written: {exc.strerror}")

    def _path(self, name: str) -> Path:
        return self._folder / (blake2b(name.encode(), digest_size=16).hexdigest() + _SUFFIX)

    def _read(self, name: str, build_id: str) -> RouteState | None:
        path = self._path(name)
        try:
            data = path.read_bytes()
            if self._seal is not None:
                data = self._seal.open(data, path.name.encode())
            state = load(data, build_id)
        except FileNotFoundError:
            return None
        except (ArchiveError, StoreError, OSError) as exc:
            self._on_fault(f"a route's evidence could not be read, it starts anew: {exc}")
            return None
        # The limits are those of this configuration, not those it was written under.
        if state.limits != self.limits:
            state.threshold, state.fitted_at = None, 0
        state.limits, state.audit_rate = self.limits, self._audit_rate
        return state

    def _write(self, name: str, state: RouteState, build_id: str) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._path(name)
        fresh = path.with_suffix(".new")
        data = dump(state, build_id)
        if self._seal is not None:
            data = self._seal.seal(data, path.name.encode())
        fresh.write_bytes(data)
        fresh.replace(path)
