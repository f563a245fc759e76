"""The `slipstream` command: its words, and what each hands over to.

A command is one value in `COMMANDS`; a room that brings its own adds a line there. Whatever a
command needs is imported when it runs, so that `slipstream check` answers in well under a second
and does not load a web server. Exit codes: 0 done, 1 failed, 2 wrong usage or wrong configuration,
130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from app.errors import GatewayError
from app.settings_problems import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from app.settings import Settings

DONE, FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130
"""The exit codes."""

_HIGHEST_PORT = 65_535


@dataclass(frozen=True, slots=True)
class Command:
    """One word of the command line."""

    name: str
    help: str
    arguments: Callable[[argparse.ArgumentParser], None]
    """Declares the command's options."""
    run: Callable[[argparse.Namespace], int]
    """Does it and returns the exit code; raises SettingsError and other GatewayErrors."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command in `arguments`, which lack the program's name; return its exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    options = _parser(next((word for word in words if not word.startswith("-")), "")).parse_args(
        words
    )
    command: Command = options.command
    try:
        return command.run(options)
    except SettingsError as exc:
        for problem in exc.problems:
            print(problem, file=sys.stderr)
        if len(exc.problems) > 1:
            print(f"slipstream {command.name}: {len(exc.problems)} problems", file=sys.stderr)
        return WRONG
    except GatewayError as exc:
        print(f"slipstream {command.name}: {exc}", file=sys.stderr)
        return FAILED
    except BrokenPipeError:
        # Who reads our output has enough, as `head` does. What is left of it goes nowhere, also at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as exc:
        print(f"slipstream {command.name}: {exc}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED


def _parser(named: str) -> argparse.ArgumentParser:
    """Read every command's name, but only the options of the one that is ``named``: some load much."""
    from app import __version__

    parser = argparse.ArgumentParser(
        prog="slipstream", description="A latency-optimizing agent gateway.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"slipstream {__version__}")
    words = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        word = words.add_parser(
            command.name, help=command.help, description=command.help, allow_abbrev=False
        )
        if command.name == named:
            command.arguments(word)
        word.set_defaults(command=command)
    return parser


def _serve_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="configuration in YAML (docs/settings.md); without it the models of the keys in the "
        "environment, or simulated ones",
    )
    parser.add_argument(
        "--host", help="address to listen on; overrides server.host (default 127.0.0.1)"
    )
    parser.add_argument("--port", type=_port, help="TCP port; overrides server.port (default 8080)")
    parser.add_argument(
        "--workers",
        metavar="N",
        type=_positive,
        help="worker processes; overrides server.workers (default 1)",
    )


def _serve(options: argparse.Namespace) -> int:
    settings = _checked(options.config)
    from app.server import serve  # The web server: only this command needs it.

    server = settings.server
    host = options.host or server.host
    port = server.port if options.port is None else options.port
    file = None if options.config is None else Path(options.config)
    read = partial(_checked, options.config)
    serve(settings, host, port, options.workers or server.workers, (read, file))
    return DONE


def _check_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="the configuration file to check")


def _check(options: argparse.Namespace) -> int:
    settings = _checked(options.file)
    print(
        f"{options.file}: ok: {len(settings.models)} models of {len(settings.providers)} "
        f"providers, {len(settings.tools)} tools, {len(settings.agents)} agents"
    )
    return DONE


def _checked(file: str | None) -> Settings:
    """Load the configuration and run the tests of its lane rules. Raises SettingsError."""
    from app.settings import load  # the models: what needs no configuration does without

    settings = load(file)
    if settings.lanes.rules or settings.lanes.skeletons:
        from app.operator_lanes import failures  # RE2 is loaded only where there are rules.

        if problems := failures(settings.lanes, file or "(built in)"):
            raise SettingsError(problems)
    return settings


def _keys_arguments(parser: argparse.ArgumentParser) -> None:
    from app import keys_command

    keys_command.arguments(parser)


def _keys(options: argparse.Namespace) -> int:
    from app import keys_command

    return keys_command.run(options)


def _cache_arguments(parser: argparse.ArgumentParser) -> None:
    from app import cache_command

    cache_command.arguments(parser)


def _cache(options: argparse.Namespace) -> int:
    from app import cache_command

    return cache_command.run(options)


def _router_arguments(parser: argparse.ArgumentParser) -> None:
    from app import router_command

    router_command.arguments(parser)


def _router(options: argparse.Namespace) -> int:
    from app import router_command

    return router_command.run(options)


def _replay_arguments(parser: argparse.ArgumentParser) -> None:
    from app import replay_command

    replay_command.arguments(parser)


def _replay(options: argparse.Namespace) -> int:
    from app import replay_command

    return replay_command.run(options)


def _simulate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=_port, default=9100, help="TCP port (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of its clock (%(default)s)")
    parser.add_argument(
        "--time-scale",
        type=_not_negative,
        default=1.0,
        metavar="FACTOR",
        help="multiplies every wait; 0 answers at once (%(default)s)",
    )
    parser.add_argument(
        "--fault",
        action="append",
        default=[],
        type=_fault,
        metavar="SPEC=SHARE",
        help="a fault and the share of requests that meet it, such as 429=0.01; may be repeated",
    )
    parser.add_argument(
        "--exit-with-parent",
        action="store_true",
        help="end when standard input ends, as it does with the process that holds its other side",
    )


def _simulate(options: argparse.Namespace) -> int:
    from app.providers.simulator import SimulatorSettings, run

    settings = SimulatorSettings(
        seed=options.seed, time_scale=options.time_scale, fault_rates=dict(options.fault)
    )
    if options.exit_with_parent:
        _exit_with_parent()
    run(options.host, options.port, settings, on_start=_simulating)
    return DONE


def _exit_with_parent() -> None:
    """Ask this process to end, as SIGTERM does, once standard input is at its end."""

    def watch() -> None:
        # Not by sys.stdin: whoever waits in it at the interpreter's end makes that a fatal error.
        while os.read(0, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def _simulating(base_url: str) -> None:
    print(f"Simulated upstream on {base_url}", file=sys.stderr, flush=True)


def _lint_arguments(parser: argparse.ArgumentParser) -> None:
    from app.prompts_command import lint_arguments

    lint_arguments(parser)


def _warm_arguments(parser: argparse.ArgumentParser) -> None:
    from app.prompts_command import warm_arguments

    warm_arguments(parser)


def _warm(options: argparse.Namespace) -> int:
    from app.prompts_command import run_warm

    return run_warm(options)


def _lint(options: argparse.Namespace) -> int:
    from app.prompts_command import run_lint

    return run_lint(options)


COMMANDS: tuple[Command, ...] = (
    Command("serve", "Run the gateway.", _serve_arguments, _serve),
    Command(
        "check",
        "Check a configuration file and list every problem in it.",
        _check_arguments,
        _check,
    ),
    Command(
        "keys", "Create, list, revoke and rotate the gateway's own keys.", _keys_arguments, _keys
    ),
    Command(
        "cache",
        "Import answers into the cache of a running gateway, or export them.",
        _cache_arguments,
        _cache,
    ),
    Command(
        "router",
        "Report how well the router ranks requests, from the labels it keeps.",
        _router_arguments,
        _router,
    ),
    Command(
        "lint",
        "Find what breaks prompt caching in a request; exit status 1 if anything does.",
        _lint_arguments,
        _lint,
    ),
    Command(
        "warm", "Have a running gateway warm the vendors' prompt caches.", _warm_arguments, _warm
    ),
    Command(
        "replay",
        "Estimate latency, cost and hits of recorded traffic under other settings.",
        _replay_arguments,
        _replay,
    ),
    Command("simulate", "Run the simulated model provider alone.", _simulate_arguments, _simulate),
)
"""Every command, in the order of `slipstream --help`."""


def _port(text: str) -> int:
    port = _number(int, text)
    if not 0 <= port <= _HIGHEST_PORT:
        raise argparse.ArgumentTypeError(f"{text} is not a TCP port (0 to {_HIGHEST_PORT})")
    return int(port)


def _positive(text: str) -> int:
    number = _number(int, text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return int(number)


def _not_negative(text: str) -> float:
    number = _number(float, text)
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not 0 or more")
    return number


def _fault(text: str) -> tuple[str, float]:
    spec, separator, share = text.partition("=")
    if not spec or not separator:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not of the form SPEC=SHARE, such as 429=0.01"
        )
    value = _number(float, share)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"the share {share} is not within 0 and 1")
    return spec, value


def _number(kind: type[int | float], text: str) -> float:
    try:
        return kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
