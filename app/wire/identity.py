"""Answer ids and times: keep the upstream's where the kind matches, else derive or make one."""

from __future__ import annotations

import secrets
import time

_PREFIXES = ("chatcmpl-", "msg_", "resp_")


def answer_id(upstream_id: str, prefix: str) -> str:
    """An id of the dialect whose ids begin with ``prefix``; the upstream's own part of it is kept."""
    if upstream_id.startswith(prefix):
        return upstream_id
    for other in _PREFIXES:
        if upstream_id.startswith(other):
            return prefix + upstream_id[len(other) :]
    return prefix + (upstream_id or secrets.token_hex(12))


def created_s(told_s: int) -> int:
    """When the answer was made, Unix seconds: what the upstream told, else now."""
    return told_s or int(time.time())
