"""What `slipstream replay` promises, on traffic whose answer can be worked out by hand."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from app.cli import main
from app.settings import load
from app.whatif.compare import Candidate, Comparison
from app.whatif.recorded_calls import RecordedCalls
from app.whatif.trace_reader import read_trace
from app.whatif.traffic import TraceError
from tests.support.gateway import configuration

HEADER = (
    "started_unix_s,request_id,turns,tenant,dialect,status,code,requested_model,model,provider,tier,"
    "cache,cache_reason,attempts,input_tokens,cached_tokens,cache_write_tokens,output_tokens,total_s,"
    "upstream_s,cost_usd"
)


def row(
    at_s, model, tier, total_s, *, cache="miss", turns=1, status=200, requested="auto", usd=0.001
):
    """A line of the ledger's CSV."""
    return (
        f"{at_s},id,{turns},default,openai_chat,{status},,{requested},{model},local,{tier},{cache},x,1,"
        f"{100 * turns},0,0,{50 * turns},{total_s * turns},{total_s * turns},{usd * turns}"
    )


@pytest.fixture
def config(tmp_path: Path) -> str:
    """The file of a configuration with two models a tier; hits by meaning are off."""
    file = tmp_path / "gateway.yaml"
    file.write_text(yaml.safe_dump(configuration("http://127.0.0.1:9")))
    return str(file)


def ledger(tmp_path: Path, *rows: str) -> Path:
    file = tmp_path / "ledger.csv"
    file.write_text("\r\n".join((HEADER, *rows)) + "\r\n")
    return file


def lines(tmp_path: Path, *rows: dict[str, object]) -> Path:
    file = tmp_path / "trace.jsonl"
    file.write_text("".join(json.dumps(each) + "\n" for each in rows))
    return file


def judged(trace: Path, config: str, *, most_fast=None, lanes=None, calls=None, **named):
    """The report of the recorded settings and of those that are named."""
    traffic = read_trace(trace)
    found = [Candidate("recorded", load(config, {}), lanes)]
    found += [Candidate(name, load(config, {}, over), lanes) for name, over in named.items()]
    evidence = RecordedCalls(traffic.arrivals, *([read_trace(calls).arrivals] if calls else []))
    comparison = Comparison(
        traffic, found, evidence, resamples=50, seed=1, progress=lambda *_: None
    )
    return comparison.report(most_fast)


def mixed(tmp_path: Path) -> Path:
    """Ten requests: seven fast ones of 1 s, three powerful ones of 4, 4 and 6 s."""
    fast = [row(at, "small", "fast", 1.0, usd=0.0001) for at in range(7)]
    slow = [row(7 + at, "large", "powerful", s, usd=0.01) for at, s in enumerate((4.0, 4.0, 6.0))]
    return ledger(tmp_path, *fast, *slow)


def test_the_recorded_settings_give_the_recorded_figures(tmp_path, config):
    """Known times give known percentiles, and the recorded money."""
    (estimate,) = judged(mixed(tmp_path), config).estimates
    found = estimate.figures
    assert (found.p50_s.value, found.p80_s.value, found.p95_s.value) == (1.0, 4.0, 6.0)
    assert (found.under_3s.value, found.under_5s.value) == (0.7, 0.9)
    assert found.cost_usd.value == pytest.approx(7 * 0.0001 + 3 * 0.01)
    assert found.hit_ratio.value == 0
    assert estimate.verdict == "misses"
    for each in found:
        assert each.low <= each.value <= each.high


@pytest.mark.parametrize("kind", ["ledger", "prompts"])
def test_more_fast_traffic_is_cheaper_and_sooner(tmp_path, config, kind):
    """From no fast share to all of it, cost and time fall at every step."""
    calls = mixed(tmp_path)
    trace = calls
    if kind == "prompts":
        asked = [
            {"at_s": at, "prompt": f"Explain in {at} words why the sky is blue"}
            for at in range(200)
        ]
        trace = lines(tmp_path, *asked)
    steps = {f"s{at}": {"routing.fast_share": str(at / 4)} for at in range(5)}
    found = judged(trace, config, calls=calls, **steps).estimates[1:]
    costs = [each.figures.cost_usd.value for each in found]
    early = [each.figures.under_3s.value for each in found]
    assert costs == sorted(costs, reverse=True)
    assert costs[0] > costs[-1]
    assert early == sorted(early)
    assert found[-1].sources["fast"] == sum(found[-1].sources.values())


def test_the_router_holds_the_asked_share_over_prompts(tmp_path, config):
    """The gateway's own router decides: the share that is asked for is the share that comes."""
    asked = [
        {"at_s": at, "prompt": f"{'Prove' if at % 3 else 'Name'} lemma {at} of topology"}
        for at in range(400)
    ]
    half = {"routing.fast_share": "0.5"}
    report = judged(lines(tmp_path, *asked), config, calls=mixed(tmp_path), half=half)
    recorded, half = report.estimates
    assert recorded.sources["fast"] / 400 == pytest.approx(0.7, abs=0.05)
    assert half.sources["fast"] / 400 == pytest.approx(0.5, abs=0.05)


def test_a_tenant_s_own_tier_and_share_hold_over_prompts(tmp_path, config):
    """What single tenants are given holds for them alone."""
    asked = [
        {"at_s": at, "prompt": f"Name lemma {at} of topology", "tenant": ("a", "b", "c")[at % 3]}
        for at in range(300)
    ]
    own = [{"tenant": "a", "tier": "powerful"}, {"tenant": "b", "fast_share": 1.0}]
    report = judged(
        lines(tmp_path, *asked),
        config,
        calls=mixed(tmp_path),
        own={"routing.tenants": json.dumps(own)},
    )
    estimate = report.estimates[1]
    assert estimate.sources["fast"] / 300 == pytest.approx((0.0 + 1.0 + 0.7) / 3, abs=0.05)
    assert not any("routing.tenants" in said for said in report.assumptions)


def test_a_target_on_the_mean_moves_the_share_over_prompts(tmp_path, config):
    """Fast calls take 1 s and powerful ones 14/3 on the mean; a powerful one costs 0.0005 USD."""
    asked = [
        {"at_s": 10 * at, "prompt": f"{'Prove' if at % 3 else 'Name'} lemma {at} of topology"}
        for at in range(400)
    ]
    sooner, cheaper = {"routing.mean_s": "2.4"}, {"routing.mean_usd": "0.00026"}
    report = judged(
        lines(tmp_path, *asked), config, calls=mixed(tmp_path), sooner=sooner, cheaper=cheaper
    )
    _, sooner, cheaper = report.estimates
    assert sooner.sources["fast"] / 400 == pytest.approx(0.62, abs=0.07)
    assert cheaper.figures.cost_usd.value / 400 == pytest.approx(0.00026, rel=0.15)


def test_the_time_to_live_changes_hits_as_worked_out_by_hand(tmp_path, config):
    """One question at 0, 50, 100 and 1000 s, answered in 1 s: 3, 2 or 1 hits by the time to live."""
    asked = [
        {"at_s": at, "prompt": "What does TCP stand for in networking?", "model": "small"}
        for at in (0, 50, 100, 1000)
    ]
    report = judged(
        lines(tmp_path, *asked),
        config,
        calls=mixed(tmp_path),
        hour={"cache.exact.ttl_s": "3600"},
        minutes={"cache.exact.ttl_s": "300"},
        minute={"cache.exact.ttl_s": "60"},
        off={"cache.exact.enabled": "false"},
    )
    hits = {each.name: each.sources.get("exact", 0) for each in report.estimates}
    # 60 s: the hit at 50 s, then a fresh answer at 101 s, which is gone at 1000 s.
    assert hits == {"recorded": 3, "hour": 3, "minutes": 2, "minute": 1, "off": 0}
    assert report.estimates[3].figures.hit_ratio.value == 0.25


def test_an_equal_question_in_flight_is_joined(tmp_path, config):
    """The second asks 0.4 s after the first, whose call takes 1 s: it waits for the other 0.6 s."""
    asked = [
        {"at_s": at, "prompt": "What does TCP stand for?", "model": "small"} for at in (0, 0.4)
    ]
    alone = {"cache.coalesce": "false"}
    joined, apart = judged(
        lines(tmp_path, *asked), config, calls=mixed(tmp_path), alone=alone
    ).estimates
    assert joined.sources == {"fast": 1, "coalesced": 1}
    assert joined.curve_s[0] == pytest.approx(0.6)
    assert apart.sources == {"fast": 2}


def test_users_share_answers_only_where_the_settings_say_so(tmp_path, config):
    """The key covers the user, as in the gateway."""
    asked = [
        {"at_s": 10 * at, "prompt": "What does TCP stand for?", "model": "small", "user": f"u{at}"}
        for at in range(3)
    ]
    shared = {"cache.sharing.scope": "tenant"}
    own, tenant = judged(
        lines(tmp_path, *asked), config, calls=mixed(tmp_path), shared=shared
    ).estimates
    assert own.sources == {"fast": 3}
    assert tenant.sources == {"fast": 1, "exact": 2}


def test_a_cache_that_is_switched_off_asks_the_model_again(tmp_path, config):
    """Without prompts: a recorded hit becomes a call of the model that had answered it."""
    hits = [row(20 + at, "small", "fast", 0.002, cache="exact", usd=0) for at in range(10)]
    trace = ledger(tmp_path, *(row(at, "small", "fast", 1.0) for at in range(10)), *hits)
    recorded, off = judged(trace, config, off={"cache.exact.enabled": "false"}).estimates
    assert (recorded.figures.hit_ratio.value, off.figures.hit_ratio.value) == (0.5, 0)
    assert off.figures.p50_s.value == 1.0
    assert off.figures.cost_usd.value > recorded.figures.cost_usd.value


def test_the_proposal_holds_and_nothing_cheaper_does(tmp_path, config):
    """It is within the bound that the operator gave, and its whole interval keeps the promise."""
    one, other = ("small", "fast", 1.0), ("large", "powerful", 4.0)
    trace = ledger(
        tmp_path, *(row(at, *(other if at % 10 in (2, 5, 8) else one)) for at in range(600))
    )
    report = judged(trace, config, most_fast=1.0)
    best, careful = report.proposal, report.least_fast
    assert best is not None
    assert careful is not None
    assert best.figures.under_3s.low >= 0.80
    assert best.figures.under_5s.low >= 0.95
    assert best.fast_share == 1.0
    assert careful.fast_share == 0.9, "at 0.8 it is 80 %, and the interval's lower end is below"
    assert careful.figures.cost_usd.value > best.figures.cost_usd.value
    assert judged(trace, config).proposal is None, "0.7 is too little, and more was not allowed"


def test_a_summed_row_counts_as_many_and_failures_are_left_out(tmp_path, config):
    """A row of 5 turns is 5 requests of their mean; what failed is told, not replayed."""
    trace = ledger(
        tmp_path,
        row(0, "small", "fast", 2.0, turns=5),
        row(1, "small", "fast", 9.0, status=502),
    )
    report = judged(trace, config)
    assert (report.requests, report.failed) == (5, 1)
    assert report.estimates[0].figures.p95_s.value == 2.0
    assert any("5 requests stand in summed rows" in each for each in report.assumptions)


def test_the_error_bound_is_the_promise_on_hits_by_meaning(tmp_path, config):
    """One hit by meaning in 100: at most 5 x 1 % of it is wrong, 0.05 % of the requests."""
    rows = [row(at, "small", "fast", 1.0) for at in range(99)]
    trace = ledger(tmp_path, *rows, row(99, "small", "fast", 0.01, cache="semantic"))
    on = {"cache.semantic.enabled": "true"}
    off, on = judged(trace, config, on=on).estimates
    assert off.error_bound == 0
    assert on.error_bound == pytest.approx(0.0005)


def test_a_setting_that_is_not_acted_on_is_named(tmp_path, config):
    """Nobody should take an unchanged figure for a finding."""
    report = judged(mixed(tmp_path), config, hedged={"routing.hedge.max_share": "0.1"})
    assert any("Not acted on, of hedged: routing.hedge.max_share" in s for s in report.assumptions)


def test_the_same_seed_gives_the_same_report(tmp_path, config):
    """Draws are seeded."""
    over = {"routing.fast_share": "0.2"}
    first, second = (judged(mixed(tmp_path), config, less=over) for _ in range(2))
    assert first == second


def test_what_no_call_tells_of_is_refused(tmp_path, config):
    """No time is invented for a tier that was never asked."""
    trace = ledger(tmp_path, *(row(at, "small", "fast", 1.0) for at in range(5)))
    with pytest.raises(TraceError, match=r"no call of powerful .* give --calls"):
        judged(trace, config, less={"routing.fast_share": "0"})


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"prompt": "Hi"}', "at_s is missing"),
        ('{"at_s": -1, "prompt": "Hi"}', "at_s -1 is not 0 or more"),
        ('{"at_s": 1}', "give prompt or messages"),
        ('{"at_s": 1, "prompt": ""}', "prompt is not a text"),
        ('{"at_s": 1, "promt": "Hi"}', "unknown field 'promt'"),
        ('{"at_s": 1, "messages": [{"content": "Hi"}]}', "no message with a role"),
        ("[1]", "not an object"),
        ("{", "no JSON"),
        ('{"at_s": 1, "prompt": "Hi", "model": "larg"}', "'larg' is not configured"),
    ],
)
def test_a_bad_line_is_named_with_exit_status_2(tmp_path, config, line, told, capsys):
    """The file, the line, and what is wrong; nothing is printed as if it were a result."""
    trace = tmp_path / "bad.jsonl"
    trace.write_text(f'{{"at_s": 0, "prompt": "Hello", "model": "small"}}\n{line}\n')
    calls = str(mixed(tmp_path))
    assert main(["replay", str(trace), "--config", config, "--calls", calls]) == 2
    out, err = capsys.readouterr()
    assert f"{trace}:2: " in err
    assert told in err
    assert out == ""


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--set", "routing.fast_share=0.5"], "has no name"),
        (["--set", "a:routing.fast_share=2"], "routing.fast_share"),
        (["--set", "a:routing.fst=2"], "is not a known key"),
        (["--set", "a:fast"], "is no change"),
        (["--set", "a:cache.coalesce=true", "--set", "a:cache.coalesce=true"], "names two"),
    ],
)
def test_wrong_settings_are_told_as_the_operator_wrote_them(
    tmp_path, config, arguments, told, capsys
):
    """`--set` is checked as a configuration is."""
    assert main(["replay", str(mixed(tmp_path)), "--config", config, *arguments]) == 2
    assert told in capsys.readouterr().err


def test_a_missing_and_a_foreign_file_are_wrong_usage(tmp_path, config, capsys):
    """Neither is a failure of the program."""
    assert main(["replay", str(tmp_path / "none"), "--config", config]) == 2
    foreign = tmp_path / "x.csv"
    foreign.write_text("started_unix_s,a\n1,2\n")
    assert main(["replay", str(foreign), "--config", config]) == 2
    assert "lacks the columns" in capsys.readouterr().err


def test_the_command_prints_a_table_and_writes_json_and_html(tmp_path, config, capsys):
    """The page is whole in itself: it names no other place, and what it shows is escaped."""
    told, shown = tmp_path / "out.json", tmp_path / "out.html"
    arguments = [
        "replay", str(mixed(tmp_path)), "--config", config, "--set", "<b>:routing.fast_share=0.9",
        "--json", str(told), "--html", str(shown), "--resamples", "20",
    ]  # fmt: skip
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert "p95 s" in out
    assert "Assumed:" in out
    assert err == "", "no progress bar where nobody looks"
    values = json.loads(told.read_text())
    assert [each["name"] for each in values["settings"]] == ["recorded", "<b>"]
    assert values["settings"][0]["p80_s"]["value"] == 4.0
    html = shown.read_text()
    assert "&lt;b&gt;" in html
    assert "<b>" not in html
    assert html.count("<svg viewBox") == 2
    assert not re.search(r"(?:src|href)=|https?:|url\(|<script", html)


def test_progress_is_drawn_on_a_terminal_alone():
    """And wiped at the end."""
    from app.replay_command import _bar

    class Terminal:
        text = ""

        def isatty(self):
            return True

        def write(self, text):
            self.text += text

        def flush(self):
            pass

    out = Terminal()
    draw = _bar(out)
    draw(1, 2, "half")
    draw(2, 2, "done")
    assert "[############............] 1/2 half" in out.text
    assert out.text.endswith("\r\x1b[K")


def test_traces_move_the_calls_of_the_lowest_score(tmp_path, config):
    """Where scores are recorded, those nearest to the fast side go first; what a rule forced stays."""

    def trace(at, score, total_ms, **more):
        return {
            "started_unix_s": at, "status": 200, "code": None, "requested_model": "auto",
            "model": "large", "tier": "powerful", "routed": True, "complexity": score,
            "cache": {"outcome": "miss"}, "total_ms": total_ms, "usage": None, "cost_usd": 0.01, **more,
        }  # fmt: skip

    rows = [trace(at, at / 10, 1000.0 * (at + 1)) for at in range(8)]
    rows.append(trace(8, 0.0, 9000.0, routed=False))
    rows.append(trace(9, 0.0, 500.0, model="small", tier="fast"))
    file = tmp_path / "traces.json"
    file.write_text(json.dumps({"traces": rows[::-1]}))
    all_fast = judged(file, config, all={"routing.fast_share": "1"}).estimates[1]
    assert all_fast.sources == {"fast": 9, "powerful": 1}
    # 0.7 -> 0.85 is half of the way: the four lowest scores, 1 to 4 s, become 0.5 s.
    some = judged(file, config, some={"routing.fast_share": "0.85"}).estimates[1]
    assert np.allclose(sorted(set(some.curve_s)), [0.5, 5, 6, 7, 8, 9])
