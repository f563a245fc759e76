"""Replace one value somewhere in a JSON document."""

from __future__ import annotations

from collections.abc import Iterator

Path = tuple[str | int, ...]


def places(value: object, path: Path = ()) -> Iterator[Path]:
    """Every place in a JSON value, the whole first."""
    yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from places(inner, (*path, index))


def replaced(value: object, path: Path, new: object) -> object:
    """``value`` with ``new`` at ``path``; what is not on the path is shared."""
    if not path:
        return new
    head, *rest = path
    if isinstance(value, dict):
        return {**value, head: replaced(value[head], tuple(rest), new)}
    assert isinstance(value, list)
    assert isinstance(head, int)
    return [*value[:head], replaced(value[head], tuple(rest), new), *value[head + 1 :]]
