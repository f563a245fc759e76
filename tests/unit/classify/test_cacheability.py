from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.classify import evergreen
from app.classify.cacheability import CacheabilityRules
from app.classify.evergreen import MAX_CHARS, EvergreenScorer
from app.classify.features import extract
from app.domain.decisions import Cacheability, PromptView

RULES = CacheabilityRules()


def judge(text: str, *, tools: bool = False):
    return RULES.judge(extract(PromptView(text=text, total_chars=len(text))), offers_tools=tools)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Cancel my order 1234", Cacheability.SIDE_EFFECT),
        ("please send an email to Bob", Cacheability.SIDE_EFFECT),
        ("Could you create a ticket for this?", Cacheability.SIDE_EFFECT),
        ("What is my account balance?", Cacheability.PERSONAL),
        ("how much vacation do I have left?", Cacheability.PERSONAL),
        ("What's the weather in Paris?", Cacheability.VOLATILE),
        ("Who won the latest Grand Prix?", Cacheability.VOLATILE),
        ("What is the price of gold?", Cacheability.VOLATILE),
        ("What is the capital of France?", Cacheability.STABLE),
        ("Who wrote Hamlet?", Cacheability.STABLE),
        ("Translate 'good day' into German", Cacheability.STABLE),
        ("Write a haiku about rain", Cacheability.STABLE),
        ("blue", Cacheability.UNKNOWN),
        ("", Cacheability.UNKNOWN),
    ],
)
def test_wording_tells_how_long_an_answer_holds(text: str, kind: Cacheability):
    assert judge(text).kind is kind


@pytest.mark.parametrize(
    "text",
    ["Cancel my order 1", "What is my balance?", "What's the weather?"],
)
def test_what_acts_is_personal_or_changes_is_not_kept(text: str):
    judged = judge(text)
    assert (judged.ttl_s, judged.semantic_ok) == (0, False)


def test_only_what_is_known_to_last_may_be_served_to_another_wording():
    assert judge("Who wrote Hamlet?").semantic_ok
    assert not judge("blue").semantic_ok
    assert not judge("Who is the mayor of Springfield?").semantic_ok


def test_an_unknown_answer_is_kept_as_configured():
    assert judge("blue").ttl_s is None


def test_an_answer_that_may_come_from_a_tool_is_never_called_stable():
    assert judge("Who wrote Hamlet?", tools=True).kind is Cacheability.UNKNOWN
    assert judge("Cancel my order 1", tools=True).kind is Cacheability.SIDE_EFFECT


def test_words_that_only_look_like_an_action_or_a_person_are_let_through():
    assert judge("Fix my code: print(1").kind is Cacheability.STABLE
    assert judge("What does 'to cancel' mean?").kind is not Cacheability.SIDE_EFFECT


@given(
    st.lists(
        st.sampled_from(
            [
                "who",
                "is",
                "the",
                "president",
                "current",
                "last",
                "season",
                "how",
                "many",
                "were",
                "there",
                "in",
                "1987",
                "when",
                "did",
                "win",
                "the",
                "cup",
                "is's",
                "what",
                "what's",
                "no.",
                "1",
                "capital",
                "of",
                "most",
                "of",
                "all",
                "time",
                "going",
                "to",
                "children",
                "in",
                "history",
            ]
        ),
        max_size=14,
    ).map(" ".join)
)
def test_all_cues_in_one_pass_are_those_found_one_by_one(text):
    scorer = EvergreenScorer(None)
    plain = text[:MAX_CHARS].lower()
    one_by_one = [cue(plain) is not None for cue in scorer._cues]
    assert [bool(value) for value in scorer.cues(text)[:-1]] == one_by_one


WORDINGS = (
    *(
        "is it",
        "it",
        "last",
        "the last",
        "name",
        "words",
        "since",
        "since 2019",
        "2019",
        "2024",
        "how old is",
    ),
    *(
        "how many",
        "are there",
        "have",
        "has",
        "been",
        "the",
        "CEO",
        "no. 1",
        "most-viewed",
        "still",
        "ago",
    ),
    *(
        "this year's",
        "did he last",
        "'s",
        "future",
        "record",
        "who is the",
        "president",
        "mean",
        "now",
    ),
)


@given(st.lists(st.sampled_from(WORDINGS), max_size=14), st.sampled_from(("", "?", " ? ", " é")))
def test_one_automaton_reads_what_each_wording_by_itself_reads(words: list[str], end: str):
    """The cues, and whether the wording says that the answer changes, are those of each pattern."""
    text = " ".join(words) + end
    plain = text.lower()
    cues, changes = EvergreenScorer(None)._read(text)
    assert [at for at, cue in enumerate(evergreen._CUES) if re.search(cue, plain)] == sorted(cues)
    pinned = re.search(evergreen._OLD_YEAR, plain)
    said = re.search("|".join(evergreen._CHANGE_CUES), plain.rstrip("? "))
    assert changes == (said is not None and pinned is None)


def test_a_reload_compiles_the_patterns_of_evergreen_questions_no_second_time():
    assert EvergreenScorer(None)._pattern_set is EvergreenScorer(None)._pattern_set
