"""What the short way through a schema lets pass, the validator lets pass."""

from __future__ import annotations

import jsonschema
from hypothesis import given, settings
from hypothesis import strategies as st

from app.tools.fast_schema_check import fast_check_for

WORDS = ["a", "b", "", "é"]
VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-2, 2)
    | st.floats(allow_nan=False)
    | st.sampled_from(WORDS)
    | st.lists(st.integers(), max_size=1)
)
INNER = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(
            ["string", "integer", "number", "boolean", "null", "array", "object"]
        )
        | st.just(["string", "null"]),
        "enum": st.lists(VALUES, min_size=1, max_size=3),
        "description": st.just("words"),
        "format": st.sampled_from(["date", "email"]),
        "minimum": st.just(1),
        "pattern": st.just("^a$"),
    },
)
SCHEMA = st.fixed_dictionaries(
    {"properties": st.dictionaries(st.sampled_from(WORDS), INNER, max_size=3)},
    optional={
        "type": st.sampled_from(["object", "string"]),
        "required": st.lists(st.sampled_from(WORDS), max_size=2, unique=True),
        "additionalProperties": st.booleans() | st.just({"type": "string"}),
        "minProperties": st.just(2),
        "title": st.just("t"),
    },
)


@settings(max_examples=500)
@given(SCHEMA, st.dictionaries(st.sampled_from(WORDS), VALUES, max_size=4))
def test_what_surely_fits_is_valid(schema, arguments):
    fits = fast_check_for(schema)
    if fits is not None and fits(arguments):
        assert jsonschema.Draft202012Validator(schema).is_valid(arguments)


def test_the_usual_schema_is_a_plain_one():
    fits = fast_check_for(
        {
            "type": "object",
            "properties": {
                "id": {"type": "string", "description": "Its number."},
                "unit": {"type": "string", "enum": ["C", "F"]},
                "days": {"type": "integer", "default": 1},
            },
            "required": ["id"],
        }
    )
    assert fits is not None
    assert fits({"id": "INC-1", "unit": "C", "days": 2})
    assert not fits({"unit": "C"})
    assert not fits({"id": "INC-1", "unit": "K"})
