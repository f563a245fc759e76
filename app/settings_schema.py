"""The shape of the configuration: every key with its default, its unit and the evidence for the
number.

These models are the documentation too: `docs/settings.md` is rendered from them and a test compares
the two. They hold no I/O; `app.settings` reads, expands and checks, and re-exports them. All are
frozen: a running gateway's settings are replaced whole or not at all.
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
    """Address to listen on; 0.0.0.0 for every interface. Loopback by default: nothing is exposed
    unasked.
    """
    port: Port = 8080
    """TCP port, 0 to 65535; 0 takes a free one and prints it."""
    workers: Annotated[int, Field(ge=1, le=256)] = 1
    """Processes that share the port. Each keeps its own exact cache, limits, runs and traces."""
    reload_on_change: bool = False
    """Whether a changed configuration file is taken at once, as on SIGHUP; looked at every second. One that
    is invalid is refused whole. Address, port and workers stay as they were.
    """
    max_body_bytes: Count = 16 * 1024 * 1024
    """Largest request body in bytes; more is a 413. 16 MiB: above the vendors' image limits of 5 to
    10 MB.
    """
    max_bodies_bytes: Count = 512 * 1024 * 1024
    """Bytes of memory that the bodies of all requests in flight may take together, per worker, as they weigh
    once they are read; beyond it 503 with retry-after. A request that alone takes over a quarter is a 413.
    Administrative routes have an eighth of as much, apart.
    """
    max_inflight_requests: Count = 2_000
    """Requests in flight per worker before new ones get 503 with retry-after, so that memory stays
    bounded.
    """
    sse_comment_s: Seconds = 10.0
    """Seconds of silence after which a stream gets an SSE comment. Proxies commonly cut idle
    streams at 15 to 60 s.
    """
    shutdown_grace_s: Seconds = 30.0
    """Seconds that streams in flight have to finish after SIGTERM; the usual grace of
    orchestrators.
    """
    drain_s: Annotated[float, Field(ge=0, le=600)] = 3.0
    """Seconds after SIGTERM in which new requests are still served while `/readyz` is 503 and every
    answer ends its connection, so that whoever stands in front goes elsewhere first. Longer than
    that one holds a server for dead (nginx: `fail_timeout`).
    """
    cors_origins: tuple[str, ...] = ()
    """Origins whose pages may call the gateway, such as `https://app.example`; `*` for all, none by
    default.
    """
    docs_enabled: bool = True
    """Whether `/docs` and `/openapi.json` are served."""


class SdkSettings(Section):
    """What the vendors' own packages need beyond a base URL; read only with `transport: sdk`."""

    platform: Literal["direct", "azure", "bedrock", "vertex"] = "direct"
    """Which client class of the vendor's package is used."""
    api_version: str | None = None
    """Azure's API version."""
    region: str | None = None
    """Bedrock's or Vertex's region."""
    project: str | None = None
    """Vertex's project."""
    proxy_url: str | None = None
    """HTTP proxy for the calls."""


class ProviderSettings(Section):
    """One upstream: a vendor, or any server that speaks a vendor's dialect."""

    kind: Literal["openai", "anthropic"]
    """The dialect that the upstream speaks."""
    base_url: str
    """Where its API begins: with `/v1` for `openai`, without for `anthropic`, as the vendors' own
    packages have it.
    """
    api_key: SecretStr = SecretStr("none")
    """The upstream's key; `none` for servers that need none. Write `${NAME}`, never the key itself.
    """
    transport: Literal["wire", "sdk"] = "wire"
    """`wire`: our own warm pool. `sdk`: the vendor's package, for what wire does not speak, at about
    ten times the cost a call (docs/decisions/0001).
    """
    responses: Literal["auto", "native", "translate"] = "auto"
    """Responses API of an `openai` upstream: `native` forwards, `translate` uses Chat Completions,
    `auto` tries native first.
    """
    connect_timeout_s: Seconds = 5.0
    """Seconds for TCP and, again, for TLS. The vendors' packages use 5."""
    first_byte_timeout_s: Seconds = 120.0
    """Seconds from the request's last byte to the answer's first; long, as reasoning models think
    before they speak.
    """
    between_bytes_timeout_s: Seconds = 60.0
    """Longest silence inside an answer, in seconds; vendors send pings every 10 to 15 s."""
    total_timeout_s: Seconds = 600.0
    """Seconds for the whole call; the vendors' packages' own default."""
    max_connections: Count = 256
    """Connections per worker, and so calls at once, as HTTP/1.1 gives each stream its own; more
    calls wait.
    """
    warm_connections: Annotated[int, Field(ge=0)] = 2
    """Connections opened at start and kept open: a cold TLS connection costs 2 to 3 round trips
    before the first byte.
    """
    adaptive_concurrency: bool = True
    """Whether fewer calls than `max_connections` are made at once when the upstream says that it has too
    much, or its first words come more than twice as late as in calm.
    """
    max_queued: Annotated[int, Field(ge=0)] = 1_000
    """Calls per worker that may wait for a place at it, tenants in turn; more get 503 with retry-after."""
    queue_timeout_s: Seconds = 10.0
    """Seconds that a call may wait for a place. One that would wait longer, by the pace of the last
    answers, gets its 503 at once.
    """
    retries: Annotated[int, Field(ge=0, le=5)] = 1
    """Further tries on connect errors, 429 and 5xx, at another model of the tier where there is one;
    only ever before the first event.
    """
    headers: dict[str, str] = Field(default_factory=dict)
    """Headers added to every call, such as an organisation's id. Values are printed redacted."""
    sdk: SdkSettings = SdkSettings()
    """Options of the vendor's package."""


class PriceSettings(Section):
    """USD per million tokens. All zero: the cost is unknown and counted as 0."""

    input: Usd = 0.0
    """Prompt tokens, in USD per million."""
    output: Usd = 0.0
    """Generated tokens, in USD per million."""
    cached_input: Usd | None = None
    """Prompt tokens read from the vendor's prompt cache, in USD per million; as `input` when
    absent.
    """
    cache_write: Usd | None = None
    """Prompt tokens written to the vendor's prompt cache, in USD per million; as `input` when
    absent.
    """


class AbilitySettings(Section):
    """Corrections to what the gateway believes that a model can do. Absent: as its profile says."""

    temperature: bool | None = None
    """Takes `temperature` and `top_p`; reasoning models often refuse them."""
    images: bool | None = None
    """Takes images."""
    documents: bool | None = None
    """Takes documents, such as PDF."""
    tools: bool | None = None
    """Takes tools."""
    structured_output: bool | None = None
    """Takes a JSON schema for the answer."""
    prefill: bool | None = None
    """Continues an assistant message that stands last."""
    thinking: Literal["none", "effort", "budget", "adaptive"] | None = None
    """How thinking is asked for: not at all, by a word, by tokens, or as the model sees fit."""
    cache_breakpoints: Literal["none", "anthropic", "openai", "implicit"] | None = None
    """How prompt caching is asked for."""
    cache_minimum_tokens: Count | None = None
    """Shortest prefix in tokens that the vendor caches."""
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] | None = None
    """What the Chat dialect calls the limit of the answer."""
    verbosity: bool | None = None
    """Takes OpenAI's `verbosity`: a word for how much is said."""
    default_max_tokens: Count | None = None
    """Tokens to allow where a dialect demands a limit and the caller gave none."""


class ModelSettings(Section):
    """A model under the name by which clients ask for it."""

    name: Name
    """What clients send as `model`; `auto` and `agent/...` are the gateway's own."""
    provider: str
    """The key of an entry of `providers`."""
    model: Annotated[str, Field(min_length=1)]
    """The upstream's own name for it."""
    tier: Tier
    """`fast` or `powerful`: which side of the router it is on."""
    price: PriceSettings = PriceSettings()
    """What its tokens cost."""
    context_tokens: Count | None = None
    """Longest prompt and answer together, in tokens; unknown when absent, and then not checked."""
    abilities: AbilitySettings = AbilitySettings()
    """Corrections to what the gateway believes that it can do."""
    breakpoints: bool | None = None
    """Whether prompt-cache breakpoints are added for it; absent: as `prompts.breakpoints` says."""


class ExactCacheSettings(Section):
    """Answers to requests that are the same in every part that matters."""

    enabled: bool = True
    """Whether it is read and written."""
    ttl_s: Annotated[int, Field(ge=1)] = 3_600
    """Seconds that an answer is kept, unless its classification says less."""
    max_bytes: Count = 64 * 1024 * 1024
    """Bytes kept in process, per worker: 10,000 answers of 6 KiB."""


class SemanticCacheSettings(Section):
    """Answers to questions that mean the same, served only under a proven bound of error."""

    enabled: bool = True
    """Whether it is read and written."""
    ttl_s: Annotated[int, Field(ge=1)] = 3_600
    """Seconds that an answer is kept, unless its classification says less."""
    max_error_rate: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """Largest share of wrong hits that is tolerated, 0 to 1; below the evidence for it nothing is
    served.
    """
    audit_rate: Share = 0.02
    """Share of would-be hits that are asked of the model all the same, to keep labels flowing, 0 to
    1.
    """
    budget_ms: Annotated[float, Field(gt=0, le=1_000)] = 5.0
    """The longest that embedding and look-up may hold a request up, in milliseconds; a later answer counts
    as a miss.
    """
    race_for: tuple[str, ...] = ()
    """Tenants whose requests are asked of the model while the look-up runs, `*` for all: a miss waits for
    nothing, and a hit costs what the model had begun. Without Redis alone.
    """
    max_entries: Annotated[int, Field(ge=16, le=100_000_000)] = 1_000_000
    """Questions kept in the embedded engine, about 3 KiB each and the answer. Beyond, those that expire
    soonest make room.
    """


class SharingSettings(Section):
    """What the users of a tenant share: `x-slipstream-user` names one."""

    scope: Literal["user", "tenant"] = "user"
    """`user`: a request that names its user shares with nobody else, one that names none with the tenant's
    others of that kind. `tenant`: all users of a tenant share.
    """
    least_askers: Annotated[int, Field(ge=1, le=32)] = 1
    """With `scope: tenant`: an answer is shown to others once so many different users had their own from a
    model. Each worker counts for itself.
    """
    most_of_one_user: Annotated[float, Field(gt=0, le=1)] = 1.0
    """With `scope: tenant`: largest share of the 200 answers last kept for hits by meaning (within an hour)
    that may come from one named user, 0 to 1. What is beyond is neither kept nor learned from.
    """
    hit_jitter_ms: Annotated[float, Field(ge=0, le=10_000)] = 0.0
    """A hit waits a random time up to this, in milliseconds, so that its speed says less about what others
    have asked.
    """


class CacheSettings(Section):
    """What is answered from what is already known."""

    exact: ExactCacheSettings = ExactCacheSettings()
    """Equal requests."""
    semantic: SemanticCacheSettings = SemanticCacheSettings()
    """Equivalent questions."""
    sharing: SharingSettings = SharingSettings()
    """Whose answers are shown to whom."""
    coalesce: bool = True
    """Whether a request joins the stream of an identical one in flight."""
    show_text: bool = False
    """Whether `GET /v1/cache/entries` and the console show what was asked and answered, to admin keys alone
    where keys exist; off: times, models, tags and sizes.
    """


class StateSettings(Section):
    """Where state lives."""

    redis_url: str | None = None
    """Redis for what workers share, such as `redis://host:6379/0`: kept answers, invalidations, calls in
    flight, tool results, runs. Empty: each worker keeps its own. A Redis that is slow or gone costs no
    request more than `redis_budget_ms`.
    """
    redis_budget_ms: Annotated[float, Field(gt=0, le=10_000)] = 20.0
    """The longest that one question to Redis may hold a request up, in milliseconds. After a few late
    answers Redis is left alone until it answers in time again.
    """
    redis_prefix: Annotated[str, Field(min_length=1, max_length=64)] = "slipstream"
    """Begins every key and channel: gateways of one prefix share their state."""
    qdrant_url: str | None = None
    """Qdrant for semantic entries, such as `http://host:6333`; empty: embedded, under `data_dir`."""
    qdrant_api_key: SecretStr | None = None
    """Qdrant's key, if it needs one."""
    encryption_keys: tuple[SecretStr, ...] = ()
    """Secrets, each of at least 32 characters (`openssl rand -base64 32`), by which kept questions and
    answers are encrypted on disk, in Redis and in Qdrant. The first encrypts, all decrypt; none: clear
    text.
    """
    data_dir: str = "./var"
    """Folder for what the gateway writes: keys, traces, embedded vectors, jobs."""


class LimitSettings(Section):
    """How much may be used; what is absent is unlimited. More is a 429 with `retry-after`."""

    requests_per_minute: Count | None = None
    """Requests a minute; as many at once, and then as they come back (GCRA)."""
    tokens_per_minute: Count | None = None
    """Prompt and output tokens a minute of calls that reach a model. The prompt is estimated before a call
    and settled after it.
    """
    concurrent_requests: Count | None = None
    """Requests being answered at once, per worker; streams above all."""
    usd_per_day: Usd | None = None
    """USD for calls in a UTC day, by the models' prices; checked before a call, settled after it."""
    usd_per_month: Usd | None = None
    """USD for calls in a UTC month, likewise."""


class TenantLimitSettings(Section):
    """Limits of whole tenants, whichever key is used."""

    default: LimitSettings = LimitSettings()
    """For every tenant that is not named below; callers without a key are the tenant `default`."""
    tenants: dict[Name, LimitSettings] = Field(default_factory=dict)
    """By tenant; these replace the default's."""


class KeySettings(LimitSettings):
    """A client's key for this gateway."""

    key: Annotated[SecretStr, Field(min_length=1)]
    """The key itself. Write `${NAME}`, so that it stands in no file."""
    tenant: Name
    """Whose it is: cached answers, limits and costs are kept apart by tenant."""
    name: str = ""
    """What tells it from the tenant's other keys."""
    models: tuple[str, ...] | None = None
    """What it may send as `model`, `auto` among them if it may be routed; absent: everything."""
    agents: tuple[str, ...] | None = None
    """Agents that it may run; absent: all."""
    tools: tuple[str, ...] | None = None
    """Tools that agents may call for it; absent: all that they have."""
    admin: bool = False
    """Whether it may use what concerns more than its tenant: `/metrics`, `/v1/savings`, `/v1/speculation`."""


class AuthSettings(Section):
    """Who may call."""

    required: bool = False
    """True: every call needs `Authorization: Bearer <key>` or `x-api-key`."""
    keys: tuple[KeySettings, ...] = ()
    """Keys from the configuration, beside those that `slipstream keys` keeps under `state.data_dir`."""


class TelemetrySettings(Section):
    """What is recorded."""

    trace_ring: Annotated[int, Field(ge=0, le=1_000_000)] = 1_000
    """Waterfalls that `GET /v1/traces` remembers, per worker; about 2 KiB each."""
    ledger_days: Annotated[int, Field(ge=0, le=3_660)] = 30
    """How long `ledger.sqlite` under `state.data_dir` keeps what each turn took, cost and saved; 0: in memory
    alone, for a day.
    """
    otlp_endpoint: str | None = None
    """OTLP/HTTP collector, such as `http://host:4318`; empty: no spans are made, at no cost. Spans carry
    the GenAI semantic conventions; a caller's `traceparent` is taken up, and calls upstream carry ours.
    """
    log_format: Literal["auto", "json", "text"] = "auto"
    """`auto`: text on a terminal, JSON elsewhere."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severity that is logged."""


class SimulatorSettings(Section):
    """The simulated upstream that the gateway starts beside itself."""

    start: bool = False
    """Whether to start it. It is started all the same where no key is set and every provider's `base_url` is
    its address; one that already listens there is used as it is.
    """
    host: str = "127.0.0.1"
    """Address that it listens on."""
    port: Annotated[int, Field(ge=1, le=65_535)] = 9100
    """TCP port that it listens on, 1 to 65535."""
    seed: int = 0
    """Seed of its clock: the same seed and requests give the same latencies."""


class Settings(Section):
    """Everything that a gateway is told."""

    server: ServerSettings = ServerSettings()
    """Where and how it listens."""
    providers: dict[Name, ProviderSettings] = Field(default_factory=dict)
    """Upstreams by name."""
    models: tuple[ModelSettings, ...] = ()
    """Models by the names that clients use."""
    routing: RoutingSettings = RoutingSettings()
    """How `auto` is decided."""
    cache: CacheSettings = CacheSettings()
    """What is answered from memory."""
    prompts: PromptSettings = PromptSettings()
    """What is done for the vendors' prompt caches."""
    lanes: LaneSettings = LaneSettings()
    """What is answered without a model."""
    state: StateSettings = StateSettings()
    """Where state lives."""
    tools: tuple[ToolSettings, ...] = ()
    """Tools for agents."""
    mcp_servers: dict[ToolName, McpServerSettings] = Field(default_factory=dict)
    """MCP servers by name."""
    egress: EgressSettings = EgressSettings()
    """What tools may reach."""
    agents: tuple[AgentSettings, ...] = ()
    """Agents by name."""
    jobs: JobSettings = JobSettings()
    """Runs in the background."""
    auth: AuthSettings = AuthSettings()
    """Who may call."""
    limits: TenantLimitSettings = TenantLimitSettings()
    """How much each tenant may use."""
    telemetry: TelemetrySettings = TelemetrySettings()
    """What is recorded."""
    simulator: SimulatorSettings = SimulatorSettings()
    """The simulated upstream."""
