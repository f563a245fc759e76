"""Fuzz the wire: ``make fuzz`` (a million broken inputs), or ``--count N``, ``--seed N``, ``--only NAME``.

Every input comes from the seed, so a fault is found again by the same command; it is printed with its
target and bytes. OUT=file gets the table as JSON. Exit 1 when a promise did not hold (``targets``).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

from bench.fuzz.mutate import Mutator
from bench.fuzz.targets import TARGETS, Target

_MOST_FAULTS = 5
"""Of one target: then it has been said."""


def run(target: Target, count: int, seed: int) -> dict[str, object]:
    """Give a target so many inputs; what was read, refused and found."""
    mutator, read = Mutator(seed), 0
    faults: list[dict[str, str]] = []
    began_s = time.monotonic()
    tried = 0
    for _ in range(count):
        data = target.make(mutator)
        tried += 1
        try:
            read += target.holds(data, mutator)
        except Exception as fault:  # noqa: BLE001 - whatever else is raised is what is looked for
            faults.append({"fault": repr(fault)[:300], "input": repr(data)[:4000]})
            if len(faults) >= _MOST_FAULTS:
                break
    took_s = time.monotonic() - began_s
    return {
        "target": target.name,
        "inputs": tried,
        "read": read,
        "refused": tried - read - len(faults),
        "took_s": round(took_s, 1),
        "faults": faults,
    }


def main() -> int:
    """Read the arguments, fuzz each target, print a table."""
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000, help="inputs over all targets")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=list(TARGETS), metavar="NAME")
    options = parser.parse_args()
    chosen = [target for name, target in TARGETS.items() if name in (options.only or TARGETS)]
    print(f"{'target':28} {'inputs':>9} {'read':>9} {'refused':>9} {'faults':>6} {'s':>6}")
    rows = []
    for target in chosen:
        row = run(target, -(-options.count // len(chosen)), options.seed)
        rows.append(row)
        faults = row["faults"]
        assert isinstance(faults, list)
        print(
            f"{target.name:28} {row['inputs']:>9,} {row['read']:>9,} {row['refused']:>9,}"
            f" {len(faults):>6} {row['took_s']:>6}",
            flush=True,
        )
        for fault in faults:
            print(f"    {fault['fault']}\n    {fault['input'][:1500]}", flush=True)
    found = sum(bool(row["faults"]) for row in rows)
    inputs = sum(int(str(row["inputs"])) for row in rows)
    print(f"{inputs:,} inputs, seed {options.seed}: {found} targets with faults")
    if out := os.environ.get("OUT"):
        Path(out).write_text(json.dumps({"seed": options.seed, "rows": rows}, indent=1) + "\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
