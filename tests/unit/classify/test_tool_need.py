from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from app.classify.classifier import Classifier
from app.classify.features import extract
from app.classify.tool_need import ToolNeed
from app.domain.decisions import PromptView

TOOLS = ("get_ticket", "get_user", "check_permissions")
NEED = ToolNeed()


def judged(text: str, need: ToolNeed = NEED, tools: tuple[str, ...] = TOOLS, **more):
    view = PromptView(text=text, total_chars=len(text), tool_names=tools, **more)
    return need.estimate(extract(view), view)


def estimate(text: str, need: ToolNeed = NEED, tools: tuple[str, ...] = TOOLS):
    return judged(text, need, tools)[:2]


def teach(
    need: ToolNeed, *called: str, text: str = "hello", times: int = 1, tenant: str = "", **more
):
    """The same answer, again and again."""
    view = PromptView(text=text, total_chars=len(text), tool_names=TOOLS)
    for _ in range(times):
        guess = need.estimate(extract(view), view, tenant)[2]
        assert guess is not None
        need.observe(guess, called, **more)


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
        return NEED.any_tool_probability(extract(PromptView(text=text)))

    live = any_tool("Can you find me the cheapest flight from Berlin to Rome next Friday?")
    talk = any_tool("How do I stop feeling nervous before giving a speech?")
    assert live > 0.5 > talk


def test_what_was_called_before_becomes_what_is_expected():
    need = ToolNeed()
    before = dict(estimate("hello", need)[0])["get_user"]
    teach(need, "get_user", "get_user", times=50)
    after, several = estimate("hello", need)
    assert after[0][0] == "get_user"
    assert dict(after)["get_user"] > before
    assert several > 0.8


def test_a_tool_that_is_always_called_is_all_but_certain_and_one_that_never_is_is_not():
    need = ToolNeed()
    teach(need, "get_user", times=19)
    assert dict(estimate("hello", need)[0])["get_user"] < 0.95  # too few to be that sure
    teach(need, "get_user", times=31)
    after = dict(estimate("hello", need)[0])
    assert after["get_user"] >= 0.95
    assert after["get_ticket"] < 0.05


def test_a_requests_words_still_tell_after_a_thousand_others():
    need = ToolNeed()
    for _ in range(300):
        teach(need, "get_ticket")
        teach(need, times=2)
    plain = dict(estimate("hello", need)[0])["get_ticket"]
    named = dict(estimate("What is the state of ticket 17?", need)[0])["get_ticket"]
    assert 0.2 < plain < 0.45
    assert named > plain + 0.3


def test_an_agent_that_behaves_otherwise_is_learned_anew():
    need = ToolNeed()
    teach(need, "get_user", times=1_000)
    assert dict(estimate("hello", need)[0])["get_user"] >= 0.95
    teach(need, times=10)
    assert dict(estimate("hello", need)[0])["get_user"] < 0.5
    teach(need, "get_ticket", times=60)
    after = dict(estimate("hello", need)[0])
    assert after["get_ticket"] > 0.9
    assert after["get_user"] < 0.1


def test_many_answers_to_guesses_made_before_any_of_them_teach_as_one_after_another():
    one_by_one, at_once = ToolNeed(), ToolNeed()
    teach(one_by_one, "get_user", times=30)
    guess = judged("hello", at_once)[2]
    assert guess is not None
    for _ in range(30):
        at_once.observe(guess, ("get_user",))
    assert estimate("hello", at_once)[0] == estimate("hello", one_by_one)[0]


def test_another_tenants_requests_teach_nothing():
    need = ToolNeed()
    teach(need, "get_user", times=50, tenant="a")
    view = PromptView(text="hello", tool_names=TOOLS)
    assert need.estimate(extract(view), view, "b")[:2] == estimate("hello", ToolNeed())
    assert need.estimate(extract(view), view, "a")[0][0][1] >= 0.95


def test_what_follows_a_tools_result_is_another_kind_of_request():
    need = ToolNeed()
    teach(need, "get_user", times=50)
    after = judged("hello", need, after_tool_result=True)
    assert after[:2] == judged("hello", ToolNeed(), after_tool_result=True)[:2]


def test_who_may_call_one_tool_at_a_time_says_nothing_of_several():
    need = ToolNeed()
    teach(need, "get_user", times=50, several_allowed=False)
    agents = list(need._agents.values())
    assert agents[0].odds[-1] == 1.0


def test_the_state_is_bounded_and_what_was_not_offered_is_ignored():
    need = ToolNeed()
    guess = judged("hi", need, ("a",))[2]
    assert guess is not None
    need.observe(guess, ("b",))
    assert judged("hi", need, ("a",))[0][0][1] < guess.calls[0]
    for at in range(1500):
        one = judged("hi", need, (f"tool{at}",))[2]
        assert one is not None
        need.observe(one, ())
    assert len(need._agents) == 1000
    many = judged("hi", need, tuple(f"tool{at}" for at in range(129)))[2]
    assert many is not None
    need.observe(many, ("tool1",))
    assert many.agent not in need._agents


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=400))
@settings(max_examples=30, deadline=None)
def test_whatever_is_called_a_probability_stays_one(calls: list[tuple[bool, bool]]):
    need = ToolNeed()
    guess = judged("Show ticket 17 and the user", need)[2]
    assert guess is not None
    for ticket, user in calls:
        need.observe(guess, ("get_ticket",) * ticket + ("get_user",) * user)
    shares, several = estimate("Show ticket 17 and the user", need)
    assert all(0 < share < 1 for _, share in shares)
    assert 0 < several < 1
    assert [share for _, share in shares] == sorted((share for _, share in shares), reverse=True)


def test_the_classifier_reports_all_of_it_in_words():
    judged = Classifier().classify(PromptView(text="Who wrote Hamlet?", total_chars=17))
    assert "complexity" in judged.reason
    assert "lasting" in judged.reason
