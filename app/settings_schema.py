"""The shape of the configuration: every key with its default, its unit and the evidence for the
number.

These models are the documentation too: `docs/settings.md` is rendered from them and a test compares
the two. They hold no I/O; `app.settings` reads, expands and checks, and re-exports them. All are
frozen: a running gateway's settings are replaced whole or not at all.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from app.domain.decisions import Tier

Seconds = Annotated[float, Field(gt=0, le=86_400)]
Count = Annotated[int, Field(ge=1)]
Port = Annotated[int, Field(ge=0, le=65_535)]
Usd = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}$")]
ToolName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Json = dict[str, object]


def _no_parameters() -> Json:
    return {"type": "object", "properties": {}}


class Section(BaseModel):
    """A frozen part of the settings that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ServerSettings(Section):
    """Where and how the gateway listens."""

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for every interface. Loopback by default: nothing is exposed
    unasked.
    """
    port: Port = 8080
    """TCP port, 0 to 65535; 0 takes a free one and prints it."""
    workers: Annotated[int, Field(ge=1, le=256)] = 1
    """Processes that share the port. More than one needs `state.redis_url` for what must be shared.
    """
    max_body_bytes: Count = 16 * 1024 * 1024
    """Largest request body in bytes; more is a 413. 16 MiB: above the vendors' image limits of 5 to
    10 MB.
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
    """`wire`: our own warm pool (measured 0.13 ms a call). `sdk`: the vendor's package (1 ms), for
    whatever wire does not speak.
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
    retries: Annotated[int, Field(ge=0, le=5)] = 1
    """Further tries on connect errors, 429 and 5xx; only ever before the first event."""
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
    max_output_tokens: Count | None = None
    """Longest answer in tokens; fills in `max_tokens` where a dialect demands one and the client
    gave none.
    """
    abilities: dict[str, bool | int | str] = Field(default_factory=dict)
    """Corrections to what the gateway believes the model can do, by ability (`docs/settings.md`
    lists them).
    """


class RoutingSettings(Section):
    """How a request for `model: auto` finds its model."""

    fast_share: Share = 0.70
    """Share of `auto` traffic that the fast tier takes, 0 to 1: the calibration target."""
    escalate: bool = True
    """Whether a fast answer that looks wrong is asked again of the powerful tier, before its first
    event is out.
    """


class ExactCacheSettings(Section):
    """Answers to requests that are the same in every part that matters."""

    enabled: bool = True
    """Whether it is read and written."""
    ttl_s: Annotated[int, Field(ge=1)] = 3_600
    """Seconds that an answer is kept, unless its classification says less."""
    max_entries: Count = 10_000
    """Answers kept in process, per worker."""
    max_bytes: Count = 64 * 1024 * 1024
    """Bytes kept in process, per worker: 10,000 answers of 6 KiB."""
    max_entry_bytes: Count = 1024 * 1024
    """Largest answer in bytes that is kept at all."""


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


class CacheSettings(Section):
    """What is answered from what is already known."""

    exact: ExactCacheSettings = ExactCacheSettings()
    """Equal requests."""
    semantic: SemanticCacheSettings = SemanticCacheSettings()
    """Equivalent questions."""
    coalesce: bool = True
    """Whether a request joins the stream of an identical one in flight."""


class LaneTest(Section):
    """An example that `slipstream check` runs against its rule."""

    input: str
    """What the user says."""
    output: str | None = None
    """What the lane answers; null: the rule must not match."""


class LaneRule(Section):
    """One deterministic answer."""

    name: Name
    """Names the rule in traces and metrics."""
    pattern: Annotated[str, Field(min_length=1)]
    """RE2 expression (linear time, no look-around) that must match the whole last user message,
    ignoring outer white space.
    """
    template: str
    """The answer; `{name}` stands for a named group of the pattern, `{{` for a brace."""
    tests: tuple[LaneTest, ...] = ()
    """Examples, run at start: a rule that fails its own tests is a configuration error."""


class LaneSettings(Section):
    """Answers without a model."""

    enabled: bool = True
    """Whether the rules are tried."""
    rules: tuple[LaneRule, ...] = ()
    """Tried in order; the first that matches answers."""


class StateSettings(Section):
    """Where state lives."""

    redis_url: str | None = None
    """Redis for shared state, such as `redis://host:6379/0`; empty: in process."""
    qdrant_url: str | None = None
    """Qdrant for semantic entries, such as `http://host:6333`; empty: embedded, under `data_dir`.
    """
    qdrant_api_key: SecretStr | None = None
    """Qdrant's key, if it needs one."""
    data_dir: str = "./var"
    """Folder for what the gateway writes: keys, traces, embedded vectors, jobs."""


class HttpToolSettings(Section):
    """A tool that is an HTTP call."""

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"] = "GET"
    """HTTP method."""
    url: Annotated[str, Field(min_length=1)]
    """URL with `{argument}` places, each filled percent-encoded from the call's arguments."""
    headers: dict[str, str] = Field(default_factory=dict)
    """Headers of the call. Values may hold secrets from the environment and are printed redacted.
    """
    body: object = None
    """JSON body; a string value that is just `{argument}` takes the argument with its type. Absent:
    for POST, PUT and PATCH all arguments.
    """
    result: str | None = None
    """JSON pointer (RFC 6901) of the part of the answer that is the result, such as `/data/state`;
    absent: all of it.
    """


class McpToolSettings(Section):
    """A tool of a configured MCP server, under a name and with effects of its own."""

    server: str
    """The key of an entry of `mcp_servers`."""
    tool: Annotated[str, Field(min_length=1)]
    """The server's name for it."""


class ToolEffects(Section):
    """What a tool's call does to the world. All false unless declared: speculation and caching need
    proof.
    """

    read_only: bool = False
    """The call changes nothing."""
    repeatable: bool = False
    """Calling twice is the same as once, so it may be retried."""
    disclosable: bool = False
    """Its arguments may be sent before the model has asked for the call."""


class ToolSettings(Section):
    """A tool that agents may call. Exactly one of `http`, `python` and `mcp`."""

    name: ToolName
    """The name that models see."""
    description: str = ""
    """What it does, for the model."""
    status: str | None = None
    """What a person is shown while it runs; `{argument}` places are filled."""
    parameters: Json = Field(default_factory=_no_parameters)
    """JSON Schema of its arguments; they are validated before a call."""
    http: HttpToolSettings | None = None
    """An HTTP call."""
    python: Annotated[str, Field(pattern=r"^[\w.]+:[\w.]+$")] | None = None
    """A Python callable by import path, `package.module:function`."""
    mcp: McpToolSettings | None = None
    """A tool of an MCP server."""
    timeout_s: Seconds = 10.0
    """Seconds for one try."""
    cache_ttl_s: Annotated[float, Field(ge=0)] = 0.0
    """Seconds that a result is kept per tenant, user and arguments; 0: not at all. Needs
    `effects.read_only`.
    """
    retries: Annotated[int, Field(ge=0, le=5)] = 0
    """Further tries after a failure. Needs `effects.repeatable`."""
    max_concurrency: Count = 16
    """Calls at once, per worker."""
    max_result_bytes: Count = 64 * 1024
    """Longest result in bytes that a model is given; more is cut, with a note. 64 KiB is about
    16,000 tokens.
    """
    cost_usd: Usd = 0.0
    """What a call costs, in USD; speculation weighs it."""
    effects: ToolEffects = ToolEffects()
    """What a call does to the world."""


class McpServerSettings(Section):
    """An MCP server, by URL or by command; all its tools are offered as `<server>__<tool>`."""

    url: str | None = None
    """Streamable HTTP endpoint."""
    headers: dict[str, str] = Field(default_factory=dict)
    """Headers of its calls. Values are printed redacted."""
    command: tuple[str, ...] = ()
    """Program and arguments of a server that speaks on standard input and output."""
    env: dict[str, str] = Field(default_factory=dict)
    """Environment of that program. Values are printed redacted."""
    timeout_s: Seconds = 10.0
    """Seconds for one call."""
    effects: ToolEffects = ToolEffects()
    """What its tools do to the world, unless a `tools` entry says otherwise."""


class AgentSettings(Section):
    """A model, a system prompt and tools that run on the gateway's side."""

    name: Name
    """Clients ask for it as `agent/<name>`."""
    system: str = ""
    """Its system prompt."""
    tools: tuple[str, ...] = ()
    """Names of `tools`, `<server>__<tool>` of an MCP server, or `<server>__*` for all of them."""
    model: str = "auto"
    """A name of `models`, or `auto`."""
    max_turns: Annotated[int, Field(ge=1, le=100)] = 8
    """Model calls in one run before it must answer."""
    max_parallel_tools: Count = 16
    """Tool calls at once in one run."""
    deadline_s: Seconds | None = None
    """Seconds for a whole run; none unless given here or by the request."""


class KeySettings(Section):
    """A client's key for this gateway."""

    key: Annotated[SecretStr, Field(min_length=1)]
    """The key itself. Write `${NAME}`; `slipstream keys` makes keys that are stored only as hashes.
    """
    tenant: Name
    """Whose it is: cached answers, limits and costs are kept apart by tenant."""
    name: str = ""
    """What tells it from the tenant's other keys."""
    requests_per_minute: Count | None = None
    """Requests a minute, as a token bucket of that size; unlimited when absent. More is a 429."""


class AuthSettings(Section):
    """Who may call."""

    required: bool = False
    """True: every call needs `Authorization: Bearer <key>` or `x-api-key`."""
    keys: tuple[KeySettings, ...] = ()
    """Keys from the configuration."""


class TelemetrySettings(Section):
    """What is recorded."""

    trace_ring: Annotated[int, Field(ge=0, le=1_000_000)] = 1_000
    """Waterfalls that `GET /v1/traces` remembers, per worker; about 2 KiB each."""
    otlp_endpoint: str | None = None
    """OTLP/HTTP collector, such as `http://host:4318`; empty: no spans are made, at no cost."""
    log_format: Literal["auto", "json", "text"] = "auto"
    """`auto`: text on a terminal, JSON elsewhere."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severity that is logged."""
    log_prompts: bool = False
    """Whether prompts and answers may stand in the log. Off: they are people's words."""


class SimulatorSettings(Section):
    """The simulated upstream that the gateway starts beside itself."""

    start: bool = False
    """Whether to start it. The embedded default does where no vendor's key is set; a file must ask
    for it.
    """
    host: str = "127.0.0.1"
    """Address that it listens on."""
    port: Annotated[int, Field(ge=1, le=65_535)] = 9100
    """TCP port that it listens on, 1 to 65535."""
    seed: int = 7
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
    lanes: LaneSettings = LaneSettings()
    """What is answered without a model."""
    state: StateSettings = StateSettings()
    """Where state lives."""
    tools: tuple[ToolSettings, ...] = ()
    """Tools for agents."""
    mcp_servers: dict[ToolName, McpServerSettings] = Field(default_factory=dict)
    """MCP servers by name."""
    agents: tuple[AgentSettings, ...] = ()
    """Agents by name."""
    auth: AuthSettings = AuthSettings()
    """Who may call."""
    telemetry: TelemetrySettings = TelemetrySettings()
    """What is recorded."""
    simulator: SimulatorSettings = SimulatorSettings()
    """The simulated upstream."""
