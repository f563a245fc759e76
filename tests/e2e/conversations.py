"""What the conformance tests ask: one question, its tools and its schema, as each dialect spells them."""

from __future__ import annotations

import base64

OPENAI_KIND, ANTHROPIC_KIND = "small", "small2"
BOTH_KINDS = (OPENAI_KIND, ANTHROPIC_KIND)
THINKER = "thinker"
"""An OpenAI kind of model that takes ``reasoning_effort``."""

TOOL_QUESTION = "What is the state of INC-4821, and may u-123 close it?"
FUNCTIONS = [
    {
        "name": "get_ticket",
        "description": "Look up the state of a support ticket.",
        "parameters": {
            "type": "object",
            "properties": {"ticket_id": {"type": "string"}},
            "required": ["ticket_id"],
        },
    },
    {
        "name": "check_permissions",
        "description": "Say what a user may do.",
        "parameters": {
            "type": "object",
            "properties": {"user_id": {"type": "string"}},
            "required": ["user_id"],
        },
    },
]
EXPECTED_CALLS = [
    ("get_ticket", {"ticket_id": "INC-4821"}),
    ("check_permissions", {"user_id": "u-123"}),
]
CHAT_TOOLS = [{"type": "function", "function": f} for f in FUNCTIONS]
RESPONSES_TOOLS = [{"type": "function", "strict": False, **f} for f in FUNCTIONS]
MESSAGES_TOOLS = [
    {"name": f["name"], "description": f["description"], "input_schema": f["parameters"]}
    for f in FUNCTIONS
]
SCHEMA = {
    "type": "object",
    "properties": {
        "title": {"type": "string"},
        "level": {"enum": ["low", "high"]},
        "count": {"type": "integer"},
    },
    "required": ["title", "level", "count"],
    "additionalProperties": False,
}
PICTURE = base64.b64encode(b"not really a picture").decode()
PICTURE_URL = f"data:image/png;base64,{PICTURE}"


def user(text: object) -> list[dict[str, object]]:
    """One user message."""
    return [{"role": "user", "content": text}]
