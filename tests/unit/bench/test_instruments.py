"""The upstream and the load generator against each other: what they count is what happened."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.build import Instruments, compile_instruments
from bench.machine import cpu_ns, process_tree
from bench.processes import ask_json, running, wait_for_line

pytestmark = pytest.mark.skipif(
    shutil.which("cc") is None and shutil.which("gcc") is None,
    reason="needs a C compiler (scripts/bench-setup)",
)

CPU = 0
PROMPT = [{"role": "user", "content": "nonce=@@@@@@@@@@@@@@@@ hello"}]


@pytest.fixture(scope="module")
def instruments() -> Instruments:
    return compile_instruments()


@pytest.fixture(scope="module")
def upstream(
    instruments: Instruments, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[int, int]]:
    log = tmp_path_factory.mktemp("upstream") / "log"
    argv = [str(instruments.upstream), "--max-s", "120"]
    with running(argv, cpu=CPU, log=log) as process:
        yield int(wait_for_line(process, log, "listening", 10.0)), process.pid


def load(
    instruments: Instruments, folder: Path, port: int, body: dict[str, object], *options: str
) -> dict[str, object]:
    file = folder / "body.json"
    file.write_text(json.dumps(body))
    argv = [str(instruments.loadgen), "--port", str(port), "--body", str(file), *options]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=30)
    figures: dict[str, object] = json.loads(done.stdout)
    return figures


def test_every_json_answer_is_counted_and_timed(instruments, upstream, tmp_path):
    body = {"model": "mock-s64", "messages": PROMPT}
    figures = load(instruments, tmp_path, upstream[0], body, "--count", "200", "--concurrency", "4")
    assert figures["ok"] == figures["total_us"]["n"] == 200
    assert figures["errors"] == figures["unfinished"] == 0
    assert figures["total_us"]["p50"] <= figures["total_us"]["p99"] <= figures["total_us"]["max"]


@pytest.mark.parametrize(
    ("path", "last_words"),
    [
        ("/v1/chat/completions", "[DONE]"),
        ("/v1/messages", "message_stop"),
        ("/v1/responses", "}"),
    ],
)
def test_a_streams_tokens_gaps_and_transits_are_seen(
    instruments, upstream, tmp_path, path, last_words
):
    body = {"model": "mock-n5-g1", "stream": True, "messages": PROMPT}
    options = ["--path", path, "--tokens", "5", "--last-words", last_words, "--count", "8"]
    figures = load(instruments, tmp_path, upstream[0], body, *options)
    assert figures["errors"] == 0
    assert figures["ok"] == figures["ttft_us"]["n"] == 8
    assert figures["transit_us"]["n"] == 40
    assert figures["gap_us"]["n"] == 32


@pytest.mark.parametrize(
    ("model", "kind", "options"),
    [
        ("mock-n4-g0", "truncated", ["--tokens", "5"]),
        ("mock-n5-g0", "truncated", ["--tokens", "5", "--last-words", "never said"]),
        ("mock-n5-t5000-g0", "timeout", ["--tokens", "5", "--timeout-s", "0.05"]),
    ],
)
def test_an_answer_that_is_not_whole_is_an_error(  # noqa: PLR0917 - fixtures and parameters
    instruments, upstream, tmp_path, model, kind, options
):
    body = {"model": model, "stream": True, "messages": PROMPT}
    figures = load(instruments, tmp_path, upstream[0], body, "--count", "2", *options)
    assert figures["ok"] == 0
    assert figures["errors_by_kind"][kind] == 2


def test_an_answer_to_another_question_is_an_error(instruments, upstream, tmp_path):
    # The prompt's nonce is fixed, so the upstream repeats one that this request does not carry.
    asked = [{"role": "user", "content": "nonce=0000000000000000 @@@@@@@@@@@@@@@@"}]
    body = {"model": "mock-s64", "messages": asked}
    figures = load(instruments, tmp_path, upstream[0], body, "--count", "3")
    assert figures["errors_by_kind"]["wrong_answer"] == 3


def test_a_refusal_is_an_error_with_its_status(instruments, upstream, tmp_path):
    figures = load(instruments, tmp_path, upstream[0], {"messages": PROMPT}, "--count", "1")
    assert (figures["errors_by_kind"]["status"], figures["last_bad_status"]) == (1, 400)


def test_an_open_loop_asks_at_its_rate(instruments, upstream, tmp_path):
    body = {"model": "mock-s64", "messages": PROMPT}
    options = ["--rate", "500", "--count", "100", "--concurrency", "20", "--duration-s", "20"]
    figures = load(instruments, tmp_path, upstream[0], body, *options)
    assert figures["ok"] == 100
    assert figures["elapsed_s"] >= 99 / 500


def test_the_upstream_counts_readers_that_left(instruments, upstream, tmp_path):
    before = ask_json(upstream[0], "/stats")["aborted"]
    body = {"model": "mock-n5-g5000", "stream": True, "messages": PROMPT}
    options = ["--count", "3", "--concurrency", "3", "--duration-s", "0.2", "--drain-s", "0"]
    load(instruments, tmp_path, upstream[0], body, *options)
    for _ in range(1000):
        if ask_json(upstream[0], "/stats")["aborted"] == before + 3:
            return
    pytest.fail("three readers left, and the upstream did not see it")


def test_the_cpu_of_a_process_tree_is_found_and_grows(instruments, upstream, tmp_path):
    pids = process_tree(upstream[1])
    assert upstream[1] in pids
    before = cpu_ns(pids)
    body = {"model": "mock-s64", "messages": PROMPT}
    load(instruments, tmp_path, upstream[0], body, "--count", "500")
    assert cpu_ns(pids) > before
