"""``slipstream keys``: make, list, revoke and rotate the gateway's own keys.

It works on the files under ``state.data_dir``, beside running gateways: what it changes is in force
for their next request.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from app.domain.access import Access, Limits
from app.errors import BadRequest
from app.settings import load
from app.stores.key_file import KeyFile

if TYPE_CHECKING:
    from app.domain.access import Key

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}")
_FOLDER = "keys"


def folder_of(data_dir: str) -> Path:
    """Where the keys of a gateway with this ``state.data_dir`` are kept."""
    return Path(data_dir) / _FOLDER


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's words and options."""
    words = parser.add_subparsers(title="what to do", metavar="WHAT", required=True)
    new = _subcommand(words, "new", "Make a key and show it, this once.", _new)
    new.add_argument("--tenant", default="default", help="whose it is (%(default)s)")
    new.add_argument("--name", default="", help="what tells it from the tenant's others")
    new.add_argument(
        "--models", type=_names, metavar="A,B", help="what it may ask; else everything"
    )
    new.add_argument("--agents", type=_names, metavar="A,B", help="agents it may run; else all")
    new.add_argument("--tools", type=_names, metavar="A,B", help="tools called for it; else all")
    new.add_argument("--admin", action="store_true", help="give it admin rights")
    new.add_argument("--expires", type=_duration_s, metavar="90d", help="end it after this time")
    new.add_argument("--requests-per-minute", type=_count, metavar="N", help="limit its requests")
    new.add_argument("--tokens-per-minute", type=_count, metavar="N", help="limit its tokens")
    new.add_argument("--concurrent-requests", type=_count, metavar="N", help="limit what is open")
    new.add_argument("--usd-per-day", type=_usd, metavar="USD", help="limit its cost a UTC day")
    new.add_argument("--usd-per-month", type=_usd, metavar="USD", help="limit its cost a UTC month")
    _subcommand(words, "list", "List the keys; none is shown itself.", _list)
    revoke = _subcommand(words, "revoke", "Refuse a key from the next request on.", _revoke)
    revoke.add_argument("id", help="its id, as `keys list` shows it")
    rotate = _subcommand(
        words, "rotate", "Make a key of the same rights; the old one ends.", _rotate
    )
    rotate.add_argument("id", help="the old one's id, as `keys list` shows it")
    rotate.add_argument(
        "--overlap",
        type=_duration_s,
        default=86_400.0,
        metavar="24h",
        help="how long the old one goes on; 0s ends it at once (24h)",
    )


def run(options: argparse.Namespace) -> int:
    """Do what was asked; raises ``SettingsError`` and ``StoreError``."""
    settings = load(options.config)
    keys = KeyFile(folder_of(settings.state.data_dir))
    try:
        act: Callable[[KeyFile, argparse.Namespace], None] = options.act
        act(keys, options)
    finally:
        keys.close()
    return 0


def _subcommand(
    words: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    text: str,
    act: Callable[[KeyFile, argparse.Namespace], None],
) -> argparse.ArgumentParser:
    word = words.add_parser(name, help=text, description=text, allow_abbrev=False)
    word.add_argument("--config", metavar="FILE", help="the gateway's configuration, if it has one")
    word.set_defaults(act=act)
    return word


def _new(keys: KeyFile, options: argparse.Namespace) -> None:
    if not _NAME.fullmatch(options.tenant):
        message = "--tenant takes letters, digits and . _ : @ -, at most 128"
        raise BadRequest(message, param="tenant")
    ends_s = None if options.expires is None else time.time() + options.expires
    access = Access(
        id="",
        tenant=options.tenant,
        name=options.name,
        models=options.models,
        tools=options.tools,
        agents=options.agents,
        admin=options.admin,
        expires_unix_s=ends_s,
        limits=Limits(
            options.requests_per_minute,
            options.tokens_per_minute,
            options.concurrent_requests,
            options.usd_per_day,
            options.usd_per_month,
        ),
    )
    _print_new_key(*keys.create(access))


def _print_new_key(key: str, access: Access) -> None:
    print(key)
    print(f"This is key {access.id} of tenant {access.tenant}. It is shown only now: keep it safe.")


def _list(keys: KeyFile, _: argparse.Namespace) -> None:
    lines: list[tuple[str, ...]] = [("ID", "TENANT", "NAME", "STATE", "MADE", "ENDS", "RIGHTS")]
    lines += [_table_row(key, time.time()) for key in keys.read()]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print("  ".join(cells).rstrip())


def _table_row(key: Key, now_s: float) -> tuple[str, ...]:
    access = key.access
    ends_s = access.expires_unix_s
    over = ends_s is not None and now_s >= ends_s
    state = "revoked" if access.revoked else "expired" if over else "good"
    rights = ["admin"] if access.admin else []
    for word, names in (
        ("models", access.models),
        ("agents", access.agents),
        ("tools", access.tools),
    ):
        if names is not None:
            rights.append(f"{word}={','.join(sorted(names)) or 'none'}")
    for word in Limits.__slots__:
        limit = getattr(access.limits, word)
        if limit is not None:
            rights.append(f"{word}={limit:g}")
    ends = "never" if ends_s is None else _day(ends_s)
    made = _day(key.created_unix_s)
    return (access.id, access.tenant, access.name, state, made, ends, " ".join(rights))


def _day(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%MZ")


def _revoke(keys: KeyFile, options: argparse.Namespace) -> None:
    access = keys.revoke(options.id)
    print(f"Key {access.id} of tenant {access.tenant} is refused from now on.")


def _rotate(keys: KeyFile, options: argparse.Namespace) -> None:
    key, access = keys.rotate(options.id, options.overlap)
    _print_new_key(key, access)


def _names(text: str) -> frozenset[str]:
    return frozenset(name.strip() for name in text.split(",") if name.strip())


def _duration_s(text: str) -> float:
    found = re.fullmatch(r"(\d{1,6})([smhd])", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 90d, 24h, 30m or 0s")
    return float(int(found[1]) * _UNITS_S[found[2]])


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def _usd(text: str) -> float:
    try:
        amount = float(text)
    except ValueError:
        amount = -1.0
    if not 0 <= amount < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not an amount of money from 0")
    return amount
