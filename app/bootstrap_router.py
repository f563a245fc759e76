"""The part of the composition about routing: escalation triggers, hedging, labels and shadow runs."""

from __future__ import annotations

from random import SystemRandom
from typing import TYPE_CHECKING

import structlog

from app.operator_checks import escalation_of, own_check
from app.pipeline.router_label_files import LabelFiles
from app.router_command import label_folder
from app.routing.hedge import Hedging
from app.settings import Problem, SettingsError

if TYPE_CHECKING:
    from contextlib import AsyncExitStack

    from app.pipeline.gateway import Gateway
    from app.pipeline.shadow import Judge, ShadowRuns
    from app.settings import Settings
    from app.telemetry.metrics import Metrics


def open_router(
    settings: Settings, gateway: Gateway, metrics: Metrics, stack: AsyncExitStack
) -> ShadowRuns | None:
    """Give `gateway` its triggers, hedging and labels; returns the shadow runs to be run beside it."""
    wanted = settings.routing
    gateway.escalation = escalation_of(wanted.triggers, stack, settings.egress.private)
    gateway.on_escalation = metrics.escalated
    if wanted.hedge.max_share:
        gateway.hedging = Hedging(
            wanted.hedge.max_share, wanted.hedge.max_usd_per_hour, on_outcome=metrics.hedged
        )
    stack.push_async_callback(gateway.router_trainer.aclose)
    gateway.router_trainer.restore(
        LabelFiles(
            label_folder(settings),
            len(gateway.classifier.complexity.topics.names),
            lambda why: structlog.get_logger().warning("router_labels", reason=why),
        )
    )
    if not wanted.shadow.share:
        return None
    from app.pipeline.shadow import ShadowRuns  # few configurations run any

    judge = _judge(settings, gateway, stack)
    gateway.shadow = ShadowRuns(gateway, wanted.shadow.share, judge, metrics.shadowed)
    return gateway.shadow


def _judge(settings: Settings, gateway: Gateway, stack: AsyncExitStack) -> Judge:
    from app.pipeline.shadow import judge_by_check, judge_by_equality, judge_by_model

    wanted = settings.routing.shadow
    if wanted.judge == "check" and wanted.check is not None:
        return judge_by_check(own_check(wanted.check, stack, settings.egress.private).check)
    if wanted.judge == "model":
        model = gateway.models.get(wanted.judge_model or "")
        if model is None:
            message = f"{wanted.judge_model!r} is not among the models"
            where = "routing.shadow.judge_model"
            raise SettingsError([Problem("", None, where, None, message, "Name one of them.")])
        return judge_by_model(model, gateway, SystemRandom())
    return judge_by_equality
