"""The `slipstream` command: what it prints, where, and how it exits."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from app import __version__
from app.cli import COMMANDS, DONE, FAILED, INTERRUPTED, WRONG, Command, main
from app.errors import GatewayError

if TYPE_CHECKING:
    from pathlib import Path

GOOD = """
providers: {p: {kind: openai, base_url: "http://127.0.0.1:9/v1"}}
models: [{name: m, provider: p, model: m, tier: fast}]
"""
RULE = """
lanes:
  rules:
    - {name: shout, pattern: "say (?P<what>[a-z]+)", template: "{what}!", tests: [%s]}
"""


def written(folder: Path, text: str) -> str:
    """A configuration file with `text`."""
    file = folder / "gateway.yaml"
    file.write_text(text, encoding="utf-8")
    return str(file)


class TestCheck:
    def test_a_good_file_is_ok(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["check", written(tmp_path, GOOD)]) == DONE
        out, err = capsys.readouterr()
        assert "ok: 1 models of 1 providers" in out
        assert err == ""

    def test_every_problem_is_told_at_once_on_stderr_and_the_exit_code_is_2(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        bad = GOOD.replace("tier: fast", "tier: fats").replace("provider: p", "provider: q")
        assert main(["check", written(tmp_path, bad + "server: {port: 99999}\n")]) == WRONG
        out, err = capsys.readouterr()
        assert out == ""
        *lines, count = err.splitlines()
        assert len(lines) == 3
        assert all("gateway.yaml:" in line for line in lines)
        assert count == "slipstream check: 3 problems"
        for path in ("models[0].tier", "models[0].provider", "server.port"):
            assert path in err

    def test_a_file_that_is_not_yaml_gets_that_problem_alone(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["check", written(tmp_path, "models: [\n - {\n")]) == WRONG
        (line,) = capsys.readouterr().err.splitlines()
        assert "is not YAML" in line

    def test_a_missing_file_is_told_without_a_traceback(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["check", str(tmp_path / "none.yaml")]) == WRONG
        assert "No such file" in capsys.readouterr().err

    @pytest.mark.parametrize(
        "text", ["", "# nothing yet\n", "server: {port: 8081}\n", "models: []\n"]
    )
    def test_a_file_that_names_no_model_is_refused_for_it_could_answer_nothing(
        self, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["check", written(tmp_path, text)]) == WRONG
        told = capsys.readouterr().err
        assert "models: names no model" in told
        assert "without a file" in told

    def test_a_lane_rule_that_keeps_its_promise_passes(self, tmp_path: Path) -> None:
        rule = RULE % "{input: say hi, output: 'hi!'}, {input: hi}"
        assert main(["check", written(tmp_path, GOOD + rule)]) == DONE

    def test_a_lane_rule_that_fails_its_own_example_is_a_configuration_error(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        rule = RULE % "{input: say hi, output: 'hi?'}"
        assert main(["check", written(tmp_path, GOOD + rule)]) == WRONG
        err = capsys.readouterr().err
        assert "lanes.rules[0]" in err
        assert "'hi?'" in err

    def test_it_runs_as_a_module_in_a_process_of_its_own(self, tmp_path: Path) -> None:
        command = [sys.executable, "-m", "app", "check", written(tmp_path, "server: {prt: 1}\n")]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == WRONG
        assert "Did you mean 'port'?" in done.stderr
        assert done.stdout == ""

    def test_it_loads_no_web_server(self, tmp_path: Path) -> None:
        program = (
            "import sys; from app.cli import main; main(sys.argv[1:]);"
            "sys.exit(any(name in sys.modules for name in ('fastapi', 'uvicorn', 'openai')))"
        )
        command = [sys.executable, "-c", program, "check", written(tmp_path, GOOD)]
        assert subprocess.run(command, check=False, timeout=60).returncode == 0


class TestUsage:
    @pytest.mark.parametrize(
        ("arguments", "told"),
        [
            ([], "COMMAND"),
            (["dance"], "dance"),
            (["check"], "FILE"),
            (["check", "a", "b"], "unrecognized"),
            (["serve", "--port", "99999"], "99999 is not a TCP port"),
            (["serve", "--port", "http"], "'http' is not a number"),
            (["serve", "--workers", "0"], "0 is less than 1"),
            (["serve", "--prot", "1"], "--prot"),
            (["simulate", "--time-scale", "-1"], "not 0 or more"),
            (["simulate", "--time-scale", "nan"], "not 0 or more"),
            (["simulate", "--fault", "429"], "SPEC=SHARE"),
            (["simulate", "--fault", "429=2"], "not within 0 and 1"),
        ],
    )
    def test_wrong_usage_exits_2_and_says_what_is_wrong(
        self, arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == WRONG
        assert told in capsys.readouterr().err

    def test_the_version_is_told(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as caught:
            main(["--version"])
        assert caught.value.code == DONE
        assert capsys.readouterr().out == f"slipstream {__version__}\n"

    def test_help_names_every_command(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            main(["--help"])
        out = capsys.readouterr().out
        assert all(command.name in out for command in COMMANDS)


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (GatewayError("the port is taken"), FAILED),
        (OSError("the disk is full"), FAILED),
        (KeyboardInterrupt(), INTERRUPTED),
    ],
)
def test_a_command_that_fails_ends_with_one_line_and_its_exit_code(
    failure: BaseException,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(_: object) -> int:
        raise failure

    monkeypatch.setattr("app.cli.COMMANDS", (Command("fail", "Fail.", lambda _: None, fail),))
    assert main(["fail"]) == code
    assert len(capsys.readouterr().err.splitlines()) == (0 if code == INTERRUPTED else 1)


def test_a_reader_that_has_enough_of_the_output_is_no_fault() -> None:
    """`slipstream ... | head` ends without a word on standard error."""
    told = (
        "from app import cli; many = cli.Command('many', '', lambda _: None, "
        "lambda _: print('word ' * 100_000, flush=True) or 0); cli.COMMANDS = (many,); "
        "raise SystemExit(cli.main(['many']))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", told], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(4) == "word"
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(30) == FAILED


@pytest.mark.parametrize("end", ["alone", "asked", "orphaned"])
def test_the_simulator_says_where_it_listens_and_ends_on_sigterm_or_with_its_parent(
    end: str,
) -> None:
    """Without a word: ended by its gateway it said "Fatal Python error" at each stop, and dumped core."""
    command = [sys.executable, "-m", "app", "simulate", "--port", "0", "--time-scale", "0"]
    if end != "alone":
        command.append("--exit-with-parent")
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stderr=pipe, text=True) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        assert process.stderr.readline().startswith("Simulated upstream on http://127.0.0.1:")
        if end == "orphaned":
            process.stdin.close()
        else:
            process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert not process.stderr.read()
