"""The codec of each dialect; stateless singletons."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from app.domain.chat import Dialect
from app.ports import Codec
from app.wire.anthropic_messages import AnthropicMessagesCodec
from app.wire.openai_chat import OpenAIChatCodec
from app.wire.openai_responses import OpenAIResponsesCodec

CODECS: Mapping[Dialect, Codec] = MappingProxyType(
    {
        Dialect.CHAT: OpenAIChatCodec(),
        Dialect.RESPONSES: OpenAIResponsesCodec(),
        Dialect.MESSAGES: AnthropicMessagesCodec(),
    }
)
