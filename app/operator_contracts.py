"""Build the operator's output contracts, checked against the abilities of their routes' models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from app.domain.decisions import Tier
from app.domain.models import AUTO, Abilities, Model
from app.prompts.contracts import Contract, Contracts
from app.prompts.terms import AnswerStyle
from app.settings import Problem, Settings, SettingsError
from app.settings_prompts import ContractSettings


def contracts_of(settings: Settings, models: Mapping[str, Model]) -> Contracts | None:
    """The operator's output contracts; None where there are none.

    Raises ``SettingsError`` for a contract that a model of its route cannot keep.
    """
    wanted = settings.prompts.contracts
    if not wanted:
        return None
    problems = [
        Problem("", None, f"prompts.contracts[{at}]", None, message, mend)
        for at, each in enumerate(wanted)
        for message, mend in _problems(each, models)
    ]
    if problems:
        raise SettingsError(problems)
    fields = {name: model.abilities.max_tokens_field for name, model in models.items()}
    return Contracts([_contract(each) for each in wanted], fields)


def _contract(each: ContractSettings) -> Contract:
    return Contract(
        each.model,
        each.tenant or "",
        each.max_tokens,
        each.json_schema,
        each.effort or "",
        each.verbosity or "",
        each.name or "",
        each.prefill or "",
        each.hide_reasoning,
        {
            tier: AnswerStyle(manner.effort or "", manner.verbosity or "")
            for tier, manner in each.tiers.items()
        },
    )


def _problems(contract: ContractSettings, models: Mapping[str, Model]) -> Iterable[tuple[str, str]]:
    """What the models cannot do, and the fix."""
    if contract.model != AUTO and contract.model not in models:
        known = ", ".join([AUTO, *sorted(models)])
        yield f"its model {contract.model!r} is not configured", f"Name one of {known}."
        return
    route = [m for m in models.values() if contract.model in {AUTO, m.name}]
    if contract.prefill:
        if contract.prefill != contract.prefill.rstrip():
            yield "its prefill ends in white space, which vendors refuse", "Take it away."
        lacking = _without(route, lambda can: can.prefill)
        if lacking and contract.json_schema is None:
            yield (
                f"its prefill cannot be kept: {lacking} would begin an answer of its own",
                "Give json_schema too, which holds there, or correct models[].abilities.prefill.",
            )
    if contract.json_schema is not None:
        lacking = _without(
            route,
            lambda can: can.structured_output or bool(contract.prefill and can.prefill),
        )
        if lacking:
            yield (
                f"its json_schema cannot be kept: {lacking} takes no schema",
                "Leave it out, give a prefill, or correct models[].abilities.structured_output.",
            )
    yield from _unheard(contract, route)


def _unheard(contract: ContractSettings, route: Iterable[Model]) -> Iterable[tuple[str, str]]:
    """Settings that no model of the route or of the tier takes."""
    tiers: list[tuple[str, Tier | None, str | None, str | None]] = [
        ("", None, contract.effort, contract.verbosity)
    ]
    tiers += [
        (f"tiers.{tier.value}.", tier, manner.effort, manner.verbosity)
        for tier, manner in contract.tiers.items()
    ]
    for where, tier, effort, verbosity in tiers:
        can = [model.abilities for model in route if tier in {None, model.tier}]
        if effort not in {None, "none"} and all(each.thinking == "none" for each in can):
            yield (
                f"its {where}effort would be told to no model: none of the route reasons",
                "Leave it out, or say in models[].abilities.thinking how they are asked to.",
            )
        if verbosity is not None and not any(each.verbosity for each in can):
            yield (
                f"its {where}verbosity would be told to no model: none of the route takes it",
                "Leave it out, or correct models[].abilities.verbosity.",
            )


def _without(route: Iterable[Model], can: Callable[[Abilities], bool]) -> str:
    """The first model of the route that cannot, "" where all can."""
    return next((model.name for model in route if not can(model.abilities)), "")
