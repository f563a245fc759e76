"""The simulated vendors' server: one ASGI app over three dialects, one clock and one prompt cache.

Beside the vendors' own routes it has a few of its own, for tests and benchmarks:

- `GET /sim/stats`: requests by model and dialect, in flight, peers that left and when.
- `GET /sim/requests?limit=N`: the last bodies, if `SimulatorSettings.keep_requests` allows.
- `POST /sim/faults` `{"script": ["429", null, "reset"]}`: what the next requests meet, in order.
- `POST /sim/clock` `{"advance_s": 300}`: moves the prompt cache's clock, so that it expires.
- `POST /sim/reset`: forgets the statistics, the prompt cache and the script of faults.

Nothing of a prompt is logged.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast
from urllib.parse import parse_qs

from app.providers.simulator import catalogue
from app.providers.simulator.answer import Reply, reply_to
from app.providers.simulator.asgi import Headers, Receive, Scope, Send
from app.providers.simulator.chat import ChatDialect
from app.providers.simulator.clock import Script
from app.providers.simulator.delivery import Delivery, FaultStruckError
from app.providers.simulator.dialect import Answer, Call, Dialect, dumps
from app.providers.simulator.errors import PeerLeftError, RefusedError
from app.providers.simulator.faults import Fault, FaultKind, parse_fault
from app.providers.simulator.fields import (
    JsonObject,
    as_text,
    check_number,
    optional_list,
    parse_body,
    text,
)
from app.providers.simulator.messages import MessagesDialect
from app.providers.simulator.profile import ModelChoice, SimulatorSettings, choose_model
from app.providers.simulator.prompt_cache import CacheUse, PromptCache
from app.providers.simulator.responses import ResponsesDialect
from app.providers.simulator.stats import Stats

_FAULT_HEADER = b"x-sim-fault"


@dataclass(frozen=True, slots=True)
class _Arrival:
    """One HTTP request with its body, and what names its answer."""

    method: str
    path: str
    headers: Mapping[bytes, bytes]
    query: str
    body: bytes
    serial: str
    at_s: float
    is_too_large: bool


class Simulator:
    """The ASGI app. `now` is monotonic seconds and `wall` Unix time; tests pass their own."""

    def __init__(
        self,
        settings: SimulatorSettings,
        *,
        now: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        self.stats = Stats(settings.keep_requests)
        self.prompt_cache = PromptCache(self._cache_now)
        self._now = now
        self._wall = wall
        self._skipped_s = 0.0
        self._script = Script(settings.seed, settings.time_scale)
        self._scripted_faults: deque[str | None] = deque()
        self._serial = 0
        self._busy: Counter[str] = Counter()
        messages = MessagesDialect()
        self._messages = messages
        self._dialects: Mapping[str, Dialect] = {
            "/v1/chat/completions": ChatDialect(),
            "/v1/responses": ResponsesDialect(),
            "/v1/messages": messages,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the lifespan protocol of an ordinary ASGI server."""
        if scope["type"] == "lifespan":
            await _live(receive, send)
            return
        if scope["type"] != "http":
            return
        arrival = await self._arrival(scope, receive)
        dialect = self._dialects.get(arrival.path)
        if dialect is not None and arrival.method == "POST":
            await self._infer(dialect, arrival, scope, receive, send)
            return
        delivery = Delivery(scope, receive, send, None, 0)
        try:
            body = self._administer(arrival)
        except RefusedError as error:
            await self._refuse(delivery, error, arrival, dialect or self._spoken(arrival))
            return
        await delivery.document(200, [], body)

    def advance_clock(self, seconds: float) -> None:
        """Let the prompt cache's entries age by `seconds`."""
        self._skipped_s += seconds

    def script_faults(self, *specs: str | None) -> None:
        """Let the next requests meet these faults in order; None lets one pass."""
        for spec in specs:
            if spec is not None:
                parse_fault(spec)
        self._scripted_faults.extend(specs)

    def _cache_now(self) -> float:
        return self._now() + self._skipped_s

    async def _arrival(self, scope: Scope, receive: Receive) -> _Arrival:
        """Read the request whole."""
        body = bytearray()
        while True:
            message = await receive()
            body += cast("bytes", message.get("body", b""))
            if not message.get("more_body", False):
                break
        self._serial += 1
        return _Arrival(
            cast("str", scope["method"]),
            cast("str", scope["path"]).rstrip("/") or "/",
            dict(cast("Headers", scope["headers"])),
            cast("bytes", scope["query_string"]).decode("latin-1"),
            bytes(body),
            f"{self.settings.seed:04x}{self._serial:012x}",
            self._now(),
            bool(scope.get("too_large")) or len(body) > self.settings.max_body_bytes,
        )

    # -- inference

    async def _infer(
        self, dialect: Dialect, arrival: _Arrival, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Answer one inference request, faults included, and count how it ended."""
        self.stats.enter()
        delivery = Delivery(scope, receive, send, None, self.settings.drip_gap_s)
        try:
            self._check_access(arrival, dialect)
            body = parse_body(arrival.body)
            choice = choose_model(text(body, "model"), self.settings.profiles)
            self.stats.requests[dialect.name, choice.profile.name] += 1
            self._keep(arrival, body)
            fault = self._fault(arrival, choice)
            self._count_fault(fault)
            drip_gap_s = self.settings.drip_gap_s * self.settings.time_scale
            delivery = Delivery(scope, receive, send, fault, drip_gap_s)
            answer = self._answer(dialect, arrival, body, choice, fault)
            await self._deliver_in_turn(dialect, arrival, answer, delivery)
            self.stats.completed += 1
        except RefusedError as error:
            self.stats.refused[error.status] += 1
            await self._refuse(delivery, error, arrival, dialect)
        except PeerLeftError:
            self._count_leaving(arrival, delivery)
        except FaultStruckError:
            pass
        finally:
            self.stats.in_flight -= 1

    def _answer(
        self,
        dialect: Dialect,
        arrival: _Arrival,
        body: JsonObject,
        choice: ModelChoice,
        fault: Fault | None,
    ) -> Answer:
        """Read the request and decide the whole answer. Raises `RefusedError`."""
        refusal = fault.refusal() if fault is not None else None
        if refusal is not None and fault is not None:
            if fault.kind is FaultKind.RATE_LIMITED:
                refusal.retry_after_s = fault.number
            raise refusal
        call = dialect.read(body, choice)
        scope = "\0".join((dialect.name, choice.profile.name, _key(arrival), call.cache_scope))
        use = self.prompt_cache.look_up(scope, call.blocks, call.rules)
        if use.total_tokens > choice.profile.context_tokens:
            raise RefusedError(
                f"The prompt is too long: {use.total_tokens} tokens > "
                f"{choice.profile.context_tokens} maximum.",
                kind="context_length",
                param="messages",
            )
        refuse = fault is not None and fault.kind is FaultKind.REFUSAL
        replies = _replies(call, refuse=refuse)
        return Answer(call, replies, use, arrival.serial, int(self._wall()))

    async def _deliver_in_turn(
        self, dialect: Dialect, arrival: _Arrival, answer: Answer, delivery: Delivery
    ) -> None:
        """Deliver within the model's capacity. Raises `RefusedError` (429) above it."""
        profile = answer.call.choice.profile
        busy = self._busy
        if profile.capacity and busy[profile.name] >= profile.capacity:
            raise RefusedError(
                f"Rate limit reached for {profile.name}: {profile.capacity} requests at once.",
                status=429,
                kind="rate_limited",
            )
        busy[profile.name] += 1
        try:
            await self._deliver(dialect, arrival, answer, delivery)
        finally:
            busy[profile.name] -= 1

    async def _deliver(
        self, dialect: Dialect, arrival: _Arrival, answer: Answer, delivery: Delivery
    ) -> None:
        """Send the answer at its pace; its prompt is cached from the first token on."""
        pace = self._script.pace(answer.call.choice.profile, answer.use)
        headers = self._headers(arrival, dialect)

        def on_first() -> None:
            self.prompt_cache.commit(answer.use)
            self._count_tokens(answer.use, answer.output_tokens)

        if not answer.call.is_stream:
            body = dialect.document(answer)
            await delivery.paced_document(headers, body, pace, answer.output_tokens, on_first)
            return
        await delivery.stream(
            headers,
            dialect.frames(answer),
            pace,
            on_first,
            lambda number: dialect.error_frame(
                "Overloaded; this is simulated.", f"req_{arrival.serial}", number
            ),
        )

    def _fault(self, arrival: _Arrival, choice: ModelChoice) -> Fault | None:
        """The fault of this request: by header, by model name, by script, or by chance."""
        # Chance is drawn for every request, so that a chosen fault does not shift the others.
        chance = self._script.fault(self.settings.fault_rates)
        spec: str | None = arrival.headers.get(_FAULT_HEADER, b"").decode("latin-1")
        spec = spec or choice.fault
        if not spec and self._scripted_faults:
            spec = self._scripted_faults.popleft()
        spec = spec or chance
        return parse_fault(spec) if spec else None

    def _check_access(self, arrival: _Arrival, dialect: Dialect) -> None:
        """Check size, key and, on messages, the version header. Raises `RefusedError`."""
        if arrival.is_too_large:
            raise RefusedError("The request body is too large.", status=413, kind="too_large")
        if dialect.name == "messages" and b"anthropic-version" not in arrival.headers:
            raise RefusedError("anthropic-version: header is required", param="anthropic-version")
        wanted = self.settings.require_key
        if wanted is not None and _key(arrival) != wanted:
            raise RefusedError("Incorrect API key provided.", status=401, kind="invalid_key")

    def _headers(self, arrival: _Arrival, dialect: Dialect) -> Headers:
        name = b"request-id" if dialect.name == "messages" else b"x-request-id"
        return [(name, f"req_{arrival.serial}".encode())]

    async def _refuse(
        self, delivery: Delivery, error: RefusedError, arrival: _Arrival, dialect: Dialect
    ) -> None:
        headers = self._headers(arrival, dialect)
        if error.retry_after_s is not None:
            headers.append((b"retry-after", str(error.retry_after_s).encode()))
        body = dialect.error_body(error, f"req_{arrival.serial}")
        await delivery.document(error.status, headers, body)

    # -- counting

    def _keep(self, arrival: _Arrival, body: JsonObject) -> None:
        if self.settings.keep_requests:
            headers = {
                name.decode("latin-1"): value.decode("latin-1")
                for name, value in arrival.headers.items()
            }
            self.stats.bodies.append({"path": arrival.path, "headers": headers, "body": body})

    def _count_fault(self, fault: Fault | None) -> None:
        if fault is not None:
            self.stats.faults[fault.kind.value] += 1

    def _count_tokens(self, use: CacheUse, output_tokens: int) -> None:
        self.stats.input_tokens += use.total_tokens
        self.stats.cached_tokens += use.read_tokens
        self.stats.cache_written_tokens += use.all_written_tokens
        self.stats.output_tokens += output_tokens

    def _count_leaving(self, arrival: _Arrival, delivery: Delivery) -> None:
        self.stats.aborted += 1
        progress = delivery.progress
        self.stats.leavings.append(
            {
                "path": arrival.path,
                "request_id": f"req_{arrival.serial}",
                "at_monotonic_s": self._now(),
                "at_unix_s": self._wall(),
                "after_s": self._now() - arrival.at_s,
                "phase": "mid_body" if progress.headers_are_out else "before_headers",
                "events_sent": progress.events,
            }
        )

    # -- everything else

    def _spoken(self, arrival: _Arrival) -> Dialect:
        """The dialect that a client of a shared route speaks."""
        is_messages = b"anthropic-version" in arrival.headers
        return self._dialects["/v1/messages" if is_messages else "/v1/chat/completions"]

    def _administer(self, arrival: _Arrival) -> bytes:
        """The body of every route that is not inference. Raises `RefusedError`."""
        key = (arrival.method, arrival.path)
        if key == ("POST", "/v1/messages/count_tokens"):
            body = parse_body(arrival.body)
            choose_model(text(body, "model"), self.settings.profiles)
            return self._messages.count(body)
        if arrival.method == "GET" and arrival.path.startswith("/v1/models"):
            is_messages = self._spoken(arrival).name == "messages"
            name = arrival.path.removeprefix("/v1/models").removeprefix("/")
            return catalogue.models(self.settings.profiles, name, is_messages=is_messages)
        if key == ("GET", "/sim/stats"):
            return dumps(self.stats.snapshot())
        if key == ("GET", "/sim/requests"):
            limit = parse_qs(arrival.query).get("limit", ["20"])[0]
            if not (limit.isascii() and limit.isdigit()):
                raise RefusedError("'limit' must be a whole number.", param="limit")
            bodies = list(self.stats.bodies)
            return dumps({"data": bodies[max(0, len(bodies) - int(limit)) :]})
        if key[0] == "POST" and key[1].startswith("/sim/"):
            return self._control(arrival)
        raise RefusedError(
            f"Unknown request URL: {arrival.method} {arrival.path}.", status=404, kind="not_found"
        )

    def _control(self, arrival: _Arrival) -> bytes:
        body = parse_body(arrival.body or b"{}")
        if arrival.path == "/sim/faults":
            specs = optional_list(body, "script")
            self.script_faults(*(None if s is None else as_text(s, "script") for s in specs))
        elif arrival.path == "/sim/clock":
            check_number(body, "advance_s", least=0, most=1e9)
            self.advance_clock(cast("float", body.get("advance_s", 0)))
        elif arrival.path == "/sim/reset":
            in_flight = self.stats.in_flight
            self.stats = Stats(self.settings.keep_requests, in_flight=in_flight)
            self.prompt_cache.clear()
            self._scripted_faults.clear()
        else:
            raise RefusedError(f"Unknown control {arrival.path}.", status=404, kind="not_found")
        return dumps({"ok": True})


def create_simulator(
    settings: SimulatorSettings | None = None, *, now: Callable[[], float] = time.monotonic
) -> Simulator:
    """The simulator as an ASGI app, to run under its own server (`runner`) or any other."""
    return Simulator(settings or SimulatorSettings(), now=now)


def _replies(call: Call, *, refuse: bool) -> list[Reply]:
    """One reply for each choice asked for; none is generated by a warm-up."""
    if call.is_warm_up:
        return [Reply((), (), (), "stop")]
    return [reply_to(call.question, refuse=refuse, variant=i) for i in range(call.answers)]


def _key(arrival: _Arrival) -> str:
    """The API key that came with the request, from either vendor's header."""
    bearer = arrival.headers.get(b"authorization", b"").decode("latin-1")
    api_key = arrival.headers.get(b"x-api-key", b"").decode("latin-1")
    return api_key or bearer.removeprefix("Bearer ")


async def _live(receive: Receive, send: Send) -> None:
    """The lifespan protocol: nothing to start, nothing to stop."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
