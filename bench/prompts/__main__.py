"""``make bench-prompts``: prompt-cache hits, wasted writes, causes and keep-alive, by the simulated vendor's own
cache accounting. Virtual time but for the sample over HTTP: nothing here depends on the machine. ``OUT=file`` writes the figures as JSON.
"""  # noqa: E501

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

from bench.prompts.mutations import judge
from bench.prompts.over_http import over_http
from bench.prompts.replay import (
    Clock,
    Gateway,
    Reserialising,
    Slipstream,
    Tally,
    fan_out,
    oracle,
    replay,
)
from bench.prompts.silence import SILENCES, keep_alive
from bench.prompts.traffic import conversations

_SEEDS = (1, 2, 3)
_SILENCE_SEEDS = (201, 202, 203)
"""None of those that the policy was chosen on."""
_HTTP_SAMPLE = 20
_WIDTH = 32
_HIT_BAR, _WRITE_BAR, _CAUSE_BAR = 0.97, 1.05, 0.99


def main() -> int:
    """Run everything; exit status 1 where a bar is missed."""
    hits, ratios = _hits()
    served, of_oracle = _served()
    writes = _writes()
    causes, right = _causes()
    alive, never_dearer = _alive()
    worst_write = writes["ratio"]
    bars = {
        f"hit ratio of the oracle's >= {_HIT_BAR}": min(ratios) >= _HIT_BAR,
        f"the same over HTTP >= {_HIT_BAR}": of_oracle >= _HIT_BAR,
        f"written / unique tokens at {_WIDTH} <= {_WRITE_BAR}": worst_write <= _WRITE_BAR,
        f"mutations with the right cause >= {_CAUSE_BAR}": right >= _CAUSE_BAR,
        "keep-alive never costs more than it saves": never_dearer,
    }
    print()
    for name, met in bars.items():
        print(f"{'met ' if met else 'MISS'}  {name}")
    figures = {
        "hits": hits,
        "over_http": served,
        "fan_out": writes,
        "causes": causes,
        "keep_alive": alive,
        "bars": bars,
        "seeds": _SEEDS,
    }
    if out := os.environ.get("OUT"):
        Path(out).write_text(json.dumps(figures, indent=1) + "\n")
    return 0 if all(bars.values()) else 1


def _hits() -> tuple[list[dict[str, object]], list[float]]:
    print("200 conversations with tools, Anthropic's rules; tokens of prompts, in thousands")
    print(
        f"{'seed':>4}  {'gateway':<44} {'read':>7} {'written':>8} {'plain':>7} {'USD':>7} {'of oracle':>9}"
    )
    rows: list[dict[str, object]] = []
    ratios: list[float] = []
    for seed in _SEEDS:
        traffic = conversations(seed)
        best = oracle(traffic, Clock())
        told: list[tuple[str, Tally]] = [("oracle (every block marked, no limits)", best)]
        for name, make in (
            ("slipstream", Slipstream),
            ("the client's own breakpoints alone", lambda _: Gateway()),
            ("re-serialises, keys in a stable order", lambda _: Reserialising(stable=True)),
            ("re-serialises, two workers, two orders", lambda _: Reserialising(stable=False)),
        ):
            clock = Clock()
            tally = replay(traffic, clock, make(clock))
            told.append((name, tally))
            if name == "slipstream":
                ratios.append(tally.read / best.read)
        for name, tally in told:
            share = tally.read / best.read
            print(
                f"{seed:>4}  {name:<44} {tally.read / 1e3:>7.0f} {tally.written / 1e3:>8.0f} "
                f"{tally.plain / 1e3:>7.0f} {tally.usd():>7.2f} {share:>9.4f}"
            )
            row = {"seed": seed, "gateway": name, "read": tally.read, "written": tally.written}
            rows.append({**row, "plain": tally.plain, "usd": tally.usd(), "of_oracle": share})
    return rows, ratios


def _served() -> tuple[dict[str, int], float]:
    """A sample through a gateway process, and the same through its code in this one."""
    served, inside, best = over_http(_SEEDS[0], _HTTP_SAMPLE)
    print(
        f"\n{_HTTP_SAMPLE} conversations, {served.requests} requests without pauses: tokens read, written"
    )
    for name, tally in (("over HTTP", served), ("in this process", inside), ("oracle", best)):
        print(f"      {name:<16} {tally.read:>8} {tally.written:>8}")
    row = {"http_read": served.read, "http_written": served.written, "inside_read": inside.read}
    return {
        **row,
        "inside_written": inside.written,
        "oracle_read": best.read,
    }, served.read / best.read


def _writes() -> dict[str, float]:
    written, unique = asyncio.run(fan_out(_WIDTH, lead=True))
    without, _ = asyncio.run(fan_out(_WIDTH, lead=False))
    print(f"\n{_WIDTH} requests at once: written / unique prompt tokens")
    print(f"      one goes ahead {written / unique:.3f}; all at once {without / unique:.3f}")
    return {"ratio": written / unique, "all_at_once": without / unique, "unique_tokens": unique}


def _causes() -> tuple[dict[str, object], float]:
    injected, right, agreed = 0, 0, 0
    wrong: dict[str, int] = {}
    for seed in _SEEDS:
        judged = judge(conversations(seed), seed)
        injected += judged.injected
        right += judged.right
        agreed += judged.agreed
        wrong |= dict(judged.wrong)
    print(
        f"\ninjected mutations: {injected}, right cause: {right} ({right / injected:.4f}) {wrong or ''}"
    )
    print(f"      the vendor's own diagnosis agrees: {agreed} ({agreed / injected:.4f})")
    told = {"injected": injected, "right": right, "wrong": wrong, "vendor_agrees": agreed}
    return told, right / injected


def _alive() -> tuple[list[dict[str, object]], bool]:
    print(
        "\nkeep-alive over a day, 960 sessions a replay: replays in which pings cost more than they saved"
    )
    rows: list[dict[str, object]] = []
    fine = True
    for name, silence in SILENCES.items():
        for tokens in (4_000, 60_000):
            for back in (0.02, 0.1, 0.3, 0.5, 0.7, 0.9):
                day = [keep_alive(seed, tokens, back, silence) for seed in _SILENCE_SEEDS]
                dearer = sum(spent.ping_usd > spent.saved_usd for spent in day)
                fine = fine and not dearer
                pings, saved = sum(each.pings for each in day), sum(each.saved for each in day)
                cost, gain = sum(e.ping_usd for e in day), sum(e.saved_usd for e in day)
                print(
                    f"      {name:<23} {tokens:>6} tokens, {back:>3.0%} come back: {dearer} of {len(day)}; "
                    f"{pings:>6} pings {cost:>8.3f} USD, {saved:>5} misses saved {gain:>8.3f} USD"
                )
                row: dict[str, object] = {
                    "silence": name,
                    "tokens": tokens,
                    "share_back": back,
                    "replays": len(day),
                }
                row |= {"dearer": dearer, "pings": pings, "ping_usd": cost, "saved_usd": gain}
                rows.append(row)
    return rows, fine


if __name__ == "__main__":
    sys.exit(main())
