"""``slipstream cache import`` and ``export``: answers into a running gateway, and out of it.

Both use the gateway's HTTP API with an admin key, so they work from anywhere, with any number of workers
and any store. The whole file is validated before the first line is sent.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from app.errors import GatewayError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

_BATCH_ENTRIES = 50
_TIMEOUT_S = 120.0
_TEXT_FIELDS = ("question", "answer", "model", "system", "partition", "id")
_MAX_PROBLEMS = 50
_MAX_CHARS = 200_000
_BATCH_BYTES = 1 << 20
_MAX_TAGS = 32
_HEXADECIMAL = {"partition": re.compile(r"[0-9a-f]{64}"), "id": re.compile(r"[0-9a-f]{32}")}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's words and options."""
    words = parser.add_subparsers(title="what to do", metavar="WHAT", required=True)
    into = words.add_parser("import", help="Keep the answers of a file.", allow_abbrev=False)
    into.add_argument("file", metavar="FILE.jsonl", help="lines of question, answer, tags, model")
    into.set_defaults(act=_import)
    out = words.add_parser("export", help="Write the answers that are kept.", allow_abbrev=False)
    out.add_argument("file", metavar="FILE.jsonl", nargs="?", help="else standard output")
    out.set_defaults(act=_export)
    for word in (into, out):
        word.add_argument(
            "--url", default="http://127.0.0.1:8080", help="the gateway (%(default)s)"
        )
        word.add_argument("--tenant", default="default", help="whose they are (%(default)s)")
        word.add_argument(
            "--key-file", metavar="FILE", help="holds an admin key, where one is needed"
        )


def run(options: argparse.Namespace) -> int:
    """Run the command; the exit status is 2 where the file has problems."""
    status: int = options.act(options)
    return status


def _import(options: argparse.Namespace) -> int:
    path = Path(options.file)
    rows, problems = read(path)
    if problems:
        for problem in problems[:_MAX_PROBLEMS]:
            print(problem, file=sys.stderr)
        if len(problems) > _MAX_PROBLEMS:
            print(f"... and {len(problems) - _MAX_PROBLEMS} more", file=sys.stderr)
        return 2
    exact = similar = missed = 0
    for part in _batches(rows):
        body = {"tenant": options.tenant, "entries": [row for _, row in part]}
        try:
            reply = _call(options, "/v1/cache/import", body)
        except _RefusedError as exc:
            print(exc.located(path, part), file=sys.stderr)
            return 2
        exact, similar = exact + _int(reply, "exact"), similar + _int(reply, "by_meaning")
        missed = max(missed, _int(reply, "workers_missed"))
    print(
        f"{len(rows)} answers imported: {exact} for the same question, {similar} for other wordings"
    )
    if missed:
        print(
            f"{missed} of the server's workers did not answer and may miss some: import again",
            file=sys.stderr,
        )
        return 1
    return 0


def _batches(
    rows: list[tuple[int, dict[str, object]]],
) -> Iterator[list[tuple[int, dict[str, object]]]]:
    """Split the rows into requests: bounded in answers, and in bytes unless one row alone has more."""
    part, size = list[tuple[int, dict[str, object]]](), 0
    for row in rows:
        weight = len(json.dumps(row[1]))
        if part and (len(part) == _BATCH_ENTRIES or size + weight > _BATCH_BYTES):
            yield part
            part, size = [], 0
        part.append(row)
        size += weight
    if part:
        yield part


def read(path: Path) -> tuple[list[tuple[int, dict[str, object]]], list[str]]:
    """Return the file's rows with their line numbers, and its problems as ``file:line: what``."""
    rows, problems = [], []
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as exc:
                problems.append(f"{path}:{number}: no JSON: {exc}")
                continue
            wrong = list(_row_problems(row))
            problems += [f"{path}:{number}: {what}" for what in wrong]
            if not wrong:
                rows.append((number, row))
    return rows, problems


def _row_problems(row: object) -> Iterator[str]:
    if not isinstance(row, dict):
        yield "not an object"
        return
    for name in sorted(set(row) - {*_TEXT_FIELDS, "tags"}):
        yield f"unknown field {name[:40]!r}: known are {', '.join((*_TEXT_FIELDS, 'tags'))}"
    for name in _TEXT_FIELDS:
        yield from _text_problems(name, row.get(name, ""))
    if bool(row.get("partition")) != bool(row.get("id")):
        yield "partition and id stand together"
    yield from _tag_problems(row.get("tags", []))


def _text_problems(name: str, value: object) -> Iterator[str]:
    if not isinstance(value, str):
        yield f"{name} is not a text"
    elif name in {"question", "answer"} and not value.strip():
        yield f"{name} is missing or empty"
    elif len(value) > _MAX_CHARS:
        yield f"{name} has {len(value):,} characters: the most is {_MAX_CHARS:,}"
    elif not _is_text(value):
        yield f"{name} holds half a surrogate pair, which is no text"
    elif value and name in _HEXADECIMAL and not _HEXADECIMAL[name].fullmatch(value):
        yield f"{name} is none that an export has written"


def _tag_problems(tags: object) -> Iterator[str]:
    if not isinstance(tags, list) or not all(isinstance(tag, str) and tag for tag in tags):
        yield "tags is not a list of texts"
    elif len(tags) > _MAX_TAGS:
        yield f"tags are {len(tags)}: the most is {_MAX_TAGS}"
    elif not all(map(_is_text, tags)):
        yield "tags hold half a surrogate pair, which is no text"


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _export(options: argparse.Namespace) -> int:
    if options.file is None:
        count = _write(options, sys.stdout)
    else:
        target = Path(options.file)
        fresh = target.with_name(target.name + ".new")
        with fresh.open("w", encoding="utf-8") as out:
            count = _write(options, out)
        fresh.replace(target)
    print(f"{count} answers exported", file=sys.stderr)
    return 0


def _write(options: argparse.Namespace, out: TextIO) -> int:
    count, after = 0, ""
    while True:
        asked = urllib.parse.urlencode({"tenant": options.tenant, "after": after})
        reply = _call(options, f"/v1/cache/export?{asked}", None)
        entries = reply.get("entries")
        for entry in entries if isinstance(entries, list) else ():
            out.write(json.dumps(entry, ensure_ascii=False) + "\n")
            count += 1
        after = str(reply.get("next") or "")
        if not after:
            return count


class _RefusedError(GatewayError):
    """The gateway refused a request."""

    def located(self, path: Path, part: list[tuple[int, dict[str, object]]]) -> str:
        """Its message, with the file's line in place of the entry's number."""
        head, _, rest = self.message.partition("]: ")
        number = head.removeprefix("entries[")
        if rest and number.isdigit() and int(number) < len(part):
            return f"{path}:{part[int(number)][0]}: {rest}"
        return f"{path}: {self.message}"


def _call(
    options: argparse.Namespace, path: str, body: dict[str, object] | None
) -> dict[str, object]:
    headers = {"content-type": "application/json"}
    if options.key_file:
        key = Path(options.key_file).read_text(encoding="utf-8").strip()
        headers["authorization"] = f"Bearer {key}"
    url = options.url.rstrip("/") + path
    if not url.startswith(("http://", "https://")):
        message = f"--url {options.url!r} is no http address"
        raise StoreError(message)
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers)  # noqa: S310 - the scheme is checked above
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as reply:  # noqa: S310 - the same
            answer = json.loads(reply.read())
    except urllib.error.HTTPError as exc:
        reason = _error_text(exc.read())
        if exc.code in {400, 422}:
            raise _RefusedError(reason) from exc
        message = f"the gateway at {options.url} answered {exc.code}: {reason}"
        raise StoreError(message) from exc
    except urllib.error.URLError as exc:
        message = f"no gateway at {options.url}: {exc.reason}. Start it, or give --url"
        raise StoreError(message) from exc
    return answer if isinstance(answer, dict) else {}


def _error_text(body: bytes) -> str:
    try:
        parsed = json.loads(body)
    except ValueError:
        return body[:200].decode("utf-8", "replace")
    error = parsed.get("error") if isinstance(parsed, dict) else None
    if isinstance(error, dict):
        return str(error.get("message"))[:400]
    return str(parsed.get("detail") if isinstance(parsed, dict) else parsed)[:400]


def _int(reply: dict[str, object], name: str) -> int:
    value = reply.get(name)
    return value if isinstance(value, int) else 0
