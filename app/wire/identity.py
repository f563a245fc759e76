"""Ids and creation times of answers: keep the upstream's where possible, else derive or generate one."""

from __future__ import annotations

import secrets
import time

_PREFIXES = ("chatcmpl-", "msg_", "resp_")


def answer_id(upstream_id: str, prefix: str) -> str:
    """An id of the dialect whose ids begin with ``prefix``; the upstream's suffix is kept."""
    if upstream_id.startswith(prefix):
        return upstream_id
    for other in _PREFIXES:
        if upstream_id.startswith(other):
            return prefix + upstream_id[len(other) :]
    return prefix + (upstream_id or secrets.token_hex(12))


def created_s(upstream_s: int) -> int:
    """Creation time in Unix seconds: the upstream's, else now."""
    return upstream_s or int(time.time())
