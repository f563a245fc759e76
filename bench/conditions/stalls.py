"""How long one request may wait for the event loop while heavy work of all kinds goes on beside it.

The probe is an exact hit, asked at a steady rate by the C client: it needs nothing but the loop, so what it
waits beyond its usual time is somebody else's turn. The same probe on the calm gateway, in the same run, says
what the machine itself adds.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

from bench.conditions.rig import HEADERS, gateway
from bench.conditions.stage import Stage
from bench.figures import Figure
from bench.processes import Server, ask, post
from bench.scenarios import NONCE, SCENARIOS, request_body
from bench.slices import Aim, measure

_PROBE = replace(SCENARIOS["hit_c1"], name="probe", concurrency=4, rate=250.0, cycle=8, least_s=6.0)
_SCRAPE_EVERY_S = 0.25
_ASK_EVERY_S = 0.05
_LARGE_EVERY_S = 0.1


def stalls(stage: Stage) -> list[Figure]:
    """The worst wait of the probe, calm and beside scrapes, embeddings and bodies of 200 KB."""
    with ExitStack() as stack:
        server = stack.enter_context(
            gateway("stalls", stage.folder, stage.upstream, stage.server_cpu)
        )
        aim = Aim("slipstream", server, "", HEADERS, _PROBE.model)
        measure(stage.rigging, aim, _PROBE, 1.0, -1)
        worst: dict[str, list[float]] = {"calm": [], "busy": []}
        noisy = False
        for number in range(stage.rounds):
            for kind in ("calm", "busy"):
                with ExitStack() as busy:
                    if kind == "busy":
                        busy.enter_context(_Beside(server))
                    one = measure(stage.rigging, aim, _PROBE, stage.slice_s, number)
                assert one.total_us is not None
                worst[kind].append((one.total_us.max - one.total_us.p50) / 1e3)
                noisy = noisy or (kind == "calm" and not one.quiet)
    rounds = stage.rounds
    return [
        Figure("worst wait for the loop, calm", max(worst["calm"]), " ms", rounds, noisy=noisy),
        Figure(
            "worst wait for the loop, beside scrapes, embeddings and 200 KB bodies",
            max(worst["busy"]),
            " ms",
            rounds,
            "<=",
            5.0,
            noisy=noisy,
        ),
    ]


class _Beside:
    """Threads that ask the gateway for heavy things until they are told to stop."""

    def __init__(self, server: Server) -> None:
        self._port = server.port
        self._over = threading.Event()
        jobs = (
            (self._scrape, _SCRAPE_EVERY_S),
            (self._question, _ASK_EVERY_S),
            (self._large, _LARGE_EVERY_S),
        )
        self._threads = [threading.Thread(target=self._repeat, args=job) for job in jobs]
        self._number = 0

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _repeat(self, ask: Callable[[], None], every_s: float) -> None:
        while not self._over.wait(every_s):
            ask()

    def _scrape(self) -> None:
        ask(self._port, "/metrics")

    def _question(self) -> None:
        self._number += 1
        text = f"What is the capital of the country that is number {self._number} in the alphabet?"
        message = {"role": "user", "content": text}
        self._post(json.dumps({"model": _PROBE.model, "messages": [message]}).encode())

    def _large(self) -> None:
        self._number += 1
        body = request_body(SCENARIOS["json_200k"], _PROBE.model)
        self._post(body.replace(NONCE.encode(), b"%016d" % self._number))

    def _post(self, body: bytes) -> None:
        post(self._port, "/v1/chat/completions", body, HEADERS)
