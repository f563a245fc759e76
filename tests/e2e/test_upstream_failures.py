"""What goes wrong upstream, before and during a stream, reaches each client as its own package's exception.

Over both kinds of upstream, so that every failure is told both as it came and translated.
"""

# ruff: noqa: PLR0917 (a test asks for as many fixtures as its promise has parts)
from __future__ import annotations

import anthropic
import openai
import pytest

from app.providers.simulator import expected_answer
from app.routing.retry_budget import RetryBudget
from tests.e2e.asking import API_ERRORS, DIALECTS, PATHS, STATUS_ERRORS, body_of
from tests.e2e.conversations import BOTH_KINDS

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("model", BOTH_KINDS),
    pytest.mark.parametrize("dialect", DIALECTS),
]
whole_or_streamed = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


@pytest.fixture(autouse=True)
def full_retry_budget(gateway):
    """Each test's failures count on their own: a module of them is a storm, which the budget is to end."""
    gateway.context.edge.gateway.retry_budget = RetryBudget()


async def ask(asker, dialect, model, text="Will it fail?", *, stream):
    """The answer's text, by either form."""
    if not stream:
        return await asker.whole(dialect, model, text)
    return "".join([piece async for piece in asker.streamed(dialect, model, text)])


async def the_next_request_works(asker, dialect, model):
    assert await ask(asker, dialect, model, "And now?", stream=True) == expected_answer(
        "And now?", "sim-fast"
    )


@whole_or_streamed
async def test_a_rate_limit_keeps_its_status_and_when_to_come_back(
    asker, script, dialect, model, stream
):
    """And is not tried again on the same deployment."""
    script("429:7")
    with pytest.raises((openai.RateLimitError, anthropic.RateLimitError)) as caught:
        await ask(asker, dialect, model, stream=stream)
    assert caught.value.status_code == 429
    assert caught.value.response.headers["retry-after"] == "7"
    assert "Rate limit" in str(caught.value)
    await the_next_request_works(asker, dialect, model)


@whole_or_streamed
@pytest.mark.parametrize("status", [500, 529])
async def test_a_server_error_is_tried_once_more_and_then_told_with_its_status(
    asker, script, dialect, model, stream, status
):
    script(str(status))
    assert await ask(asker, dialect, model, stream=stream) == expected_answer(
        "Will it fail?", "sim-fast"
    )
    script(str(status), str(status))
    with pytest.raises((openai.InternalServerError, anthropic.InternalServerError)) as caught:
        await ask(asker, dialect, model, stream=stream)
    assert caught.value.status_code == status
    await the_next_request_works(asker, dialect, model)


@whole_or_streamed
@pytest.mark.parametrize("fault", ["empty", "garbage"])
async def test_an_upstream_that_does_not_answer_properly_is_a_502(
    asker, script, dialect, model, stream, fault
):
    """No body, and a body that is neither JSON nor events."""
    script(fault, fault)
    with pytest.raises(STATUS_ERRORS) as caught:
        await ask(asker, dialect, model, stream=stream)
    assert caught.value.status_code == 502
    await the_next_request_works(asker, dialect, model)


@pytest.mark.parametrize("fault", ["malformed-frame", "reset-mid-stream", "cut", "truncated"])
async def test_a_broken_json_answer_is_a_502(asker, script, dialect, model, fault):
    script(fault, fault)
    with pytest.raises(STATUS_ERRORS) as caught:
        await ask(asker, dialect, model, stream=False)
    assert caught.value.status_code == 502
    await the_next_request_works(asker, dialect, model)


@pytest.mark.parametrize("fault", ["reset-mid-stream:6", "cut:6", "truncated:6"])
async def test_a_stream_that_breaks_never_ends_as_a_whole_one(asker, script, dialect, model, fault):
    """What was said before stands, then the package raises; nothing is tried again behind its back."""
    script(fault)
    said = ""

    async def read():
        nonlocal said
        async for piece in asker.streamed(dialect, model, "Will it break?"):
            said += piece

    with pytest.raises(API_ERRORS):
        await read()
    assert said
    assert expected_answer("Will it break?", "sim-fast").startswith(said)
    await the_next_request_works(asker, dialect, model)


async def test_an_answer_that_broke_off_is_not_kept(asker, http, script, dialect, model):
    script("truncated:6")
    text = f"Not to be kept {dialect} {model}"
    with pytest.raises(API_ERRORS):
        await ask(asker, dialect, model, text, stream=True)
    reply = await http.post(
        PATHS[dialect],
        json=body_of(dialect, model, text),
        headers={"x-slipstream-cache": "only"},
    )
    assert reply.status_code == 504
