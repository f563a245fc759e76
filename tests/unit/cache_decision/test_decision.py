"""A route's life: shadow, open, closed; and the same again after it was stored."""

from dataclasses import replace
from random import Random

import numpy as np
import pytest

from app.cache.bound import Limits
from app.cache.decision import CandidateView, Decision, QueryView, decide
from app.cache.route_archive import ArchiveError, dump, load
from app.cache.route_state import RouteState
from app.cache.text_view import analyse
from app.cache.token_weights import DIMENSIONS, TokenWeights
from app.cache.verifier import Idf, RouteVerifier
from app.learn.gbdt import Gbdt, GbdtParams

CITIES = ("oslo", "rome", "lima", "cairo", "delhi", "tokyo", "paris", "quito")
FORMS = (
    "what is the weather like in {}",
    "how is the weather in {}",
    "tell me the weather in {} please",
    "weather in {}",
    "what is the population of {}",
    "how many people live in {}",
    "population of {} please",
    "tell me the population of {}",
)


class Desk:
    """Generated traffic whose answers are known, and the entries stored so far."""

    def __init__(self, limits: Limits) -> None:
        self.rng = Random(11)
        self.state = RouteState(limits)
        self.stored: list[tuple[QueryView, str, float]] = []
        self.salt = ""
        self.now_s = 0.0

    def ask(self) -> tuple[QueryView, str]:
        form, city = self.rng.randrange(len(FORMS)), self.rng.choice(CITIES)
        text = FORMS[form].format(city) + self.rng.choice(["", "?", " now", " thanks", " hey"])
        features = np.zeros(64, dtype=np.float32)
        for word in text.replace("?", "").split():
            features[sum(word.encode()) % 64] += 1
        vector = features / np.linalg.norm(features)
        return QueryView(analyse(text), vector), f"{form // 4}{city}{self.salt}"

    def near(self, query: QueryView) -> list[CandidateView]:
        ranked = sorted(
            ((float(q.vector @ query.vector), i) for i, (q, *_) in enumerate(self.stored)),
            reverse=True,
        )
        return [
            CandidateView(str(i), self.stored[i][0].view, cos, *self.stored[i][1:])
            for cos, i in ranked[:8]
        ]

    def step(self) -> tuple[bool, bool]:
        """One request: (served, rightly)."""
        self.now_s += 1
        query, answer = self.ask()
        decision = decide(query, self.near(query), self.state, self.rng)
        if decision.serve:
            assert decision.candidate is not None
            return True, decision.candidate.answer_group == answer
        self.state.learn(query, answer, decision, at_s=self.now_s)
        if self.state.refit_due:
            self.state.refit()
        if len(self.stored) < 400:
            self.stored.append((query, answer, self.now_s))
        return False, False


@pytest.fixture(scope="module")
def desk() -> Desk:
    made = Desk(Limits.of(0.05))
    for _ in range(300):
        made.step()
    return made


def test_every_would_be_hit_is_checked_while_evidence_against_the_bound_mounts(desk):
    state = load(dump(desk.state, "b"), "b")
    assert state.mode == "open"
    state.audit_rate = 0.0
    state.drift.last_s = desk.now_s
    state.drift.reset()
    state.hits_since_informative = 0
    query = next(q for q, *_ in desk.stored if _decided(desk, state, q).serve)
    state.drift.wealth = [4.0] * len(state.drift.wealth)
    checked = _decided(desk, state, query)
    assert (checked.serve, checked.audit) == (False, True)
    state.drift.reset()
    state.hits_since_informative = 0
    assert _decided(desk, state, query).serve


def quiet(desk):
    """The desk's route with nothing that would make it ask the model about a hit."""
    state = load(dump(desk.state, "b"), "b")
    state.audit_rate, state.hits_since_informative = 0.0, 0
    state.drift.last_s = desk.now_s
    state.drift.reset()
    return state


def served_query(desk):
    """A kept question that the desk's route would be shown an answer to."""
    return next(q for q, *_ in desk.stored if _decided(desk, quiet(desk), q).serve)


def _decided(desk, state, query):
    return decide(query, desk.near(query), state, Random(1))


def test_a_question_in_words_that_the_evidence_lacks_is_asked_of_the_model(desk: Desk):
    state, query = quiet(desk), served_query(desk)
    assert state.threshold is not None
    assert _decided(desk, state, query).serve
    state.verifier.idf = Idf({}, 1)  # a route that never heard any of these words
    decision = _decided(desk, state, query)
    assert (decision.serve, decision.audit) == (False, False)
    assert "words" in decision.reasons[0]


def test_a_state_whose_models_knew_other_features_keeps_its_labels_and_serves_nothing(desk: Desk):
    state = quiet(desk)
    older = Gbdt.fit(np.eye(4), np.array([0.0, 1.0, 0.0, 1.0]), params=GbdtParams(loss="logistic"))
    tokens = TokenWeights(np.zeros(DIMENSIONS, dtype=np.float32), 0.0)
    state.verifier = RouteVerifier(state.verifier.idf, tokens, older, older)
    restored = load(dump(state, "b"), "b")
    assert restored.mode == "shadow"
    assert (restored.labels, len(restored.unbiased)) == (state.labels, len(state.unbiased))
    assert restored.refit_due


@pytest.mark.parametrize(("earlier", "suspected"), [(("b",), False), ((), True)])
def test_an_answer_that_was_there_already_tells_of_no_change_and_a_later_one_does(
    desk: Desk, earlier: tuple[str, ...], suspected: bool
) -> None:
    state, (query, *_) = quiet(desk), desk.stored[0]
    candidate = CandidateView("1", query.view, 0.9, "a")
    decision = Decision(
        serve=False, audit=True, candidate=candidate, score=0.9, probability=0.9, bound=0.1,
        reasons=("audited",), any_right=0.95, offered_groups=("a", "b"), earlier_groups=earlier,
    )  # fmt: skip
    state.learn(query, "b", decision, at_s=desk.now_s + 1)
    assert (state.drift.evidence > 2.0) is suspected


def test_earlier_answers_are_those_stored_before_the_candidate_s_was_last_given(desk: Desk) -> None:
    state, query = quiet(desk), served_query(desk)
    state.audit_rate = 1.0  # what is served needs no such comparison
    near = desk.near(query)
    old = [replace(c, answer_group="other", kept_s=0.0) for c in near[-2:]]
    new = [replace(c, answer_group="newer", kept_s=desk.now_s + 9) for c in near[-2:]]
    assert "other" in decide(query, [*near[:-2], *old], state, Random(1)).earlier_groups
    assert "newer" not in decide(query, [*near[:-2], *new], state, Random(1)).earlier_groups


def test_nothing_is_served_before_there_is_evidence():
    fresh = Desk(Limits.of(0.05))
    assert not any(fresh.step()[0] for _ in range(100))
    assert fresh.state.mode == "shadow"


def test_an_empty_store_is_a_miss_that_says_so():
    state = RouteState(Limits.of(0.05))
    decision = decide(Desk(state.limits).ask()[0], [], state, Random(1))
    assert decision.reasons == ("nothing similar is stored",)
    assert not decision.serve


def test_evidence_opens_the_route_and_hits_keep_the_bound(desk: Desk):
    assert desk.state.mode == "open"
    results = [desk.step() for _ in range(300)]
    hits = [right for served, right in results if served]
    assert len(hits) > 30
    assert hits.count(False) <= 0.25 * len(hits)
    assert hits.count(False) <= 0.05 * len(results)


def test_a_hit_says_its_score_and_its_evidence(desk: Desk):
    for _ in range(200):
        query, _ = desk.ask()
        decision = _decided(desk, quiet(desk), query)
        if decision.serve:
            assert decision.reasons[0].startswith("score ")
            assert "labelled questions" in decision.reasons[0]
            assert decision.bound <= desk.state.limits.per_hit
            return
    pytest.fail("no hit in 200 requests")


def test_a_stored_state_decides_as_it_did(desk: Desk):
    again = load(dump(desk.state, "build-1"), "build-1")
    assert again.mode == desk.state.mode
    for _ in range(20):
        query, _ = desk.ask()
        first = decide(query, desk.near(query), desk.state, Random(3))
        second = decide(query, desk.near(query), again, Random(3))
        assert first == second


def test_a_state_of_another_encoder_or_damaged_bytes_are_refused(desk: Desk):
    data = dump(desk.state, "build-1")
    with pytest.raises(ArchiveError):
        load(data, "build-2")
    for broken in (b"", b"nonsense", data[: len(data) // 2]):
        with pytest.raises(ArchiveError):
            load(broken, "build-1")


def shifted(desk: Desk, share: float = 1.0) -> Desk:
    """The same desk, where ``share`` of the cities have other answers from now on."""
    changed = Desk(desk.state.limits)
    changed.state = load(dump(desk.state, "b"), "b")
    changed.stored, changed.now_s = list(desk.stored), desk.now_s
    moved = CITIES[: round(share * len(CITIES))]
    asked = changed.ask

    def ask() -> tuple[QueryView, str]:
        query, answer = asked()
        return query, f"{answer} new" if answer[1:] in moved else answer

    changed.ask = ask
    return changed


def test_after_a_change_of_all_answers_nothing_old_is_served_and_the_route_earns_its_hits_anew(
    desk: Desk,
):
    changed = shifted(desk)
    alarmed = next((n for n in range(100) if changed.step() and changed.state.alarms), None)
    assert alarmed is not None
    assert changed.state.on_probation
    assert changed.state.mode == "open"
    assert all(q.answer_group.endswith("new") for q in changed.state.unbiased), (
        "old labels are gone"
    )
    results = [changed.step() for _ in range(400)]
    hits = [right for served, right in results if served]
    assert hits, "what is confirmed is served again"
    assert all(hits)


def test_after_a_change_of_half_the_answers_hits_keep_the_bound(desk: Desk):
    changed = shifted(desk, 0.5)
    results = [changed.step() for _ in range(500)]
    hits = [right for served, right in results if served]
    assert changed.state.alarms == 1
    assert len(hits) > 50
    assert hits.count(False) <= changed.state.limits.per_hit * len(hits)
    assert hits.count(False) <= changed.state.limits.per_request * len(results)


def test_suspicion_serves_what_was_confirmed_since_and_checks_the_rest(desk: Desk):
    state = load(dump(desk.state, "b"), "b")
    state.audit_rate, state.drift.last_s = 0.0, desk.now_s
    state.drift.reset()
    state.hits_since_informative = 0
    query = next(q for q, *_ in desk.stored if _decided(desk, state, q).serve)
    state.drift.wealth = [4.0] * len(state.drift.wealth)
    decision = _decided(desk, state, query)
    assert decision.audit
    state.confirmed_at_s[decision.candidate.answer_group] = desk.now_s + 1
    rng, served = Random(1), []
    for _ in range(100):
        state.hits_since_informative = 0
        served.append(decide(query, desk.near(query), state, rng).serve)
    assert 55 < sum(served) < 95, "most are served, some are watched"


def test_what_an_answer_has_become_is_served_where_the_old_one_was(desk: Desk):
    """One fresh answer to a question that was kept under another: the old ones speak for the new."""
    state, query = quiet(desk), served_query(desk)
    asked = Desk(state.limits)
    asked.stored = list(desk.stored)
    old = asked.near(query)[0].answer_group
    # Everything kept so far is from before a change.
    state.trusted_from_s = desk.now_s
    refused = _decided(asked, state, query)
    assert not refused.serve
    assert (refused.probability, refused.probability_if_unchanged > 0.85) == (0.0, True)
    state.learn(query, "new", refused, at_s=desk.now_s + 1)
    asked.stored.append((query, "new", desk.now_s + 1))
    assert state.current_group(old) == "new"
    state = load(dump(state, "b"), "b")
    state.drift.reset()
    others = (q for q, a, _ in desk.stored if a == old and q.view.text != query.view.text)
    hits = [d for d in (_decided(asked, state, q) for q in others) if d.serve]
    assert hits
    assert {d.candidate.answer_group for d in hits} == {"new"}
    # Given again, the old answer is itself.
    state.learn(query, old, refused, at_s=desk.now_s + 2)
    assert state.current_group(old) == old


def test_an_answer_that_became_two_is_nobodys(desk: Desk):
    state, query = quiet(desk), served_query(desk)
    state.trusted_from_s = desk.now_s
    refused = _decided(desk, state, query)
    old = refused.candidate.answer_group
    for fresh in ("one", "two"):
        state.learn(query, fresh, refused, at_s=desk.now_s + 1)
    assert state.current_group(old) == old


def test_where_everything_is_a_hit_one_is_asked_of_the_model_before_long(desk: Desk):
    state, query = quiet(desk), served_query(desk)
    most = 13  # at 5 % of requests
    assert all(_decided(desk, state, query).serve for _ in range(most))
    asked = _decided(desk, state, query)
    assert asked.audit
    state.learn(query, asked.candidate.answer_group, asked, at_s=desk.now_s)
    assert _decided(desk, state, query).serve


def test_a_second_alarm_in_a_row_closes_the_route_and_evidence_reopens_it(desk: Desk):
    changed = shifted(desk)
    while not changed.state.on_probation:
        changed.step()
    for _ in range(30):
        if changed.state.feedback("17", agreed=False):
            break
    assert changed.state.mode == "closed"
    assert not changed.state.on_probation
    assert changed.state.trusted_from_s == changed.now_s
    changed.stored.clear()
    for _ in range(250):
        changed.step()
    assert changed.state.mode == "open"


def test_a_user_saying_wrong_counts_against_the_entry_and_the_bound(desk: Desk):
    state = load(dump(desk.state, "b"), "b")
    needed = next((n for n in range(1, 60) if state.feedback("17", agreed=False)), None)
    assert needed is not None
    assert state.on_probation
    assert state.entries["17"].wrong >= 1


def test_verdicts_on_ever_other_entries_take_up_no_more_room():
    state = RouteState(Limits.of(0.05))
    for number in range(6_000):
        state.feedback(f"{number:032x}", agreed=number % 2 == 0)
    assert len(state.entries) <= 4_000
    assert state.entries[f"{5_999:032x}"].wrong == 1
