"""Whatever a tool's schema and a call's arguments are, checking them ends soon and in words for the model."""

from __future__ import annotations

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.tools import ToolSpec
from app.errors import ToolError
from app.tools.registry import RegisteredTool
from app.tools.validation import ArgumentValidator, SchemaFault


def refusal(schema: dict[str, object], arguments: object) -> ToolError:
    """What the model is told."""
    with pytest.raises(ToolError) as told:
        RegisteredTool(ToolSpec("t", parameters=schema), None).checked(json.dumps(arguments))  # type: ignore[arg-type]
    return told.value


def of(inner: dict[str, object]) -> dict[str, object]:
    """A schema whose property ``a`` is ``inner``."""
    return {"type": "object", "properties": {"a": inner}}


TREE = {
    "$defs": {"n": {"type": "object", "additionalProperties": {"$ref": "#/$defs/n"}}},
    "$ref": "#/$defs/n",
}


def nested(levels: int) -> str:
    return '{"a":' * levels + "{}" + "}" * levels


@pytest.mark.parametrize("levels", [300, 10_000])
@pytest.mark.parametrize("schema", [TREE, {"type": "object"}, of({"type": "object"}), of({})])
def test_arguments_of_any_depth_are_refused_or_fit(levels, schema):
    registered = RegisteredTool(ToolSpec("t", parameters=schema), None)  # type: ignore[arg-type]
    with contextlib.suppress(ToolError):
        registered.checked(nested(levels))


def test_arguments_beyond_a_megabyte_are_refused_before_they_are_read():
    error = refusal(of({"type": "string"}), {"a": "x" * (2 << 20)})
    assert error.code == "tool_arguments"
    assert "long" in error.message


@pytest.mark.parametrize(
    "pattern", ["^(a+)+$", "^(a|a)*$", "(.*a){25}$", "^(([a-z])+.)+[A-Z]([a-z])+$"]
)
def test_a_pattern_takes_no_longer_than_the_text_is_long(pattern):
    """With a backtracking engine each of these outlives the test."""
    schema = of({"type": "string", "pattern": pattern})
    assert refusal(schema, {"a": "a" * 5_000 + "!"}).code == "tool_arguments"
    names = {"type": "object", "patternProperties": {pattern: {"type": "integer"}}}
    RegisteredTool(ToolSpec("t", parameters=names), None).check({"a" * 5_000 + "!": "text"})  # type: ignore[arg-type]


def test_many_items_are_told_apart_in_one_pass():
    schema = of({"type": "array", "uniqueItems": True})
    items: list[object] = [{"n": n} for n in range(20_000)]
    RegisteredTool(ToolSpec("t", parameters=schema), None).check({"a": items})  # type: ignore[arg-type]
    assert "unique" in refusal(schema, {"a": [*items, {"n": 7}]}).message


@pytest.mark.parametrize(
    ("inner", "value"),
    [
        ({"$ref": "#/nowhere"}, 1),
        ({"$ref": "#/properties/a"}, 1),
        ({"$dynamicRef": "#nowhere"}, 1),
        ({"multipleOf": 0.0001}, 1e308),
    ],
    ids=str,
)
def test_a_schema_that_cannot_be_judged_by_is_a_typed_refusal(inner, value):
    assert refusal(of(inner), {"a": value}).code in {"tool_arguments", "tool_schema"}


@pytest.mark.parametrize(
    "schema",
    [
        of({"type": "strnig"}),
        of({"pattern": "("}),
        of({"pattern": 5}),
        {"type": "object", "properties": 5},
        {"type": "object", "required": 5},
        {"type": "object", "patternProperties": {"(": {}}},
        of({"items": [{"pattern": "(?<"}]}),
    ],
    ids=str,
)
def test_what_is_no_schema_is_told_when_it_is_read(schema):
    with pytest.raises(SchemaFault):
        ArgumentValidator(schema)


def test_a_pattern_that_only_backtracking_can_match_is_judged_where_it_cannot_run_away():
    fits = ArgumentValidator(of({"pattern": "^(?!\\.\\.).*$"}))
    fits.check({"a": "x"})
    with pytest.raises(ToolError):
        fits.check({"a": "..x"})
    with pytest.raises(SchemaFault, match="look-around"):
        ArgumentValidator(of({"pattern": "^(?=(a+)+$)b"}))


def test_no_reference_is_ever_fetched(tmp_path):
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        inside = f"http://127.0.0.1:{server.server_port}/latest/meta-data"
        file = tmp_path / "secret.json"
        file.write_text('{"const": 5}')
        for reference in (inside, file.as_uri()):
            assert refusal(of({"$ref": reference}), {"a": 1}).code == "tool_schema"
        assert asked == []
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-3, 3) | st.sampled_from("ab"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner),
    max_leaves=6,
)
INNER = st.fixed_dictionaries(
    {},
    optional={
        "uniqueItems": st.booleans(),
        "pattern": st.sampled_from(["^a$", "b", "[ab]+", "^(?!a)"]),
        "patternProperties": st.just({"^a": {"type": "integer"}}),
        "additionalProperties": st.booleans(),
        "anyOf": st.just([{"type": "string"}, {"type": "array"}, {"type": "object"}]),
    },
)


@settings(max_examples=400)
@given(INNER, VALUES)
def test_our_keywords_judge_as_the_library_s_do(inner, value):
    schema = of(inner)
    try:
        ArgumentValidator(schema).check({"a": value})
        fits = True
    except ToolError:
        fits = False
    assert fits == jsonschema.Draft202012Validator(schema).is_valid({"a": value})
