"""From a configured agent's ``workflow`` to a checked plan; what cannot run is told when the
gateway starts.
"""

from __future__ import annotations

from app.domain.models import AUTO
from app.domain.plan import Node, NodeKind, PlanError, node, validated
from app.settings import AgentSettings, Settings
from app.settings_agents import WorkflowNodeSettings
from app.settings_problems import Problem, SettingsError


def workflow_of(agent: AgentSettings, settings: Settings) -> tuple[Node, ...]:
    """The agent's plan in an order in which it can run; raises ``SettingsError`` for one that cannot."""
    try:
        _known(agent, settings)
        return validated([_node(each) for each in agent.workflow])
    except PlanError as error:
        path = f"agents[{agent.name}].workflow"
        problem = Problem(
            "the configuration", None, path, None, error.message, "Mend the references."
        )
        raise SettingsError([problem]) from error


def _known(agent: AgentSettings, settings: Settings) -> None:
    """Raise ``PlanError`` for a tool or model that is configured nowhere; a server's own tools are
    known later.
    """
    tools = {tool.name for tool in settings.tools}
    models = {model.name for model in settings.models} | {AUTO}
    for each in agent.workflow:
        server = (each.tool or "").partition("__")[0]
        if each.tool is not None and each.tool not in tools and server not in settings.mcp_servers:
            raise PlanError(
                f"node {each.id!r} names the tool {each.tool!r}, which is not configured"
            )
        if each.model is not None and each.model not in models:
            raise PlanError(
                f"node {each.id!r} names the model {each.model!r}, which is not configured"
            )


def _node(each: WorkflowNodeSettings) -> Node:
    ways = [each.tool is not None, each.model is not None, each.template is not None]
    if sum(ways) != 1:
        raise PlanError(f"node {each.id!r} needs exactly one of tool, model and template")
    kind, name, arguments = NodeKind.TEMPLATE, "", each.template or ""  # type: tuple[NodeKind, str, object]
    if each.tool is not None:
        kind, name, arguments = NodeKind.TOOL, each.tool, each.arguments
        if each.each is not None:
            kind, arguments = NodeKind.MAP, {"over": each.each, "arguments": each.arguments}
    elif each.model is not None:
        kind, name, arguments = NodeKind.MODEL, each.model, each.prompt
    return node(
        each.id,
        kind,
        name,
        arguments,
        after=each.after,
        deadline_s=each.timeout_s,
        tolerant=each.tolerant,
    )
