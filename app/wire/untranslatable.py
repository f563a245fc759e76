"""Detect content of an answer that has no neutral form, in one pass over the vendor's bytes.

Some models send citations, annotations, log probabilities, audio, images and vendor-side tool calls unasked
(those that search, for example), and they are passed through. In another dialect, streamed instead of whole,
or as a semantic hit they would be lost silently, so a cached answer with such content is only replayed in its
original form. Names inside text do not match, because quotes are escaped there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_PATTERN = re.compile(
    rb'"(?:annotations?|citations?|search_results|logprobs|audio|images)"\s*:\s*'
    rb'(?:\[\s*[^\]\s]|\{\s*[^}\s]|"[^"]|true|\d)'
    rb'|"type"\s*:\s*"(?:citations_delta|server_tool_use|[a-z_]{1,40}_tool_result|mcp_[a-z_]{1,40}'
    rb"|(?!function_|custom_tool_)[a-z_]{1,40}_call)\""
)


def has_untranslatable_content(pieces: Iterable[bytes]) -> bool:
    """Whether the answer in ``pieces`` (a JSON body, or frames) has content without a neutral form."""
    return _PATTERN.search(b"".join(pieces)) is not None
