"""Data URLs, in which OpenAI's dialects carry inline images and files."""

from __future__ import annotations

from app.errors import BadRequest


def read_data_url(url: str, path: str) -> tuple[str, str]:
    """The media type and the base64 text of a ``data:`` URL; raises ``BadRequest`` naming ``path``."""
    head, comma, data = url.partition(",")
    media_type, _, encoding = head[len("data:") :].partition(";")
    if not comma or not encoding.endswith("base64"):
        raise BadRequest(
            f"'{path}' must be a base64 data URL such as 'data:image/png;base64,...'.", param=path
        )
    return media_type, data


def write_data_url(media_type: str, data: str) -> str:
    """A ``data:`` URL of base64 text."""
    return f"data:{media_type};base64,{data}"
