"""Instances obey their schema, whatever the seed."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from app.providers.simulator.json_instance import instance_of

SEEDS = st.binary(min_size=1, max_size=16)

PLAIN = st.one_of(
    st.fixed_dictionaries(
        {"type": st.just("integer")},
        optional={"minimum": st.integers(-50, 0), "maximum": st.integers(1, 50)},
    ),
    st.fixed_dictionaries(
        {"type": st.just("number")},
        optional={
            "exclusiveMinimum": st.integers(-50, 0),
            "exclusiveMaximum": st.integers(1, 50),
        },
    ),
    st.fixed_dictionaries({"type": st.just("integer"), "multipleOf": st.integers(1, 9)}),
    st.fixed_dictionaries(
        {"type": st.just("string")},
        optional={"minLength": st.integers(0, 30), "maxLength": st.integers(30, 60)},
    ),
    st.sampled_from(
        [
            {"type": "boolean"},
            {"type": "null"},
            {"type": ["string", "null"]},
            {"const": 5},
            {"enum": ["a", 1, None]},
            {"type": "string", "format": "date-time"},
            {},
        ]
    ),
)


def nested(children):
    return st.one_of(
        st.builds(
            lambda properties: {
                "type": "object",
                "properties": properties,
                "required": list(properties),
                "additionalProperties": False,
            },
            st.dictionaries(st.text("abc", min_size=1, max_size=3), children, max_size=4),
        ),
        st.builds(
            lambda items, least: {"type": "array", "items": items, "minItems": least},
            children,
            st.integers(0, 3),
        ),
        st.builds(lambda options: {"anyOf": options}, st.lists(children, min_size=1, max_size=3)),
    )


@given(st.recursive(PLAIN, nested, max_leaves=8), SEEDS)
def test_an_instance_obeys_its_schema(schema, seed):
    value = instance_of(schema, seed)
    Draft202012Validator(schema).validate(orjson.loads(orjson.dumps(value)))
    assert instance_of(schema, seed) == value


LIST = {"$ref": "#/$defs/node"}
RECURSIVE = {
    "type": "object",
    "properties": {"head": LIST},
    "required": ["head"],
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "value": {"type": "integer"},
                "next": {"anyOf": [LIST, {"type": "null"}]},
            },
            "required": ["value", "next"],
            "additionalProperties": False,
        }
    },
}
MERGED = {
    "allOf": [
        {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]},
        {"properties": {"b": {"type": "integer", "minimum": 3}}, "required": ["b"]},
    ]
}


@pytest.mark.parametrize("schema", [RECURSIVE, MERGED])
@given(seed=SEEDS)
def test_references_to_itself_end_and_parts_are_merged(schema, seed):
    Draft202012Validator(schema).validate(instance_of(schema, seed))


def test_seeds_make_different_instances():
    schema = {"type": "object", "properties": {"name": {"type": "string"}}}
    assert instance_of(schema, b"one") != instance_of(schema, b"two")
