"""The configuration's schema: every key with its default, unit, effect and the evidence for the number.

These models are also the documentation: `docs/settings.md` is generated from them and a test compares the
two. They do no I/O; `app.settings` reads, expands, checks and re-exports them. All are frozen: the settings
of a running gateway are replaced as a whole or not at all.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SecretStr

from app.domain.decisions import Tier
from app.settings_agents import AgentSettings, EgressSettings, McpServerSettings, ToolSettings
from app.settings_jobs import JobSettings
from app.settings_lanes import LaneSettings
from app.settings_prompts import PromptSettings
from app.settings_routing import RoutingSettings
from app.settings_types import Count, Name, Port, Seconds, Section, Share, ToolName, Usd


class ServerSettings(Section):
    """Where and how the gateway listens."""

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for all interfaces. The default, loopback, exposes nothing to the
    network.
    """
    port: Port = 8080
    """TCP port, 0 to 65535; 0 picks a free port and prints it."""
    workers: Annotated[int, Field(ge=1, le=256)] = 1
    """Worker processes that share the port. Each has its own memory cache and traces; limits and runs are
    shared only through `state.redis_url`.
    """
    reload_on_change: bool = False
    """Reload the configuration file when it changes, as on SIGHUP; it is checked every second. An invalid
    file is refused as a whole. Address, port and number of workers do not change until a restart.
    """
    max_body_bytes: Count = 16 * 1024 * 1024
    """Largest request body in bytes; a larger one gets 413. 16 MiB is above the vendors' image limits of
    5 to 10 MB.
    """
    max_bodies_bytes: Count = 512 * 1024 * 1024
    """Memory in bytes, per worker, for the bodies of all requests in flight, measured after parsing; beyond
    it requests get 503 with retry-after. A single request over a quarter of it gets 413. Administrative
    routes have a separate budget of an eighth of this.
    """
    max_inflight_requests: Count = 2_000
    """Requests in flight per worker, which bounds memory; further ones get 503 with retry-after.
    """
    sse_comment_s: Seconds = 10.0
    """Seconds without data after which a stream gets an SSE comment. Proxies commonly close idle streams
    after 15 to 60 s.
    """
    shutdown_grace_s: Seconds = 30.0
    """Seconds that requests in flight have to finish after SIGTERM; 30 is the usual grace period of
    orchestrators.
    """
    drain_s: Annotated[float, Field(ge=0, le=600)] = 3.0
    """Seconds after SIGTERM during which new requests are still served while `/readyz` returns 503 and every
    response closes its connection, so that the load balancer can move its traffic. Set it longer than the
    load balancer's failure detection (nginx: `fail_timeout`).
    """
    cors_origins: tuple[str, ...] = ()
    """Origins whose pages may call the gateway (CORS), such as `https://app.example`; `*` for all. Default:
    none.
    """
    docs_enabled: bool = True
    """Serve `/docs` and `/openapi.json`."""


class SdkSettings(Section):
    """Options of the vendors' packages beyond a base URL; used only with `transport: sdk`."""

    platform: Literal["direct", "azure", "bedrock", "vertex"] = "direct"
    """The client class of the vendor's package."""
    api_version: str | None = None
    """Azure's API version."""
    region: str | None = None
    """Bedrock's or Vertex's region."""
    project: str | None = None
    """Vertex's project."""
    proxy_url: str | None = None
    """HTTP proxy for the calls."""


class ProviderSettings(Section):
    """An upstream: a vendor, or any server that speaks a vendor's dialect."""

    kind: Literal["openai", "anthropic"]
    """The dialect that the upstream speaks."""
    base_url: str
    """Base URL of its API: with `/v1` for `openai`, without for `anthropic`, as in the vendors' packages.
    """
    api_key: SecretStr = SecretStr("none")
    """The upstream's API key; `none` for servers that need none. Write `${NAME}`, never the key itself.
    """
    transport: Literal["wire", "sdk"] = "wire"
    """`wire`: the gateway's own connection pool. `sdk`: the vendor's package, for Azure, Bedrock, Vertex and
    proxies, at about ten times the CPU per call (docs/decisions/0001).
    """
    responses: Literal["auto", "native", "translate"] = "auto"
    """How an `openai` upstream serves the Responses API: `native` forwards the request, `translate` uses Chat
    Completions, `auto` tries native first.
    """
    connect_timeout_s: Seconds = 5.0
    """Seconds for the TCP connection, and again for the TLS handshake. The vendors' packages use 5."""
    first_byte_timeout_s: Seconds = 120.0
    """Seconds from the request's last byte to the response's first byte; long, because reasoning models think
    before they answer.
    """
    between_bytes_timeout_s: Seconds = 60.0
    """Seconds without data inside a response before it fails; vendors send pings every 10 to 15 s."""
    total_timeout_s: Seconds = 600.0
    """Seconds for the whole call; 600 is the default of the vendors' packages."""
    max_connections: Count = 256
    """Connections per worker, and so concurrent calls, since HTTP/1.1 needs one connection per call; further
    calls wait.
    """
    warm_connections: Annotated[int, Field(ge=0)] = 2
    """Connections opened at start and kept open; a cold TLS connection costs 2 to 3 round trips.
    """
    adaptive_concurrency: bool = True
    """Make fewer concurrent calls than `max_connections` when the upstream returns overload errors, or when
    its time to the first token is more than twice that under light load.
    """
    max_queued: Annotated[int, Field(ge=0)] = 1_000
    """Calls per worker that may wait for a connection, served round-robin by tenant; more get 503 with
    retry-after.
    """
    queue_timeout_s: Seconds = 10.0
    """Seconds that a call may wait for a connection. A call that is expected to wait longer, by the recent
    throughput, gets 503 at once.
    """
    retries: Annotated[int, Field(ge=0, le=5)] = 1
    """Retries after connection errors, 429 and 5xx, on another model of the tier if there is one; never after
    the first event.
    """
    headers: dict[str, str] = Field(default_factory=dict)
    """Headers added to every call, such as an organisation id. Values are redacted when printed."""
    sdk: SdkSettings = SdkSettings()
    """Options of the vendor's package."""


class PriceSettings(Section):
    """Prices in USD per million tokens. All zero: the cost is unknown and counted as 0."""

    input: Usd = 0.0
    """Prompt tokens, in USD per million."""
    output: Usd = 0.0
    """Generated tokens, in USD per million."""
    cached_input: Usd | None = None
    """Prompt tokens read from the vendor's prompt cache, in USD per million; default: as `input`.
    """
    cache_write: Usd | None = None
    """Prompt tokens written to the vendor's prompt cache, in USD per million; default: as `input`.
    """


class AbilitySettings(Section):
    """Overrides of a model's capabilities. Absent: as in the built-in profile of the model."""

    temperature: bool | None = None
    """Accepts `temperature` and `top_p`; reasoning models often refuse them."""
    images: bool | None = None
    """Accepts images."""
    documents: bool | None = None
    """Accepts documents, such as PDF."""
    tools: bool | None = None
    """Accepts tools."""
    structured_output: bool | None = None
    """Accepts a JSON schema for the answer."""
    prefill: bool | None = None
    """Continues a final assistant message (prefill)."""
    thinking: Literal["none", "effort", "budget", "adaptive"] | None = None
    """How reasoning is requested: not at all, by an effort word, by a token budget, or left to the model."""
    cache_breakpoints: Literal["none", "anthropic", "openai", "implicit"] | None = None
    """How prompt caching is requested."""
    cache_minimum_tokens: Count | None = None
    """Shortest prefix that the vendor caches, in tokens."""
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] | None = None
    """The Chat Completions field for the limit of the answer."""
    verbosity: bool | None = None
    """Accepts OpenAI's `verbosity`."""
    default_max_tokens: Count | None = None
    """`max_tokens` to send where a dialect requires it and the client gave none."""


class ModelSettings(Section):
    """A model, under the name that clients use."""

    name: Name
    """The name that clients send as `model`; `auto` and `agent/...` are reserved."""
    provider: str
    """Name of an entry of `providers`."""
    model: Annotated[str, Field(min_length=1)]
    """The upstream's name of the model."""
    tier: Tier
    """The tier that the router uses it for: `fast` or `powerful`."""
    price: PriceSettings = PriceSettings()
    """Prices of its tokens."""
    context_tokens: Count | None = None
    """Context window: prompt and answer together, in tokens. Absent: unknown and not checked."""
    abilities: AbilitySettings = AbilitySettings()
    """Overrides of its capabilities."""
    breakpoints: bool | None = None
    """Add prompt-cache breakpoints for it; default: `prompts.breakpoints`."""


class ExactCacheSettings(Section):
    """Answers to requests that are equal in every part that affects the answer."""

    enabled: bool = True
    """Read and write this cache."""
    ttl_s: Annotated[int, Field(ge=1)] = 3_600
    """Seconds that an answer is kept; fewer if the classifier gives it a shorter lifetime."""
    max_bytes: Count = 64 * 1024 * 1024
    """Bytes kept in memory, per worker; the default holds 10,000 answers of 6 KiB."""


class SemanticCacheSettings(Section):
    """Answers to questions with the same meaning, served only under an error bound that holds by evidence."""

    enabled: bool = True
    """Read and write this cache."""
    ttl_s: Annotated[int, Field(ge=1)] = 3_600
    """Seconds that an answer is kept; fewer if the classifier gives it a shorter lifetime."""
    max_error_rate: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """Largest tolerated share of wrong hits, 0 to 1; nothing is served before there is evidence for it.
    """
    audit_rate: Share = 0.02
    """Share of hits that are sent to the model all the same, to obtain labels, 0 to 1.
    """
    budget_ms: Annotated[float, Field(gt=0, le=1_000)] = 5.0
    """Time limit of embedding and look-up, in milliseconds; beyond it the request counts as a miss.
    """
    race_for: tuple[str, ...] = ()
    """Tenants whose requests go to the model while the look-up runs, `*` for all: a miss waits for nothing,
    but a hit pays for the model call that was started. Only without Redis.
    """
    max_entries: Annotated[int, Field(ge=16, le=100_000_000)] = 1_000_000
    """Questions kept in the embedded engine, about 3 KiB each plus the answer. When full, those that expire
    first are evicted.
    """


class SharingSettings(Section):
    """What the users of a tenant share; `x-slipstream-user` names the user."""

    scope: Literal["user", "tenant"] = "user"
    """`user`: answers are shared within one user only, and among requests of the tenant that name no user.
    `tenant`: all users of a tenant share answers.
    """
    least_askers: Annotated[int, Field(ge=1, le=32)] = 1
    """With `scope: tenant`: an answer is shared after this many different users have had their own from a
    model. Counted per worker.
    """
    most_of_one_user: Annotated[float, Field(gt=0, le=1)] = 1.0
    """With `scope: tenant`: largest share of the last 200 answers stored for semantic hits (within an hour)
    that may come from one named user, 0 to 1. Further answers of that user are neither stored nor learned
    from.
    """
    hit_jitter_ms: Annotated[float, Field(ge=0, le=10_000)] = 0.0
    """A hit is delayed by a random time up to this, in milliseconds, so that its speed reveals less about
    what others have asked.
    """


class CacheSettings(Section):
    """Caching of answers."""

    exact: ExactCacheSettings = ExactCacheSettings()
    """The exact cache."""
    semantic: SemanticCacheSettings = SemanticCacheSettings()
    """The semantic cache."""
    sharing: SharingSettings = SharingSettings()
    """Sharing between users of a tenant."""
    coalesce: bool = True
    """Let a request join the stream of an identical one in flight."""
    show_text: bool = False
    """Show questions and answers in `GET /v1/cache/entries` and the console (only to admin keys if keys
    exist); off: times, models, tags and sizes.
    """


class StateSettings(Section):
    """Where state is stored."""

    redis_url: str | None = None
    """Redis for state that workers share (cached answers, invalidations, calls in flight, tool results,
    runs), such as `redis://host:6379/0`. Empty: each worker has its own. A slow or unreachable Redis delays a
    request by `redis_budget_ms` at most.
    """
    redis_budget_ms: Annotated[float, Field(gt=0, le=10_000)] = 20.0
    """Time limit of one Redis command on a request's path, in milliseconds. After a few late replies Redis is
    bypassed until it replies in time again.
    """
    redis_prefix: Annotated[str, Field(min_length=1, max_length=64)] = "slipstream"
    """Prefix of every key and channel; gateways with the same prefix share their state."""
    qdrant_url: str | None = None
    """Qdrant for semantic entries, such as `http://host:6333`; empty: embedded, under `data_dir`."""
    qdrant_api_key: SecretStr | None = None
    """Qdrant's API key, if it needs one."""
    encryption_keys: tuple[SecretStr, ...] = ()
    """Secrets of at least 32 characters each (`openssl rand -base64 32`) that encrypt stored questions and
    answers on disk, in Redis and in Qdrant. The first encrypts, all decrypt. Default: no encryption.
    """
    data_dir: str = "./var"
    """Folder for what the gateway writes: keys, traces, embedded vectors, jobs."""


class LimitSettings(Section):
    """Usage limits; an absent one is unlimited. Requests beyond a limit get 429 with `retry-after`."""

    requests_per_minute: Count | None = None
    """Requests per minute; a burst may use all of them at once (GCRA)."""
    tokens_per_minute: Count | None = None
    """Prompt and output tokens per minute of calls that reach a model. The prompt is estimated before the
    call and corrected afterwards.
    """
    concurrent_requests: Count | None = None
    """Requests in flight, per worker."""
    usd_per_day: Usd | None = None
    """USD per UTC day, by the models' prices; checked before a call, charged after it."""
    usd_per_month: Usd | None = None
    """USD per UTC month, likewise."""


class TenantLimitSettings(Section):
    """Limits per tenant, whichever key is used."""

    default: LimitSettings = LimitSettings()
    """Limits of every tenant that is not named below; callers without a key are the tenant `default`."""
    tenants: dict[Name, LimitSettings] = Field(default_factory=dict)
    """Limits by tenant; they replace the default."""


class KeySettings(LimitSettings):
    """A client's key for this gateway."""

    key: Annotated[SecretStr, Field(min_length=1)]
    """The key itself. Write `${NAME}`, so that it is in no file."""
    tenant: Name
    """Its tenant: cached answers, limits and costs are separate for each tenant."""
    name: str = ""
    """A name that distinguishes it from the tenant's other keys."""
    models: tuple[str, ...] | None = None
    """Models that it may use, including `auto` if it may be routed; absent: all."""
    agents: tuple[str, ...] | None = None
    """Agents that it may run; absent: all."""
    tools: tuple[str, ...] | None = None
    """Tools that agents may call for it; absent: all."""
    admin: bool = False
    """Allow routes that concern more than its tenant: `/metrics`, `/v1/savings`, `/v1/speculation`."""


class AuthSettings(Section):
    """Authentication."""

    required: bool = False
    """Require a key on every call: `Authorization: Bearer <key>` or `x-api-key`."""
    keys: tuple[KeySettings, ...] = ()
    """Keys in the configuration, in addition to those that `slipstream keys` stores under `state.data_dir`.
    """


class TelemetrySettings(Section):
    """Logs, traces, metrics and the ledger."""

    trace_ring: Annotated[int, Field(ge=0, le=1_000_000)] = 1_000
    """Traces kept for `GET /v1/traces`, per worker; about 2 KiB each."""
    ledger_days: Annotated[int, Field(ge=0, le=3_660)] = 30
    """Days that `ledger.sqlite` under `state.data_dir` keeps the latency, cost and savings of each turn; 0:
    only in memory, for a day.
    """
    otlp_endpoint: str | None = None
    """OTLP/HTTP collector, such as `http://host:4318`; empty: no spans, at no cost. Spans follow the GenAI
    semantic conventions; a client's `traceparent` is continued, and calls upstream carry ours.
    """
    log_format: Literal["auto", "json", "text"] = "auto"
    """`auto`: text on a terminal, JSON elsewhere."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Lowest severity that is logged."""


class SimulatorSettings(Section):
    """The simulated provider that the gateway can start beside itself."""

    start: bool = False
    """Start it. It is also started if no key is set and every provider's `base_url` is its address; one that
    already listens there is used as it is.
    """
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Annotated[int, Field(ge=1, le=65_535)] = 9100
    """TCP port to listen on, 1 to 65535."""
    seed: int = 0
    """Random seed: the same seed and requests give the same latencies."""


class Settings(Section):
    """The whole configuration."""

    server: ServerSettings = ServerSettings()
    """Listening, limits and shutdown."""
    providers: dict[Name, ProviderSettings] = Field(default_factory=dict)
    """Upstreams by name."""
    models: tuple[ModelSettings, ...] = ()
    """Models by the names that clients use."""
    routing: RoutingSettings = RoutingSettings()
    """Routing of `auto` requests."""
    cache: CacheSettings = CacheSettings()
    """Caching of answers."""
    prompts: PromptSettings = PromptSettings()
    """Use of the vendors' prompt caches, output contracts, layouts and batches."""
    lanes: LaneSettings = LaneSettings()
    """Answers without a model."""
    state: StateSettings = StateSettings()
    """Where state is stored."""
    tools: tuple[ToolSettings, ...] = ()
    """Tools for agents."""
    mcp_servers: dict[ToolName, McpServerSettings] = Field(default_factory=dict)
    """MCP servers by name."""
    egress: EgressSettings = EgressSettings()
    """Hosts that tools may reach."""
    agents: tuple[AgentSettings, ...] = ()
    """Agents by name."""
    jobs: JobSettings = JobSettings()
    """Background runs."""
    auth: AuthSettings = AuthSettings()
    """Authentication."""
    limits: TenantLimitSettings = TenantLimitSettings()
    """Limits per tenant."""
    telemetry: TelemetrySettings = TelemetrySettings()
    """Logs, traces, metrics and the ledger."""
    simulator: SimulatorSettings = SimulatorSettings()
    """The simulated provider."""
