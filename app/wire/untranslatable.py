"""Does an answer say more than its neutral form can hold? Judged by the vendor's bytes, in one pass.

Citations, annotations, log probabilities, audio, images and the vendor's own tools come unasked from some
models (those that search, for one) and are handed on as they came. Told in another dialect, streamed
instead of whole, or to other words of the same meaning, they would be lost in silence; so such an answer
is told again only as it came. Names inside a text do not match: their quotes are escaped there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_MORE = re.compile(
    rb'"(?:annotations?|citations?|search_results|logprobs|audio|images)"\s*:\s*'
    rb'(?:\[\s*[^\]\s]|\{\s*[^}\s]|"[^"]|true|\d)'
    rb'|"type"\s*:\s*"(?:citations_delta|server_tool_use|[a-z_]{1,40}_tool_result|mcp_[a-z_]{1,40}'
    rb"|(?!function_|custom_tool_)[a-z_]{1,40}_call)\""
)


def has_untranslatable_content(pieces: Iterable[bytes]) -> bool:
    """Whether the answer in ``pieces`` (a JSON body, or frames) holds what has no neutral form."""
    return _MORE.search(b"".join(pieces)) is not None
