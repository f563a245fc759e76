"""The shape of the configuration's tools, MCP servers and agents (see `app.settings_schema`)."""

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
    approval: bool = False
    """Whether a person must approve each call. On `POST /v1/agent` the run then ends as interrupted and
    another resumes it; elsewhere, and in plans, such a call is refused.
    """
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


class EgressSettings(Section):
    """What tools may reach. Each is held to the host of its own URL; this is about where hosts lead."""

    hosts: tuple[str, ...] = ()
    """Hosts that tools and MCP servers may name in their URLs, such as `api.example.com` or
    `*.example.com`; none: any. A list here guards against what else is written into the configuration.
    """
    private: tuple[str, ...] = ()
    """Host names, addresses and networks that may be reached though their addresses are private, loopback
    or link-local, such as `tickets.internal` or `10.2.0.0/16`. An address or `localhost` that stands in a
    tool's own URL needs no entry.
    """


class WorkflowNodeSettings(Section):
    """A node of a workflow: exactly one of `tool`, `model` and `template`. `{{id}}` in its values
    stands for another node's result and makes the edge, `{{id.path}}` for a part of it, `{{input}}`
    for what the user asked.
    """

    id: Annotated[str, Field(pattern=r"^[A-Za-z_][\w-]*$")]
    """Its name within the workflow."""
    tool: str | None = None
    """A name of `tools`."""
    arguments: Json = Field(default_factory=dict)
    """The tool's arguments."""
    each: str | None = None
    """A reference to a list: the tool is called for each of its elements at once, seen as `{{item}}`.
    """
    model: str | None = None
    """A name of `models`, or `auto`; it answers `prompt`."""
    prompt: str = ""
    """What the model is asked."""
    template: str | None = None
    """A text that is filled and is the node's result."""
    after: tuple[str, ...] = ()
    """Nodes that must be done before it, though it takes nothing from them."""
    timeout_s: Seconds | None = None
    """Seconds after which the node counts as timed out."""
    tolerant: bool = False
    """It also runs when some of what it refers to has failed; those places are then empty."""


class SpeculationSettings(Section):
    """Starting tools before the model asks for them. Only tools whose `effects` are read_only and
    repeatable, and disclosable unless they are on this machine.
    """

    enabled: bool = True
    """Whether tools may start early."""
    value_usd_per_s: Usd = 0.002
    """What a second of waiting is worth, in USD; weighed against `tools[].cost_usd` by p > c / (c +
    v * saved). 0.002 is 7.20 USD an hour.
    """
    max_waste_share: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Calls started in vain, at most, per call that the model made."""
    remember: bool = True
    """Whether what runs teach (the user's words, calls and their results) is kept under
    `state.data_dir`, sealed where there are `state.encryption_keys`: for the workers of a host, and
    for the next start.
    """


class SynthesisSettings(Section):
    """How an agent goes from its tools' results to the answer."""

    quorum: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of a step's calls whose results are enough: after it and `patience_s`, calls of read-only
    tools that are still under way are left out, and the answer names them.
    """
    patience_s: Annotated[float, Field(ge=0)] = 0.25
    """Seconds that the other calls are still waited for once the quorum is there."""
    summarise_over_chars: Annotated[int, Field(ge=200)] | None = None
    """A tool's result with more characters is shortened by a fast model before the agent's model reads
    it, all long results at once; where that fails it is cut. Absent: never.
    """


class AgentSettings(Section):
    """A model, a system prompt and tools that run on the gateway's side."""

    name: Name
    """Clients ask for it as `agent/<name>`."""
    system: str = ""
    """Its system prompt."""
    tools: tuple[str, ...] = ()
    """Names of `tools`, `<server>__<tool>` of an MCP server, or `<server>__*` for all of them."""
    agents: tuple[str, ...] = ()
    """Names of other `agents` that it may hand tasks to, several at once."""
    model: str = "auto"
    """A name of `models`, or `auto`."""
    max_turns: Annotated[int, Field(ge=1, le=100)] = 8
    """Model calls in one run before it must answer."""
    max_parallel_tools: Count = 16
    """Tool calls at once in one run."""
    deadline_s: Seconds | None = None
    """Seconds for a whole run; none unless given here or by the request."""
    workflow: tuple[WorkflowNodeSettings, ...] = ()
    """A plan that runs before the model answers from its results; everything in it that can run at
    once does. A node `answer` is the answer itself, without a model.
    """
    max_tool_calls: Annotated[int, Field(ge=1)] = 64
    """Tool calls in one run before it must answer."""
    max_tokens: Annotated[int, Field(ge=1)] = 200_000
    """Tokens of all model calls of a run before it must answer."""
    max_cost_usd: Usd = 1.0
    """Cost in USD of all model calls of a run before it must answer."""
    answer_model: str | None = None
    """A name of `models` that reads the tools' results and writes the answer while all results
    came; `auto`: a fast one where that is mere assembly, by what the router thinks of the question
    alone. Absent: `model`.
    """
    synthesis: SynthesisSettings = SynthesisSettings()
    """From the tools' results to the answer."""
    planning: Literal["calls", "written"] = "calls"
    """How the model says which tools it needs. `calls`: by the vendor's tool calls, a turn a step.
    `written`: as a plan, one call a line, in which a call may take another's result, so that a chain
    of calls needs one model call; each starts as soon as its line and its inputs are there.
    """
    speculation: SpeculationSettings = SpeculationSettings()
    """Starting tools before the model asks for them."""
