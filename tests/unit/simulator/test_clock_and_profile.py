"""Times, models and faults are read and drawn as their settings say."""

from __future__ import annotations

from dataclasses import replace
from statistics import median

import pytest

from app.providers.simulator.clock import Script
from app.providers.simulator.errors import RefusedError
from app.providers.simulator.faults import Fault, FaultKind, parse_fault
from app.providers.simulator.profile import (
    SIM_FAST,
    SIM_POWERFUL,
    SimulatorSettings,
    built_in_profiles,
    choose_model,
)
from app.providers.simulator.prompt_cache import CacheUse

SHORT = CacheUse(0, {}, 20)


def first_tokens_s(profile, *, seed=0, n=2_000):
    script = Script(seed, time_scale=1)
    return [script.pace(profile, SHORT).first_token_s for _ in range(n)]


@pytest.mark.parametrize(("profile", "whole_s"), [(SIM_FAST, 0.5), (SIM_POWERFUL, 2.5)])
def test_a_short_call_takes_about_what_its_model_promises(profile, whole_s):
    script = Script(1, time_scale=1)
    paces = [script.pace(profile, SHORT) for _ in range(500)]
    answer_tokens = profile.answer_tokens + 4
    times = [pace.first_token_s + pace.gap_s(answer_tokens - 1) for pace in paces]
    assert median(times) == pytest.approx(whole_s, rel=0.1)


def test_one_seed_draws_the_same_times_again():
    assert first_tokens_s(SIM_FAST, seed=3) == first_tokens_s(SIM_FAST, seed=3)
    assert first_tokens_s(SIM_FAST, seed=3) != first_tokens_s(SIM_FAST, seed=4)


def test_the_tail_is_as_likely_and_as_late_as_asked():
    heavy = replace(SIM_FAST, tail_probability=0.05, tail_multiplier=20, jitter=0)
    times = first_tokens_s(heavy)
    late = [time for time in times if time > 10 * SIM_FAST.first_token_s]
    assert len(late) / len(times) == pytest.approx(0.05, abs=0.02)
    assert median(late) == pytest.approx(20 * SIM_FAST.first_token_s, rel=0.05)


def test_scale_0_waits_for_nothing():
    pace = Script(0, time_scale=0).pace(SIM_POWERFUL, SHORT)
    assert pace.is_instant
    assert pace.gap_s(100) == 0


def test_model_names_carry_options_and_a_fault():
    choice = choose_model("sim-fast?token_s=0.5&answer_tokens=9!stall:3", built_in_profiles())
    assert (choice.profile.token_s, choice.profile.answer_tokens) == (0.5, 9)
    assert choice.fault == "stall:3"
    assert choice.profile.name == "sim-fast"


@pytest.mark.parametrize(
    ("name", "status"),
    [("gpt-none", 404), ("", 404), ("sim-fast?speed=9", 400), ("sim-fast?token_s=x", 400)],
)
def test_a_wrong_model_name_is_refused(name, status):
    with pytest.raises(RefusedError) as caught:
        choose_model(name, built_in_profiles())
    assert caught.value.status == status


@pytest.mark.parametrize(
    "settings", [{"time_scale": -1}, {"fault_rates": {"429": 2}}, {"fault_rates": {"429": -1}}]
)
def test_settings_that_cannot_be_meant_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        SimulatorSettings(**settings)


@pytest.mark.parametrize(
    ("spec", "fault"),
    [
        ("429", Fault(FaultKind.RATE_LIMITED, 1)),
        ("429:30", Fault(FaultKind.RATE_LIMITED, 30)),
        ("stall", Fault(FaultKind.STALL, 3)),
        (" reset-mid-stream:0 ", Fault(FaultKind.RESET_MID_STREAM, 0)),
    ],
)
def test_fault_specs_are_read(spec, fault):
    assert parse_fault(spec) == fault


@pytest.mark.parametrize("spec", ["", "storm", "stall:", "stall:-1", "hang:3", "stall:²"])
def test_wrong_fault_specs_are_refused(spec):
    with pytest.raises(RefusedError):
        parse_fault(spec)
