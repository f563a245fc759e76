"""A file of answers is judged whole: what the gateway would refuse is named before anything is sent."""

import json

import pytest

from app.cache_command import _batches, read

GOOD = {"question": "q", "answer": "a"}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"question": "x \\ud800", "answer": "a"}', "question holds half a surrogate pair"),
        (
            b'{"question": "q", "answer": "a", "tags": ["\\udc00"]}',
            "tags hold half a surrogate pair",
        ),
        (json.dumps({**GOOD, "tags": ["t"] * 33}).encode(), "tags are 33: the most is 32"),
        (json.dumps({**GOOD, "id": "zz", "partition": "a" * 64}).encode(), "id is none that"),
        (json.dumps({**GOOD, "partition": "a" * 64}).encode(), "partition and id stand together"),
        (json.dumps({**GOOD, "id": "a" * 32}).encode(), "partition and id stand together"),
        ('{"question": "café", "answer": "a"}'.encode("latin-1"), "no JSON"),
        (json.dumps(GOOD).encode("utf-16"), "no JSON"),
        (
            b'{"question": "' + b"x" * 300_000 + b'", "answer": "a"}',
            "question has 300,000 characters",
        ),
        (b"[" * 50_000, "no JSON"),
        (b"NaN", "not an object"),
        (b"\x00\x00", "no JSON"),
    ],
)
def test_a_line_that_would_be_refused_is_named(tmp_path, line: bytes, said: str):
    path = tmp_path / "answers.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b"\n" + line + b"\n")
    rows, problems = read(path)
    assert [number for number, _ in rows] == [1]
    assert problems
    assert problems[0].startswith(f"{path}:2: {said}")


def test_a_byte_order_mark_and_other_line_ends_are_read(tmp_path):
    path = tmp_path / "answers.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r\n\r\n")
    assert read(path) == ([(1, GOOD)], [])


def test_what_is_sent_at_once_stays_within_what_a_gateway_takes():
    """Answers of 200,000 letters beyond ASCII weigh six bytes a letter."""
    rows = [(n, {"question": "q", "answer": "é" * 200_000}) for n in range(5)]
    rows += [(n, dict(GOOD)) for n in range(5, 130)]
    parts = list(_batches(rows))
    assert [row for part in parts for row in part] == rows
    assert max(map(len, parts)) == 50
    assert all(len(part) == 1 or len(json.dumps(part)) < 2 << 20 for part in parts)
