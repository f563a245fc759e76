from __future__ import annotations

from app.classify.classifier import Classifier
from app.classify.features import extract
from app.classify.tool_need import ToolNeed
from app.domain.decisions import PromptView

TOOLS = ("get_ticket", "get_user", "check_permissions")
NEED = ToolNeed()


def estimate(text: str, need: ToolNeed = NEED, tools: tuple[str, ...] = TOOLS):
    view = PromptView(text=text, total_chars=len(text), tool_names=tools)
    return need.estimate(extract(view), view)


def test_the_tool_that_the_request_names_is_the_likeliest():
    need, _ = estimate("What is the state of ticket 17?")
    assert need[0][0] == "get_ticket"
    assert need[0][1] > need[-1][1]


def test_a_short_word_of_a_tools_name_must_stand_alone_and_a_long_one_may_go_on():
    tools = ("edit_tag", "list_tickets")
    named, _ = estimate("Set the tag, then see ticketing", tools=tools)
    unnamed, _ = estimate("Set the stage, then see the thicket", tools=tools)
    assert dict(named)["edit_tag"] > dict(unnamed)["edit_tag"]
    assert dict(named)["list_tickets"] > dict(unnamed)["list_tickets"]


def test_several_named_tools_mean_several_calls():
    _, one = estimate("Show ticket 17")
    _, several = estimate("Show ticket 17 and also the user and their permissions")
    assert several > one


def test_no_tools_offered_means_none_needed():
    assert estimate("Show ticket 17", tools=()) == ((), 0.0)


def test_live_data_reads_like_a_tool_and_small_talk_does_not():
    def any_tool(text: str) -> float:
        return NEED.any_tool(extract(PromptView(text=text)))

    live = any_tool("Can you find me the cheapest flight from Berlin to Rome next Friday?")
    talk = any_tool("How do I stop feeling nervous before giving a speech?")
    assert live > 0.5 > talk


def test_what_was_called_before_becomes_what_is_expected():
    need = ToolNeed()
    before = dict(estimate("hello", need)[0])["get_user"]
    for _ in range(50):
        need.observe(TOOLS, ("get_user", "get_user"))
    after, several = estimate("hello", need)
    assert after[0][0] == "get_user"
    assert dict(after)["get_user"] > before
    assert several > 0.8


def test_the_counts_are_bounded_and_ignore_what_was_not_offered():
    need = ToolNeed()
    need.observe((), ("a",))
    need.observe(("a",), ("b",))
    for at in range(1500):
        need.observe((f"tool{at}",), ())
    assert len(need._agents) == 1000


def test_the_classifier_reports_all_of_it_in_words():
    judged = Classifier().classify(PromptView(text="Who wrote Hamlet?", total_chars=17))
    assert "complexity" in judged.reason
    assert "lasting" in judged.reason
