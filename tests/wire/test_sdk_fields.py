"""No field that an official client can say is lost without a word on its way to another dialect."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.wire.sdk_fields import UNKNOWN, WAYS, fates, table

DECIDED = Path(__file__).with_name("sdk_fields.txt")
SAYS_NOTHING = {
    "stream=False": "asks for what happens anyway",
    "service_tier=auto": "likewise",
    "speed=standard": "likewise",
    "truncation=disabled": "likewise",
    "modalities[]=text": "likewise",
    "reasoning<Reasoning>.mode=standard": "likewise",
    "reasoning<Reasoning>.context=auto": "likewise",
    "verbosity=medium": "likewise",
    "response_format<text>": "likewise",
    "format<text>": "likewise",
    "detail=auto": "likewise",
    "content[]<text>": "a text by itself is the same as a list with it",
    "content[]<input_text>": "likewise",
    "output[]<input_text>": "likewise",
    "content[]<refusal>": "the other vendor has no field for a refusal; it is said as text",
    "caller<direct>": "a call of the model itself, as all are there",
    "allowed_callers[]=direct": "likewise",
    "thinking<adaptive>": "models that reason by effort decide by themselves",
    "mode": "of a mark there is one mode",
    "source<base64>.media_type": "one value",
    "source<text>.media_type": "one value",
}
SAID_OTHERWISE = {
    "include_usage": "the writer of the client's own stream does it",
    "budget_tokens": "one of three words of effort; both numbers tried are the same one",
    "json_schema<JSONSchema>.name": "a label that the other API has no schema without, and no place for",
    "format<json_schema>.name": "likewise",
    "json_schema<JSONSchema>.strict": "formats always bind there",
    "format<json_schema>.strict": "likewise",
    ".status": "the vendor's own note about what it once said",
    ".status=in_progress": "likewise",
    ".status=completed": "likewise",
    ".status=incomplete": "likewise",
    "<ResponseOutputMessageParam>.id": "the vendor's own number of it",
    "<function_call>.id": "likewise; calls and results find each other by call_id",
    "<function_call_output>.id": "likewise",
    "<input_image>.detail": "told by name, whichever it is",
}
"""Ends of places whose value is no part of the other body, each with the reason why nothing is lost."""


@pytest.mark.parametrize(("source", "target", "model"), WAYS, ids=lambda each: str(each)[:20])
def test_nothing_is_lost_without_a_word(source, target, model):
    harmless = (*SAYS_NOTHING, *SAID_OTHERWISE)
    lost = [place for place, fate in fates(source, target, model).items() if fate == "LOST"]
    assert not [place for place in lost if not place.endswith(harmless)]


@pytest.mark.parametrize(("source", "target", "model"), WAYS, ids=lambda each: str(each)[:20])
def test_what_no_version_knows_yet_is_refused_by_its_name_wherever_it_stands(source, target, model):
    for place, fate in fates(source, target, model).items():
        if place.endswith(UNKNOWN) and fate != "carried":
            # By its own name, or by that of the object that says something with it alone.
            named = fate.removeprefix("refused: ").rsplit(".", 1)[-1].split("[")[0]
            assert named == UNKNOWN or f".{named}<" in f".{place}", (place, fate)


def test_each_refusal_names_the_field_or_what_holds_it():
    for line in table().splitlines():
        place, refused, param = line.partition(": refused: ")
        if refused:
            assert re.split(r"[\[.]", param)[0] == re.split(r"[\[<.=]", place)[0], line


def test_what_becomes_of_every_field_was_decided():
    """A client's version with a new field fails here until somebody decided, and made the table anew."""
    assert table().splitlines() == DECIDED.read_text(encoding="utf-8").splitlines()
