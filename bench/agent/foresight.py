"""Speculation on recorded dialogues: how much tool time it hides, and how many calls it wastes.

Each dialogue's calls are made one after another, as the model of the trace made them, by one agent;
before each the predictors of the product see what that model could read: the user's words, the calls
so far and their results. Latencies are seeded; the model takes its time to decide. They
start with nothing and learn as they go, dialogues in a seeded order: what they are judged on they have
never seen. Beside the whole stream, its second half is told alone: the first is history then.

Only tools that read are started early, and what was started is thrown away when a call changes
something. So there is a ceiling, printed beside what was reached: what a guesser hides that knows every
call of the trace and starts each that reads as soon as nothing will be changed before it, however far
the model is (so a chain of reads is hidden as a whole). The share of tool time that belongs to calls
that read (``reading_share``) is what even a model that thinks for ever leaves to be hidden.
"""

from __future__ import annotations

import json
import math
import random
import statistics
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from app.domain.speculation import (
    MIN_OUTCOMES,
    MIN_PROBABILITY,
    Patterns,
    Prediction,
    WasteBudget,
    call_identity,
    is_worth_starting,
)
from app.learn.argument_sources import ConversationState, PastCall
from app.learn.next_calls import NextCallModel, PredictedCall, SpeculativeTool
from app.pipeline.speculation import stage_of
from bench.agent.environment import TRACED, TRACED_ALONE, python_with

SETTINGS = {"model 1.0 s, tools 0.8 s": (1.0, 0.8), "model 3.0 s, tools 1.83 s": (3.0, 1.83)}
"""Medians: the harder one, and that of the before and after that this project was asked for."""
SEEDS = 5
VALUE_USD_PER_S = 0.002
COST_USD = 1e-4
MAX_WASTE = 0.1
_READS = frozenset(
    {
        "cat", "diff", "du", "find", "grep", "ls", "pwd", "sort", "tail", "wc",
        "get_account_info", "get_available_stocks", "get_current_time", "get_order_details",
        "get_order_history", "get_stock_info", "get_symbol_by_name", "get_transaction_history",
        "get_watchlist", "filter_stocks_by_price", "trading_get_login_status",
        "compute_exchange_rate", "get_all_credit_cards", "get_booking_history",
        "get_budget_fiscal_year", "get_credit_card_balance", "get_flight_cost",
        "get_nearest_airport_by_city", "list_all_airports", "retrieve_invoice",
        "travel_get_login_status", "verify_traveler_information", "check_tire_pressure",
        "displayCarStatus", "display_log", "estimate_distance",
        "estimate_drive_feasibility_by_mileage", "find_nearest_tire_shop", "gallon_to_liter",
        "get_current_speed", "get_outside_temperature_from_google",
        "get_outside_temperature_from_weather_com", "get_zipcode_based_on_city",
        "liter_to_gallon", "get_ticket", "get_user_tickets", "ticket_get_login_status",
        "get_message_stats", "get_user_id", "list_users", "message_get_login_status",
        "search_messages", "view_messages_sent", "get_tweet", "get_tweet_comments",
        "get_user_stats", "get_user_tweets", "list_all_following", "posting_get_login_status",
        "search_tweets", "absolute_value", "add", "divide", "imperial_si_conversion",
        "logarithm", "max_value", "mean", "min_value", "multiply", "percentage", "power",
        "round_number", "si_unit_conversion", "square_root", "standard_deviation", "subtract",
        "sum_values",
    }
)  # fmt: skip
"""Those whose documentation says that they change nothing: what an operator would flag."""


@dataclass(frozen=True, slots=True)
class Dialogue:
    """One conversation: for each turn what the user wrote and the calls that were made."""

    offered: tuple[str, ...]
    turns: tuple[tuple[str, tuple[PastCall, ...]], ...]


@dataclass(slots=True)
class Told:
    """What one replay came to, and what could have been at best."""

    calls: int = 0
    fired: int = 0
    hits: int = 0
    wasted: int = 0
    tool_s: float = 0.0
    reading_s: float = 0.0
    hidden_s: float = 0.0
    ceiling_s: float = 0.0
    squared: float = 0.0
    predictions: int = 0

    def figures(self) -> dict[str, float]:
        """Shares of all tool time, of that which may be hidden, and of calls."""
        return {
            "calls": self.calls,
            "fired": self.fired,
            "hits": self.hits,
            "hidden_share": self.hidden_s / max(self.tool_s, 1e-9),
            "hidden_of_reading": self.hidden_s / max(self.reading_s, 1e-9),
            "reading_share": self.reading_s / max(self.tool_s, 1e-9),
            "ceiling_share": self.ceiling_s / max(self.tool_s, 1e-9),
            "wasted_share": self.wasted / max(self.calls, 1),
            "brier": self.squared / max(self.predictions, 1),
        }


def foresight(
    dialogues: Sequence[Dialogue], tools: Mapping[str, SpeculativeTool], seeds: int = SEEDS
) -> dict[str, dict[str, float]]:
    """Replay under each setting in each seeded order; medians, with the least and the most."""
    found: dict[str, dict[str, float]] = {}
    for name, (decide_s, tool_s) in SETTINGS.items():
        both = [_replayed(dialogues, tools, seed, decide_s, tool_s) for seed in range(seeds)]
        for part, which in (("whole stream", 0), ("second half", 1)):
            rows = [pair[which].figures() for pair in both]
            told = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
            for edge, choose in (("least", min), ("most", max)):
                told[f"hidden_{edge}"] = choose(row["hidden_share"] for row in rows)
            told["wasted_most"] = max(row["wasted_share"] for row in rows)
            found[f"{name}, {part}"] = told
    return found


def _replayed(
    dialogues: Sequence[Dialogue],
    tools: Mapping[str, SpeculativeTool],
    seed: int,
    decide_s: float,
    tool_s: float,
) -> tuple[Told, Told]:
    """The whole stream, and its second half alone."""
    draw = random.Random(seed)
    order = list(range(len(dialogues)))
    draw.shuffle(order)
    replay = _Replay(NextCallModel(), tools, draw, decide_s, tool_s)
    whole, half = Told(), Told()
    for position, index in enumerate(order):
        replay.told = [whole, half] if position >= len(order) // 2 else [whole]
        replay.dialogue(dialogues[index])
    return whole, half


@dataclass(slots=True)
class _Perfect:
    """The run of a user turn under a guesser that is never wrong."""

    decide_s: float
    clock_s: float = 0.0
    unchanged_since_s: float = 0.0

    def hides(self, took_s: float, *, reads: bool) -> float:
        """The seconds hidden of the next call."""
        asked_s = self.clock_s + self.decide_s
        hidden_s = min(took_s, asked_s - self.unchanged_since_s) if reads else 0.0
        self.clock_s = asked_s + took_s - hidden_s
        if not reads:
            self.unchanged_since_s = self.clock_s
        return hidden_s


@dataclass(slots=True)
class _Replay:
    learned: NextCallModel
    tools: Mapping[str, SpeculativeTool]
    draw: random.Random
    decide_s: float
    tool_s: float
    told: list[Told] = field(default_factory=list)
    stages: dict[str, Patterns] = field(default_factory=dict)
    budget: WasteBudget = field(default_factory=WasteBudget)
    perfect: _Perfect = field(init=False)

    def dialogue(self, dialogue: Dialogue) -> None:
        """Play one conversation, turn by turn."""
        may = [self.tools[name] for name in dialogue.offered if name in _READS & set(self.tools)]
        earlier: list[str] = []
        before: list[PastCall] = []
        for said, calls in dialogue.turns:
            self._turn(ConversationState(said, tuple(earlier), tuple(before)), calls, may)
            earlier.append(said)
            before += calls

    def _turn(
        self, scene: ConversationState, calls: Sequence[PastCall], may: Sequence[SpeculativeTool]
    ) -> None:
        clock_s = 0.0
        self.perfect = _Perfect(self.decide_s)
        drafts: dict[str, tuple[float, float]] = {}
        points = []
        for number in range(len(calls) + 1):
            now = ConversationState(
                scene.user_text,
                scene.earlier_user_texts,
                scene.earlier_calls,
                tuple(calls[:number]),
            )
            point = self.learned.predict(now, may)
            points.append((point, calls[number:]))
            predicted, learn = self._templates(now, may)
            likely: list[Prediction | PredictedCall] = [*predicted]
            likely += [each for each in point.predictions if each.p >= self.learned.min_p]
            for each in sorted(likely, key=lambda each: -each.p):
                if each.key not in drafts and self._may_fire(each.p):
                    drafts[each.key] = (clock_s, each.p)
                    self.budget.reserve(each.p)
                    self._count("fired")
            learn(calls[number : number + 1])
            if number < len(calls):
                clock_s = self._call(calls[number], clock_s + self.decide_s, drafts)
        self._waste(drafts)
        schemas = {name: tool.parameters for name, tool in self.tools.items()}
        changes = {each.tool for each in calls} - _READS
        for foreseen, right in self.learned.learn(points, schemas, changes, MAX_WASTE):
            for told in self.told:
                told.predictions += 1
                told.squared += (foreseen.p - right) ** 2
        if self.learned.fit_due:
            self.learned.fit()

    def _templates(
        self, scene: ConversationState, may: Sequence[SpeculativeTool]
    ) -> tuple[list[Prediction], Callable[[Sequence[PastCall]], None]]:
        """What the templates of this stage foresee, and how they are told what was called."""
        last = scene.calls[-1:]
        patterns = self.stages.setdefault(stage_of([each.tool for each in last]), Patterns())
        text = "\n".join(json.dumps(each.result) for each in last) if last else scene.user_text
        predicted = patterns.predict(text, [tool.name for tool in may])

        def learn(called: Sequence[PastCall]) -> None:
            calls = [(each.tool, dict(each.arguments)) for each in called]
            patterns.learn(text, predicted, calls)

        tried = [
            each for each in predicted if each.tries >= MIN_OUTCOMES and each.p >= MIN_PROBABILITY
        ]
        return tried, learn

    def _call(
        self, call: PastCall, asked_s: float, drafts: dict[str, tuple[float, float]]
    ) -> float:
        """One call of the model's, asked at ``asked_s``; when it is over."""
        took_s = self.draw.lognormvariate(math.log(self.tool_s), 0.6)
        key = call_identity(call.tool, dict(call.arguments))
        hidden_s = 0.0
        if key in drafts:
            began_s, p = drafts.pop(key)
            hidden_s = min(took_s, asked_s - began_s)
            self.budget.settle(p, right=True)
            self._count("hits")
        self.budget.add_call(MAX_WASTE)
        reads = call.tool in _READS
        could_s = self.perfect.hides(took_s, reads=reads)
        for told in self.told:
            told.calls += 1
            told.tool_s += took_s
            told.hidden_s += hidden_s
            told.ceiling_s += could_s
            told.reading_s += took_s * reads
        if not reads:
            self._waste(drafts)
        return asked_s + took_s - hidden_s

    def _may_fire(self, p: float) -> bool:
        return self.budget.allows(p) and is_worth_starting(
            p, COST_USD, VALUE_USD_PER_S, min(self.decide_s, self.tool_s)
        )

    def _waste(self, drafts: dict[str, tuple[float, float]]) -> None:
        """What was not called is thrown away."""
        self._count("wasted", len(drafts))
        for _, p in drafts.values():
            self.budget.settle(p, right=False)
        drafts.clear()

    def _count(self, what: str, count: int = 1) -> None:
        for told in self.told:
            setattr(told, what, getattr(told, what) + count)


def there(folder: str) -> bool:
    """Whether ``folder`` has the multi-turn traces and their tools' documentation."""
    wanted = (
        "bfcl_BFCL_v4_multi_turn_base.json",
        "bfcl_possible_answer_BFCL_v4_multi_turn_base.json",
        "bfcl_multi_turn_func_doc",
    )
    return bool(folder) and all(Path(folder, name).exists() for name in wanted)


def dialogues(folder: str = "") -> list[Dialogue]:
    """The multi-turn traces of ``folder`` with the results of their calls; of the whole set, as the
    package has it that made them, where no folder is given.

    Raises ``UnavailableError`` where the simulated tools that made them cannot be installed.
    """
    python = python_with("bfcl", TRACED, TRACED_ALONE)
    script = Path(__file__).with_name("traced.py")
    done = subprocess.run([str(python), str(script), folder], capture_output=True, check=True)
    found = []
    for row in json.loads(done.stdout):
        turns = [
            (turn["said"], tuple(PastCall(**call) for call in turn["calls"]))
            for turn in row["turns"]
        ]
        found.append(Dialogue(tuple(row["offered"]), tuple(turns)))
    return found


def documented(folder: str) -> dict[str, SpeculativeTool]:
    """The tools as their documentation declares them, by name."""
    found: dict[str, SpeculativeTool] = {}
    for file in sorted(Path(folder, "bfcl_multi_turn_func_doc").glob("*.json")):
        for line in file.read_text(encoding="utf-8").splitlines():
            tool = json.loads(line)
            about = tool["description"].rpartition("Tool description:")[2].strip()
            found.setdefault(tool["name"], SpeculativeTool(tool["name"], about, tool["parameters"]))
    return found
