"""Token counts that no answer can have: an upstream's mistake must not reach prices, sums and databases."""

from __future__ import annotations

import pytest

from app.domain.chat import Dialect
from app.domain.usage import MAX_TOKENS, Price, Usage
from app.wire.codecs import CODECS

PRICE = Price(input=1.0, output=2.0, cached_input=0.1, cache_write=1.25)
IMPLAUSIBLE = {
    "above the most": MAX_TOKENS + 1,
    "hundreds of digits": 10**400,
    "negative": -1,
    "negative, hundreds of digits": -(10**400),
}

CHAT = '{"prompt_tokens":%s,"completion_tokens":%s}'
CHAT_DETAILS = (
    '{"prompt_tokens":%s,"completion_tokens":%s,'
    '"prompt_tokens_details":{"cached_tokens":%s,"cache_write_tokens":%s},'
    '"completion_tokens_details":{"reasoning_tokens":%s}}'
)
RESPONSES = (
    '{"input_tokens":%s,"output_tokens":%s,'
    '"input_tokens_details":{"cached_tokens":%s,"cache_write_tokens":%s},'
    '"output_tokens_details":{"reasoning_tokens":%s}}'
)
MESSAGES = (
    '{"input_tokens":%s,"output_tokens":%s,"cache_read_input_tokens":%s,'
    '"cache_creation_input_tokens":%s,"output_tokens_details":{"thinking_tokens":%s}}'
)
WHOLE = {
    Dialect.CHAT: '{"choices":[{"message":{"content":"Hi"},"finish_reason":"stop"}],"usage":%s}',
    Dialect.RESPONSES: (
        '{"status":"completed","output":[{"type":"message","content":'
        '[{"type":"output_text","text":"Hi"}]}],"usage":%s}'
    ),
    Dialect.MESSAGES: (
        '{"content":[{"type":"text","text":"Hi"}],"stop_reason":"end_turn","usage":%s}'
    ),
}
STREAM = {
    Dialect.CHAT: (
        'data: {"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":"stop"}]}\n\n'
        'data: {"choices":[],"usage":%s}\n\ndata: [DONE]\n\n'
    ),
    Dialect.RESPONSES: (
        "event: response.completed\n"
        'data: {"type":"response.completed","response":{"status":"completed","output":[],"usage":%s}}\n\n'
    ),
    Dialect.MESSAGES: (
        'event: message_start\ndata: {"type":"message_start","message":{"usage":{"input_tokens":1}}}\n\n'
        'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":%s}'
        '\n\nevent: message_stop\ndata: {"type":"message_stop"}\n\n'
    ),
}
USAGES = (
    (Dialect.CHAT, CHAT),
    (Dialect.CHAT, CHAT_DETAILS),
    (Dialect.RESPONSES, RESPONSES),
    (Dialect.MESSAGES, MESSAGES),
)
IDS = ("chat", "chat with details", "responses", "messages")


def _readings(dialect: Dialect, usage: str) -> list[Usage]:
    """``usage`` as every reader of the dialect understands it."""
    codec = CODECS[dialect]
    whole, stream = (WHOLE[dialect] % usage).encode(), (STREAM[dialect] % usage).encode()
    found = [codec.read_outcome(whole)[0], codec.read_answer(whole).usage]
    for reader in (codec.reader(), codec.passthrough(hide_usage=False)):
        reader.feed(stream)
        reader.end()
        assert reader.complete
        found.append(reader.usage or Usage())
    return found


@pytest.mark.parametrize(("dialect", "form"), USAGES, ids=IDS)
@pytest.mark.parametrize("count", IMPLAUSIBLE.values(), ids=IMPLAUSIBLE)
def test_an_implausible_count_is_ignored_and_the_answer_is_read(
    dialect: Dialect, form: str, count: int
) -> None:
    """Each count alone, and all at once; every reader agrees, and the price is finite."""
    places = form.count("%s")
    for bad in (*range(places), None):
        counts = tuple(count if bad in {at, None} else 7 for at in range(places))
        for usage in _readings(dialect, form % counts):
            assert all(0 <= each <= MAX_TOKENS for each in usage.counts)
            assert 0 <= PRICE.cost_usd(usage) < float("inf")


@pytest.mark.parametrize(("dialect", "form"), USAGES, ids=IDS)
def test_the_largest_plausible_count_is_kept(dialect: Dialect, form: str) -> None:
    counts = (MAX_TOKENS, MAX_TOKENS, *(0,) * (form.count("%s") - 2))
    for usage in _readings(dialect, form % counts):
        assert (usage.input_tokens, usage.output_tokens) == (MAX_TOKENS, MAX_TOKENS)
