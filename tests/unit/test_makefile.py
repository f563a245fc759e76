"""What `make run` adds to the command it runs: nothing that a reader has to think about."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def command(tmp_path: Path) -> Path:
    """A place for the command `slipstream`; the folder's name has a space in it."""
    place = tmp_path / "a venv" / "bin"
    place.mkdir(parents=True)
    return place / "slipstream"


def make_run(command: Path, script: str, *given: str) -> subprocess.Popen[str]:
    """`make run` without the installation, of a command that is ``script``."""
    command.write_text(f"#!/bin/bash\n{script}\n")
    command.chmod(0o755)
    # Whoever runs the tests in the background has Ctrl-C ignored, and with it all that is started from there.
    heeding = ("env", "--default-signal=INT")
    run = ("make", "--no-print-directory", "-o", "install-serve", "run")
    return subprocess.Popen(
        [*heeding, *run, f"VENV={command.parent.parent}", *given],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_ctrl_c_ends_it_without_a_complaint_of_makes(command: Path) -> None:
    # It looks up now and then: a signal just before a wait without an end would not end that.
    script = """
        trap 'exit 130' INT
        mkfifo "$0.never"
        echo up
        until read -r -t 0.1 never <> "$0.never"; do :; done
    """
    with make_run(command, script) as made:
        assert made.stdout is not None
        assert made.stderr is not None
        assert made.stdout.readline() == "up\n"
        os.killpg(made.pid, signal.SIGINT)  # as the terminal does, to all that run in it
        assert made.stderr.read() == ""


def test_its_own_failure_is_told_and_its_code_kept(command: Path) -> None:
    with make_run(command, "echo wrong >&2; exit 2") as made:
        _, said = made.communicate(timeout=20)
        assert made.returncode == 2
        assert said.startswith("wrong\n")


def test_a_configuration_may_have_a_space_in_its_name(command: Path) -> None:
    with make_run(command, 'printf "%s|" "$@"', "CONFIG=my gateway.yaml", "PORT=1") as made:
        said, _ = made.communicate(timeout=20)
        assert said == "serve|--config|my gateway.yaml|--port|1|"
