"""What was left for later is done before a request that may need it, and keeps nobody else waiting."""

from __future__ import annotations

import itertools

import httpx2
import pytest

from app.api.deferred_work import SLICE_NS
from tests.support.gateway import configuration, running_gateway
from tests.support.plain_http import NO_TLS
from tests.support.turns import turns_of_others

pytestmark = pytest.mark.anyio


async def test_a_request_has_all_of_it_done_first_and_lets_others_go_on_meanwhile(upstream):
    """The general path: what was just answered may be asked again, and 256 accounts take milliseconds."""
    async with (
        running_gateway(configuration(upstream.base_url)) as running,
        httpx2.AsyncClient(verify=NO_TLS, base_url=running.url) as http,
    ):
        after = running.context.edge.deferred
        clock = itertools.count(0, SLICE_NS)
        after._clock = clock.__next__
        after._schedule = lambda _: None  # nobody but the request does it
        done_at: list[int] = []
        async with turns_of_others() as turns:
            for _ in range(100):
                after.add(lambda: done_at.append(turns.taken))
            body = {"model": "small", "messages": [{"role": "user", "content": "Hi"}]}
            headers = {"x-slipstream-cache": "bypass"}
            answer = await http.post("/v1/chat/completions", json=body, headers=headers)
        assert answer.status_code == 200
        assert len(done_at) == 100
        assert len(set(done_at)) >= 50
