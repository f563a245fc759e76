"""The schema of `tools`, `mcp_servers`, `egress` and `agents`; see `app.settings_schema`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from app.settings_types import Count, Json, Name, Seconds, Section, ToolName, Usd


def _no_parameters() -> Json:
    return {"type": "object", "properties": {}}


class HttpToolSettings(Section):
    """A tool that is an HTTP call."""

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"] = "GET"
    """HTTP method."""
    url: Annotated[str, Field(min_length=1)]
    """URL with `{argument}` placeholders, each filled percent-encoded from the call's arguments."""
    headers: dict[str, str] = Field(default_factory=dict)
    """Headers of the call. Values may hold secrets from the environment and are redacted when printed.
    """
    body: object = None
    """JSON body; a string value that is exactly `{argument}` takes the argument with its type. Absent: all
    arguments for POST, PUT and PATCH.
    """
    result: str | None = None
    """JSON pointer (RFC 6901) to the part of the response that is the result, such as `/data/state`; absent:
    all of it.
    """


class McpToolSettings(Section):
    """A tool of a configured MCP server, with its own name and effects."""

    server: str
    """The key of an entry of `mcp_servers`."""
    tool: Annotated[str, Field(min_length=1)]
    """The server's name of the tool."""


class ToolEffects(Section):
    """Side effects of a tool's calls. All false unless declared; speculation and caching rely on them."""

    read_only: bool = False
    """The call changes nothing."""
    repeatable: bool = False
    """Calling twice has the same effect as once, so it may be retried."""
    disclosable: bool = False
    """Its arguments may be sent before the model has asked for the call."""


class ToolSettings(Section):
    """A tool that agents may call. Exactly one of `http`, `python` and `mcp`."""

    name: ToolName
    """The name that models see."""
    description: str = ""
    """What it does, for the model."""
    status: str | None = None
    """Status text shown while it runs; `{argument}` placeholders are filled."""
    parameters: Json = Field(default_factory=_no_parameters)
    """JSON Schema of its arguments, which are validated before a call."""
    http: HttpToolSettings | None = None
    """An HTTP call."""
    python: Annotated[str, Field(pattern=r"^[\w.]+:[\w.]+$")] | None = None
    """A Python callable by import path, `package.module:function`."""
    mcp: McpToolSettings | None = None
    """A tool of an MCP server."""
    timeout_s: Seconds = 10.0
    """Seconds for one attempt."""
    cache_ttl_s: Annotated[float, Field(ge=0)] = 0.0
    """Seconds that a result is cached per tenant, user and arguments; 0: not cached. Needs
    `effects.read_only`.
    """
    retries: Annotated[int, Field(ge=0, le=5)] = 0
    """Retries after a failure. Needs `effects.repeatable`."""
    max_concurrency: Count = 16
    """Concurrent calls, per worker."""
    max_result_bytes: Count = 64 * 1024
    """Longest result in bytes that is sent to a model; more is cut, with a note. 64 KiB is about 16,000
    tokens.
    """
    cost_usd: Usd = 0.0
    """Cost of a call in USD, which speculation takes into account."""
    approval: bool = False
    """Require a person's approval of each call. On `POST /v1/agent` the run then ends as interrupted and
    another run resumes it; elsewhere, and in plans, such a call is refused.
    """
    effects: ToolEffects = ToolEffects()
    """Side effects of a call."""


class McpServerSettings(Section):
    """An MCP server, by URL or by command; all its tools are offered as `<server>__<tool>`."""

    url: str | None = None
    """Streamable HTTP endpoint."""
    headers: dict[str, str] = Field(default_factory=dict)
    """Headers of its calls. Values are redacted when printed."""
    command: tuple[str, ...] = ()
    """Program and arguments of a server that uses standard input and output."""
    env: dict[str, str] = Field(default_factory=dict)
    """Environment of that program. Values are redacted when printed."""
    timeout_s: Seconds = 10.0
    """Seconds for one call."""
    effects: ToolEffects = ToolEffects()
    """Side effects of its tools, unless an entry of `tools` says otherwise."""


class EgressSettings(Section):
    """Hosts that tools may reach. Each tool is restricted to the host of its own URL; this restricts those
    hosts.
    """

    hosts: tuple[str, ...] = ()
    """Hosts that tools and MCP servers may have in their URLs, such as `api.example.com` or `*.example.com`;
    none: any. It guards against mistakes in the rest of the configuration.
    """
    private: tuple[str, ...] = ()
    """Host names, addresses and networks that are allowed although their addresses are private, loopback or
    link-local, such as `tickets.internal` or `10.2.0.0/16`. An address or `localhost` in a tool's own URL
    needs no entry.
    """


class WorkflowNodeSettings(Section):
    """A node of a workflow: exactly one of `tool`, `model` and `template`. `{{id}}` in its values is replaced
    by another node's result and creates the dependency, `{{id.path}}` by a part of it, `{{input}}` by the
    user's message.
    """

    id: Annotated[str, Field(pattern=r"^[A-Za-z_][\w-]*$")]
    """Its name within the workflow."""
    tool: str | None = None
    """A name of `tools`."""
    arguments: Json = Field(default_factory=dict)
    """The tool's arguments."""
    each: str | None = None
    """A reference to a list: the tool is called in parallel for each element, available as `{{item}}`.
    """
    model: str | None = None
    """A name of `models`, or `auto`; it answers `prompt`."""
    prompt: str = ""
    """The prompt for `model`."""
    template: str | None = None
    """A text whose placeholders are filled; it is the node's result."""
    after: tuple[str, ...] = ()
    """Nodes that must finish before it although it uses none of their results."""
    timeout_s: Seconds | None = None
    """Seconds after which the node counts as timed out."""
    tolerant: bool = False
    """Run it even if nodes that it refers to have failed; their placeholders are then empty."""


class SpeculationSettings(Section):
    """Speculation: starting tools before the model calls them. Only tools whose `effects` are read_only and
    repeatable, and disclosable unless they run on this machine.
    """

    enabled: bool = True
    """Allow tools to start early."""
    value_usd_per_s: Usd = 0.002
    """Value of a second of waiting in USD, weighed against `tools[].cost_usd` by p > c / (c + v * saved).
    0.002 is 7.20 USD an hour.
    """
    max_waste_share: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Largest number of wasted calls per call that the model made, 0 to 1."""
    remember: bool = True
    """Store what runs teach (the user's words, calls and their results) under `state.data_dir`, encrypted if
    there are `state.encryption_keys`, for the workers of the host and for the next start.
    """


class SynthesisSettings(Section):
    """Synthesis of the answer from the tools' results."""

    quorum: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of a step's calls whose results are enough, 0 to 1: once they are there and `patience_s` has
    passed, unfinished calls of read-only tools are left out, and the answer names them.
    """
    patience_s: Annotated[float, Field(ge=0)] = 0.25
    """Seconds to wait for the other calls after the quorum is reached."""
    summarise_over_chars: Annotated[int, Field(ge=200)] | None = None
    """A tool's result with more characters is summarised by a fast model before the agent's model reads it,
    all long results in parallel; if that fails it is cut. Absent: never.
    """


class AgentSettings(Section):
    """An agent: a model, a system prompt and tools that the gateway runs."""

    name: Name
    """Clients use it as the model `agent/<name>`."""
    system: str = ""
    """Its system prompt."""
    tools: tuple[str, ...] = ()
    """Names of `tools`, `<server>__<tool>` of an MCP server, or `<server>__*` for all of them."""
    agents: tuple[str, ...] = ()
    """Names of other `agents` that it may delegate tasks to, in parallel."""
    model: str = "auto"
    """A name of `models`, or `auto`."""
    max_turns: Annotated[int, Field(ge=1, le=100)] = 8
    """Model calls per run; after them it must answer."""
    max_parallel_tools: Count = 16
    """Concurrent tool calls per run."""
    deadline_s: Seconds | None = None
    """Time limit of a run in seconds; none unless given here or by the request."""
    workflow: tuple[WorkflowNodeSettings, ...] = ()
    """A graph that runs before the model answers from its results, with maximal parallelism. A node named
    `answer` is the answer itself, without a model.
    """
    max_tool_calls: Annotated[int, Field(ge=1)] = 64
    """Tool calls per run; after them it must answer."""
    max_tokens: Annotated[int, Field(ge=1)] = 200_000
    """Tokens of all model calls of a run; after them it must answer."""
    max_cost_usd: Usd = 1.0
    """Cost in USD of all model calls of a run; beyond it, it must answer."""
    answer_model: str | None = None
    """A name of `models` that writes the answer from the tools' results if no call failed; `auto`: a fast
    model if the router scores the question alone as easy. Absent: `model`.
    """
    synthesis: SynthesisSettings = SynthesisSettings()
    """Synthesis of the answer."""
    planning: Literal["calls", "written"] = "calls"
    """How the model requests tools. `calls`: by the vendor's tool calls, one model call per step. `written`:
    as a plan with one call per line, in which a call may use another's result, so that a chain of calls needs
    one model call; each call starts as soon as its line and its inputs are complete.
    """
    speculation: SpeculationSettings = SpeculationSettings()
    """Starting tools before the model calls them."""
