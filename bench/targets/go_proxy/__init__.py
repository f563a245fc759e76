"""Go's net/http ReverseProxy, one CPU: what a compiled gateway of a careful team starts from."""

from __future__ import annotations

from pathlib import Path

from bench.build import ToolMissingError, compile_go
from bench.machine import program_version
from bench.targets.base import Launch, Rig, Target, UnavailableError


def launch(rig: Rig) -> Launch:
    """Compile the proxy; raises UnavailableError without Go."""
    try:
        binary = compile_go(Path(__file__).with_name("main.go"), "go_proxy")
    except ToolMissingError as missing:
        raise UnavailableError(str(missing)) from missing
    words = program_version(["go", "version"]).split()
    return Launch(
        argv=(str(binary), str(rig.port), rig.upstream),
        port=rig.port,
        version=words[2].removeprefix("go") if len(words) > 2 else "",
        env={"GOMAXPROCS": "1"},
    )


TARGET = Target("go_proxy", "Go ReverseProxy + JSON", "reference", launch)
