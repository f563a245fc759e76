"""The shape of the configuration's jobs: queue, schedules and webhooks (see `app.settings_schema`)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, SecretStr

from app.settings_types import Name, Seconds, Section


class ScheduleSettings(Section):
    """Work by cron expression, once over all workers. Exactly one of `agent` and `warm`."""

    name: Name
    """Its name, under which the last run is stored."""
    cron: Annotated[str, Field(min_length=1)]
    """When: minute, hour, day, month and weekday as in crontab, such as `*/10 8-18 * * mon-fri`; or
    `@hourly`, `@daily`, `@weekly`, `@monthly`.
    """
    timezone: str = "UTC"
    """The time zone of `cron`, such as `Europe/Berlin`. Times that it skips are left out."""
    agent: str | None = None
    """The agent that runs as a job each time."""
    input: str = ""
    """The user message for the agent."""
    warm: str | None = None
    """A file with a request as JSON, its `model` a configured name: the vendor's prompt cache is primed
    with it each time.
    """
    tenant: Name = "default"
    """The job's tenant."""
    priority: Annotated[int, Field(ge=-100, le=100)] = 0
    """The job's priority."""
    webhook: str | None = None
    """The name of a webhook that is told of the job's end."""
    late_s: Annotated[float, Field(ge=0, le=604_800)] = 3_600.0
    """How late a missed run is still made up for, in seconds; of several, only the last."""


class WebhookSettings(Section):
    """A receiver that is told of a job's end, signed as Standard Webhooks."""

    name: Name
    """What requests call it by: `POST /v1/jobs?webhook=NAME`."""
    url: Annotated[str, Field(min_length=1)]
    """Where to `POST`. Private addresses need `egress.private`, unless they stand here literally;
    `egress.hosts` holds too.
    """
    secret: Annotated[SecretStr, Field(min_length=24)]
    """The signing secret: `whsec_` and base64, or any text of 24 characters or more."""
    tenant: Name | None = None
    """The tenant that may name it; absent: any."""
    timeout_s: Seconds = 10.0
    """Seconds for one try."""


class JobSettings(Section):
    """Runs of agents in the background, which outlive their worker."""

    enabled: bool = True
    """Whether `/v1/jobs` is there. It costs nothing before the first job."""
    postgres_url: SecretStr | None = None
    """Postgres for the jobs of many hosts, such as `postgresql://user:password@host/db`; absent: a file under
    `state.data_dir`, for one host. Not through a pooler that shares sessions.
    """
    concurrency: Annotated[int, Field(ge=1, le=1_000)] = 4
    """Jobs that one worker runs at once."""
    per_tenant: Annotated[int, Field(ge=1, le=1_000)] = 4
    """Jobs of one tenant that run at once, over all workers that share the store."""
    max_attempts: Annotated[int, Field(ge=1, le=100)] = 3
    """How many attempts a job has that fails for a transient cause; then it is `dead`."""
    backoff_s: Annotated[float, Field(gt=0, le=3_600)] = 1.0
    """Seconds from the first failure to the next attempt; doubled each time."""
    keep_days: Annotated[float, Field(gt=0, le=3_660)] = 30.0
    """Days after its end that a job, its events and its steps are kept."""
    schedules: tuple[ScheduleSettings, ...] = ()
    """Work by cron expression."""
    webhooks: tuple[WebhookSettings, ...] = ()
    """Receivers that can be told of a job's end."""
    webhook_attempts: Annotated[int, Field(ge=1, le=100)] = 10
    """How many tries a webhook has; then it has failed."""
    webhook_backoff_s: Annotated[float, Field(gt=0, le=3_600)] = 5.0
    """Seconds from a webhook's first failure to the next try; doubled each time, up to an hour. Ten tries are
    about 40 minutes.
    """
