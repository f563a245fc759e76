"""What the configuration's models say of their own keys: the text literal below each field.

Read from the source when somebody asks, for an error's mend or for `docs/settings.md`. pydantic can
collect the same while it makes the classes, by finding and parsing the source of each: 0.06 s of every
start, for text that a start which goes well never shows.
"""

from __future__ import annotations

import ast
import inspect
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import BaseModel


def said_of(model: type[BaseModel]) -> dict[str, str]:
    """What the source says of each key of `model`, its bases' keys included; without those of which it
    says nothing.
    """
    said: dict[str, str] = {}
    for each in reversed(model.__mro__):
        if each.__module__.split(".")[0] != "pydantic" and each.__name__ in _classes(each):
            said |= _documented(_classes(each)[each.__name__])
    return said


def _classes(one: type) -> dict[str, ast.ClassDef]:
    """The classes of the module that `one` is from."""
    module = sys.modules.get(one.__module__)
    if module is None or getattr(module, "__file__", None) is None:
        return {}
    body = ast.parse(inspect.getsource(module)).body
    return {each.name: each for each in body if isinstance(each, ast.ClassDef)}


def _documented(body: ast.ClassDef) -> dict[str, str]:
    said = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        match field, text:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(words))),
            ):
                said[name] = inspect.cleandoc(words)
            case _:
                pass
    return said
