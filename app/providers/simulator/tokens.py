"""How the simulator counts tokens, by one simple rule that a reader can redo by hand.

What goes in is counted by size, because prompts are long and counting must stay cheap: one token
for every four bytes of UTF-8, rounded up, at least one. What comes out is counted by piece, because
a stream must be cut somewhere: a piece is up to six word characters with the space before them, one
mark of punctuation, or white space. On English prose the two rules differ by less than a quarter.
"""

from __future__ import annotations

import re

IMAGE_TOKENS = 1_000
"""What an image or a document counts for, whatever its size: near the vendors' usual bill."""

_BYTES_PER_TOKEN = 4
_PIECE = re.compile(r" ?\w{1,6}| ?[^\w\s]|\s+")


def count_tokens(text: str | bytes) -> int:
    """The tokens of a prompt's text: a quarter of its bytes, rounded up, and never 0."""
    size_bytes = len(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text)
    return max(1, -(-size_bytes // _BYTES_PER_TOKEN))


def pieces(text: str) -> tuple[str, ...]:
    """Cut an answer into the tokens that are streamed; joined they are the text again."""
    return tuple(_PIECE.findall(text))
