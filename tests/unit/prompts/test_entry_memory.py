"""Messages that were read before are found again, and a prompt reads the same with them as without."""

from __future__ import annotations

import dataclasses
import json

from hypothesis import given
from hypothesis import strategies as st

from app.domain.chat import Dialect
from app.prompts.prefix import MessageCache, RenderedPrompt, render

words = st.text(max_size=200)
mark = st.sampled_from([{}, {"cache_control": {"type": "ephemeral"}}, {"cache_control": None}])
parts = st.lists(
    st.builds(lambda text, extra: {"type": "text", "text": text, **extra}, words, mark), max_size=3
)
calls = st.lists(
    st.builds(
        lambda name: {
            "id": "c",
            "type": "function",
            "function": {"name": name, "arguments": "{}"},
        },
        words,
    ),
    max_size=2,
)
messages = st.one_of(
    st.builds(
        lambda role, content: {"role": role, "content": content},
        st.sampled_from(["system", "developer", "user", "assistant", "tool"]),
        st.one_of(words, parts),
    ),
    st.builds(
        lambda content, called: {"role": "assistant", "content": content, "tool_calls": called},
        words,
        calls,
    ),
)
outputs = st.builds(
    lambda output: {"type": "function_call_output", "call_id": "c", "output": output}, words
)
BODIES = {
    Dialect.CHAT: ("messages", messages),
    Dialect.MESSAGES: ("messages", messages),
    Dialect.RESPONSES: ("input", st.one_of(messages, outputs)),
}


def facts(rendered: RenderedPrompt) -> list[dict[str, object]]:
    return [dataclasses.asdict(block) for block in rendered.blocks]


@given(st.data(), st.sampled_from(list(Dialect)), st.integers(0, 3))
def test_a_prompt_reads_the_same_with_what_was_read_before(data, dialect, indent):
    """Turn by turn, with entries that come again elsewhere, and whatever was forgotten meanwhile."""
    field, kind = BODIES[dialect]
    pool = data.draw(st.lists(kind, min_size=1, max_size=4))
    memory = MessageCache(most_bytes=data.draw(st.sampled_from([0, 300, 1 << 20])))
    for chosen in data.draw(st.lists(st.lists(st.sampled_from(pool), max_size=5), max_size=4)):
        body = {"model": "m", "system": "You help.", field: chosen}
        raw = json.dumps(body, indent=indent or None).encode()
        alone = render(raw, dialect, ("t",))
        remembered = render(raw, dialect, ("t",), memory)
        assert facts(remembered) == facts(alone)
        assert remembered.opening == alone.opening
        assert remembered.section_ends == alone.section_ends


def test_memory_holds_no_more_than_it_may():
    memory = MessageCache(most_bytes=1_000)
    for number in range(50):
        body = {"messages": [{"role": "user", "content": f"{number:090}"}]}
        render(json.dumps(body).encode(), Dialect.CHAT, (), memory)
    assert 0 < memory.size_bytes <= 1_000
