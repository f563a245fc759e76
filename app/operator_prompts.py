"""Build prompt caching, layouts, batching and priming from the settings."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from app.domain.chat import Dialect
from app.domain.models import Model
from app.domain.turn_record import TurnRecord
from app.domain.usage import Usage
from app.pipeline.batching import Batching, BatchRule
from app.pipeline.gateway import Gateway
from app.pipeline.prompt_priming import PromptPriming, ScheduledPrompt
from app.prompts.caching import PromptCaching
from app.prompts.layout import Layout, Layouts
from app.prompts.lint_report import detect_dialect
from app.prompts.prefix import render
from app.prompts.spans import UnreadableError
from app.prompts.warm import KeepAlive
from app.settings import Problem, Settings, SettingsError
from app.telemetry.telemetry import Telemetry

_TOLD_USD_PER_HOUR = 1.0


def prompts_of(settings: Settings, models: dict[str, Model]) -> PromptCaching | None:
    """The prompt caching of the settings; None where it is off."""
    wanted = settings.prompts
    if not wanted.enabled:
        return None
    own = {model.name: model.breakpoints for model in settings.models}
    on = {name for name, told in own.items() if (wanted.breakpoints if told is None else told)}
    prompts = PromptCaching(
        models.values(),
        lambda model: model.name in on,
        lead=wanted.lead,
        affinity=wanted.affinity,
        value_usd_per_s=wanted.value_usd_per_s,
        diagnose=wanted.diagnose,
        most_shown=max(1, settings.telemetry.trace_ring),
    )
    layouts = layouts_of(settings)
    if layouts is not None:
        prompts.is_moved = layouts.is_moved
    return prompts


def layouts_of(settings: Settings) -> Layouts | None:
    """The layouts; None where there are none. Raises ``SettingsError`` for an invalid expression."""
    layouts = []
    for each in settings.prompts.layouts:
        try:
            variables = tuple(re.compile(one) for one in each.variables)
        except re.error as error:
            mend = "Write regular expressions that match whole lines, such as 'Now: .*'."
            problem = Problem("", None, "prompts.layouts.variables", None, str(error), mend)
            raise SettingsError([problem]) from error
        layouts.append(Layout(each.model, each.tenant or "", variables, each.documents))
    return Layouts(layouts) if layouts else None


def batching_of(settings: Settings, models: Mapping[str, Model]) -> Batching | None:
    """The micro-batching; None where no route has it. Raises ``SettingsError``."""
    wanted = settings.prompts.batches
    for each in wanted:
        if each.model not in models:
            message = f"its model {each.model!r} is not configured"
            mend = f"Name one of {', '.join(sorted(models))}."
            raise SettingsError([Problem("", None, "prompts.batches", None, message, mend)])
    batches = [
        BatchRule(each.model, each.tenant or "", each.window_ms / 1000, each.most, each.most_chars)
        for each in wanted
    ]
    return Batching(batches) if batches else None


def show_prompts(prompts: PromptCaching | None, telemetry: Telemetry) -> None:
    """Report savings and misses of the vendors' prompt caches to metrics and the ledger."""
    if prompts is None:
        return
    guards = telemetry.metrics.guards

    def used(model: Model, usage: Usage, usd: float, seconds: float) -> None:
        if usage.cached_tokens:
            guards.prompt_saved_cost.child(model.name).value += max(0.0, usd)
            guards.prompt_saved_seconds.child(model.name).value += seconds

    prompts.on_use = used
    prompts.on_cause = lambda model, cause: guards.prompt_misses.child(model, cause).inc()
    prompts.on_diagnosis = lambda model, word, ours, verdict: guards.prompt_diagnoses.child(
        model, word, ours or "none", verdict
    ).inc()
    telemetry.ledger.prompt_token_s = prompts.token_s
    telemetry.traces.beside = prompts.trace_of


def show_batching(batching: Batching | None, telemetry: Telemetry) -> None:
    """Report batches to metrics."""
    if batching is None:
        return
    guards = telemetry.metrics.guards

    def batched(model: str, what: str, tasks: int) -> None:
        if what == "call":
            guards.batch_calls.child(model).value += tasks
        elif tasks:
            guards.batched_tasks.child(model, what).value += tasks

    batching.on_batch = batched


def priming_of(
    settings: Settings, gateway: Gateway, trace: Callable[[TurnRecord], None]
) -> PromptPriming:
    """The priming and keep-alive of prompts. Raises ``SettingsError`` for a file that holds no request."""
    wanted = settings.prompts
    budget = wanted.keep_alive_usd_per_hour
    return PromptPriming(
        gateway,
        KeepAlive(budget or _TOLD_USD_PER_HOUR),
        trace,
        [_scheduled(each.file, each.every_s, gateway.models) for each in wanted.schedules],
        follow=budget > 0,
    )


def _problem(file: str, message: str) -> Problem:
    return Problem(file, None, "", None, message, "Name a file with one request as JSON.")


def _scheduled(file: str, every_s: float, models: Mapping[str, Model]) -> ScheduledPrompt:
    return ScheduledPrompt(*prompt_of(file, models), every_s)


def prompt_of(file: str, models: Mapping[str, Model]) -> tuple[bytes, Dialect, Model]:
    """A prompt to keep warm, its form and its model. Raises ``SettingsError``."""
    try:
        body = Path(file).read_bytes()
        dialect = detect_dialect(body)
        name = render(body, dialect).model
    except (OSError, UnreadableError, KeyError) as error:
        raise SettingsError([_problem(file, str(error))]) from error
    if name not in models:
        raise SettingsError([_problem(file, f"its model {name!r} is not configured")])
    return body, dialect, models[name]
