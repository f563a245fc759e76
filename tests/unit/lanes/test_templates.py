from __future__ import annotations

import pytest

from app.lanes.rules import LaneRuleError
from app.lanes.templates import Skeleton, SkeletonCase, Skeletons, Slot

LETTER = Skeleton(
    "leave_letter",
    r"write a leave letter for (?P<who>\w+)",
    "Dear {who},\nI ask for leave because {reason}. {{ok}} {reason}",
    (Slot("reason", "a polite reason", 40),),
    (
        SkeletonCase(
            "Write a leave letter for Ann",
            "Dear Ann,\nI ask for leave because I am ill. {ok} I am ill",
            (("reason", "I am ill"),),
        ),
    ),
)


def test_a_skeleton_is_filled_from_the_request_and_by_one_call_for_all_open_slots():
    draft = Skeletons([LETTER]).match("write a leave letter for Bob")
    assert draft is not None
    assert draft.head == "Dear Bob,\nI ask for leave because "
    assert [slot.name for slot in draft.open_slots] == ["reason"]
    assert '"reason"' in draft.instruction()
    filled = draft.fill('{"reason": "I move house"}')
    assert filled == "Dear Bob,\nI ask for leave because I move house. {ok} I move house"


@pytest.mark.parametrize(
    "answer",
    ["", "no", "[]", "{}", '{"reason": 3}', '{"reason": " "}', '{"reason": "%s"}' % ("x" * 41)],
)
def test_an_answer_that_was_not_asked_for_fills_nothing(answer: str):
    draft = Skeletons([LETTER]).match("write a leave letter for Bob")
    assert draft is not None
    assert draft.fill(answer) is None


def test_a_skeleton_without_open_slots_is_complete_at_once():
    plain = Skeleton("plain", "ping", "pong", cases=(SkeletonCase("ping", "pong"),))
    draft = Skeletons([plain]).match("ping")
    assert draft is not None
    assert (draft.open_slots, draft.head, draft.render({})) == ((), "pong", "pong")


@pytest.mark.parametrize(
    ("skeleton", "reason"),
    [
        (Skeleton("a", "x", "{gone}"), "gone"),
        (Skeleton("a", "(?P<s>x)", "{s}", (Slot("s", "h"),)), "both"),
        (Skeleton("a", "x", "{s}", (Slot("s", "h", 0),)), "max_chars"),
        (Skeleton("a", "x", "y", cases=(SkeletonCase("x", "z"),)), "fails"),
        (Skeleton("a", "x(", "y"), "RE2"),
    ],
)
def test_a_faulty_skeleton_is_refused_at_load(skeleton: Skeleton, reason: str):
    with pytest.raises(LaneRuleError, match=reason):
        Skeletons([skeleton])


@pytest.mark.parametrize("text", ["", "write a leave letter for", "\ud800", "x" * 5000])
def test_anything_else_is_declined(text: str):
    assert Skeletons([LETTER]).match(text) is None
