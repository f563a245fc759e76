"""The before and after that this project was asked for, on real sockets, its clock scaled down.

Before: cold start 1.5 s, a model call of 3.0 s, three API calls one after another (2.0, 1.5, 2.0
s), formatting 0.5 s: 10.5 s. After: the same tools behind the gateway, over a day's mix of 35 %
repeats, 45 % simple questions (one lookup), 18 % complex ones (three lookups) and 2 % that are
first answered fast and then escalated. What is asked about follows Zipf's law over 60 tickets and
users, as support traffic does; tool results and answers live for ten minutes. Nothing is warmed but
the process: the day begins with empty caches, no learned patterns, and all of it is counted.
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import time
from dataclasses import dataclass

from bench.agent.gateway import ask, configuration, gateway
from bench.agent.servers import model, tools
from bench.loopback import served

TOOLS_S = {"get_ticket": 2.0, "get_user": 1.5, "check_permissions": 2.0}
COLD_START_S, MODEL_S, FORMATTING_S = 1.5, 3.0, 0.5
CLAIMED = (
    ("repeat", 0.35, 0.1),
    ("simple", 0.45, 1.5),
    ("complex", 0.18, 3.0),
    ("escalated", 0.02, 4.0),
)
ENTITIES = 60
TTL_S = 600.0


@dataclass(frozen=True, slots=True)
class Question:
    """One request of the day."""

    kind: str
    ticket: int
    user: int
    wording: int

    def text(self, scale: float, agent: str) -> str:
        """What the user writes, with the model's script behind it."""
        strong = agent == "complex"
        ticket, user = f"INC-{1000 + self.ticket}", f"u-{self.user}"
        calls: list[tuple[str, dict[str, str]]] = [("get_ticket", {"ticket_id": ticket})]
        if strong:
            calls += [("get_user", {"user_id": user}), ("check_permissions", {"user_id": user})]
        script = {
            "first_s": (0.5 if strong else 0.15) * scale,
            "call_s": (0.25 if strong else 0.1) * scale,
            "answer_s": 2.5 * scale,
            "fast_answer_s": 0.5 * scale,
            "calls": calls,
        }
        about = f"{ticket} of {user}" if strong else ticket
        return f"({self.wording}) How does {about} stand? {json.dumps(script)}"


def day(count: int, seed: int = 7) -> list[Question]:
    """The day's questions in order; a repeat is word for word an earlier one."""
    draw = random.Random(seed)
    weights = [1 / (rank + 1) for rank in range(ENTITIES)]
    kinds = [name for name, _, _ in CLAIMED]
    shares = [share for _, share, _ in CLAIMED]
    questions: list[Question] = []
    for number in range(count):
        kind = draw.choices(kinds, shares)[0]
        if kind == "repeat" and questions:
            earlier = draw.choice(questions)
            questions.append(Question("repeat", earlier.ticket, earlier.user, earlier.wording))
            continue
        ticket, user = draw.choices(range(ENTITIES), weights, k=2)
        kind = "simple" if kind == "repeat" else kind
        questions.append(Question(kind, ticket, user, number))
    return questions


async def before(scale: float, runs: int = 3) -> float:
    """Seconds (unscaled) of the sequential agent, run for real on sockets."""
    taken = []
    async with served(tools({name: s * scale for name, s in TOOLS_S.items()})) as url:
        host, port = url.removeprefix("http://").split(":")
        for _ in range(runs):
            began = time.perf_counter()
            await asyncio.sleep(COLD_START_S * scale)
            await asyncio.sleep(MODEL_S * scale)
            for name in TOOLS_S:
                reader, writer = await asyncio.open_connection(host, int(port))
                writer.write(f"GET /{name}/x HTTP/1.1\r\nhost: b\r\n\r\n".encode())
                await reader.readuntil(b"}")
                writer.close()
            await asyncio.sleep(FORMATTING_S * scale)
            taken.append((time.perf_counter() - began) / scale)
    return statistics.median(taken)


async def after(scale: float, count: int, at_once: int = 6) -> dict[str, object]:
    """The day through the gateway: seconds (unscaled) by kind, and over all."""
    questions = day(count)
    first_of = {(q.ticket, q.user, q.wording): q.kind for q in questions if q.kind != "repeat"}
    taken: dict[str, list[float]] = {name: [] for name, _, _ in CLAIMED}
    first_bytes: list[float] = []
    room = asyncio.Semaphore(at_once)
    done: dict[tuple[int, int, int], asyncio.Event] = {}

    async def one(question: Question) -> None:
        which = (question.ticket, question.user, question.wording)
        kind = first_of[which]
        if question.kind == "repeat":
            await done[which].wait()
        else:
            done[which] = asyncio.Event()
        agents = {"simple": ["simple"], "complex": ["complex"], "escalated": ["simple", "complex"]}
        if question.kind == "repeat" and kind == "escalated":
            agents["escalated"] = [
                "complex"
            ]  # the answer that stood is the one that is asked again
        async with room:
            total_s = 0.0
            for agent in agents[kind]:
                first_s, took_s = await ask(url, agent, question.text(scale, agent))
                total_s += took_s
                first_bytes.append(first_s / scale)
        taken[question.kind].append(total_s / scale)
        done[which].set()

    latencies_s = {name: s * scale for name, s in TOOLS_S.items()}
    async with served(model) as upstream, served(tools(latencies_s)) as tool_url:
        values = configuration(upstream, tool_url, tool_cache_s=TTL_S)
        async with gateway(values) as url, asyncio.TaskGroup() as group:
            for question in questions:
                await room.acquire()
                room.release()
                group.create_task(one(question))
                await asyncio.sleep(0)
    everything = sorted(second for seconds in taken.values() for second in seconds)
    return {
        "n": len(everything),
        "scale": scale,
        "kinds": {
            name: {"n": len(seconds), "mean_s": statistics.fmean(seconds) if seconds else None}
            for name, seconds in taken.items()
        },
        "mean_s": statistics.fmean(everything),
        "p50_s": everything[len(everything) // 2],
        "under_3_s": sum(second < 3 for second in everything) / len(everything),
        "under_5_s": sum(second < 5 for second in everything) / len(everything),
        "first_byte_mean_s": statistics.fmean(first_bytes),
    }
