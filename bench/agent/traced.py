"""Make the calls of recorded dialogues against the simulated tools that they were recorded with, and
print each with its result: run with an interpreter that has ``bfcl-eval``.

The traces hold no results, and without them nothing can be copied from one call to the next: an
order's number is what ``place_order`` answered. Arguments get the names of their parameters.
"""

# It runs under another interpreter, with packages that are not ours.
# mypy: ignore-errors

from __future__ import annotations

import ast
import copy
import importlib
import inspect
import json
import sys
from pathlib import Path

NAME = "BFCL_v4_multi_turn_base.json"


def lines(path: Path) -> list[dict]:
    """A file of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def tools_of(row: dict) -> dict:
    """The methods that a dialogue's simulated services offer, by name."""
    from bfcl_eval.constants.executable_backend_config import (
        CLASS_FILE_PATH_MAPPING,
        STATELESS_CLASSES,
    )

    found = {}
    for name in row["involved_classes"]:
        service = getattr(importlib.import_module(CLASS_FILE_PATH_MAPPING[name]), name)()
        if name not in STATELESS_CLASSES:
            config = copy.deepcopy(row["initial_config"].get(name, {}))
            service._load_scenario(config, long_context=False)  # noqa: SLF001 - their only way in
        methods = inspect.getmembers(service, predicate=inspect.ismethod)
        found |= {method: call for method, call in methods if not method.startswith("_")}
    return found


def made(text: str, tools: dict) -> dict:
    """Make one call as it is written in the traces: ``name(a='x', b=1)``."""
    tree = ast.parse(text, mode="eval").body
    given = [ast.literal_eval(each) for each in tree.args]
    named = {each.arg: ast.literal_eval(each.value) for each in tree.keywords}
    bound = inspect.signature(tools[tree.func.id]).bind(*given, **named).arguments
    try:
        result = tools[tree.func.id](**bound)
    except Exception as error:  # noqa: BLE001 - whatever a simulated tool raises is its result
        result = {"error": repr(error)}
    result = json.loads(json.dumps(result, default=str))
    return {"tool": tree.func.id, "arguments": bound, "result": result}


def files(folder: str) -> tuple[Path, Path]:
    """Where the dialogues are, and the calls that answer them."""
    if folder:
        return Path(folder, f"bfcl_{NAME}"), Path(folder, f"bfcl_possible_answer_{NAME}")
    import bfcl_eval

    data = Path(bfcl_eval.__file__).with_name("data")
    return data / NAME, data / "possible_answer" / NAME


def main() -> None:
    """Print the dialogues of the folder given as the first argument, or all that the package has."""
    asked, answered = files(sys.argv[1])
    answers = {row["id"]: row["ground_truth"] for row in lines(answered)}
    found = []
    for row in lines(asked):
        tools = tools_of(row)
        turns = [
            {
                "said": "\n".join(message["content"] for message in said),
                "calls": [made(text, tools) for text in calls],
            }
            for said, calls in zip(row["question"], answers[row["id"]], strict=False)
        ]
        found.append({"offered": sorted(tools), "turns": turns})
    print(json.dumps(found))


if __name__ == "__main__":
    main()
