"""`GET /v1/models` and `/v1/models/{id}` in either vendor's form."""

from __future__ import annotations

from collections.abc import Mapping

from app.providers.simulator.dialect import dumps
from app.providers.simulator.profile import ModelProfile, choose_model

_CREATED_S = 1_790_000_000
_CREATED_AT = "2026-09-21T13:33:20Z"


def models(profiles: Mapping[str, ModelProfile], name: str, *, is_messages: bool) -> bytes:
    """The list of models, or one by name. Raises `RefusedError` (404) for an unknown one."""
    if name:
        profile = choose_model(name, profiles).profile
        return dumps(_messages_model(profile) if is_messages else _openai_model(profile))
    if not is_messages:
        return dumps({"object": "list", "data": [_openai_model(p) for p in profiles.values()]})
    names = list(profiles)
    return dumps(
        {
            "data": [_messages_model(profile) for profile in profiles.values()],
            "has_more": False,
            "first_id": names[0] if names else None,
            "last_id": names[-1] if names else None,
        }
    )


def _openai_model(profile: ModelProfile) -> dict[str, object]:
    return {
        "id": profile.name,
        "object": "model",
        "created": _CREATED_S,
        "owned_by": "slipstream-simulator",
    }


def _messages_model(profile: ModelProfile) -> dict[str, object]:
    yes, no = {"supported": True}, {"supported": False}
    return {
        "type": "model",
        "id": profile.name,
        "display_name": f"Simulated: {profile.name}",
        "created_at": _CREATED_AT,
        "lifecycle": "active",
        "line": None,
        "deprecated_at": None,
        "retires_at": None,
        "max_input_tokens": profile.context_tokens,
        "max_tokens": profile.output_limit_tokens,
        "capabilities": {
            "batch": no,
            "citations": no,
            "code_execution": no,
            "context_management": {"supported": False},
            "effort": {
                "supported": True,
                **dict.fromkeys(("low", "medium", "high", "xhigh", "max"), yes),
            },
            "image_input": yes,
            "pdf_input": yes,
            "server_tools": {"supported": False, "code_execution": no, "web_search": no},
            "structured_outputs": yes,
            "thinking": {
                "supported": True,
                "types": {
                    "adaptive": yes,
                    "between_tools": yes,
                    "disabled": yes,
                    "enabled": yes,
                },
            },
        },
    }
