"""The vendor's prompt cache, made to work: what is done to a long prompt on its way out, and learned from the
answer's usage.

One ``PromptCaching`` serves all requests of a process. A prompt below the shortest cacheable prefix never
gets here; for a longer one the body is read into blocks once, breakpoints are spliced in where they pay, and
the rest (lengths, minimums, causes of misses, savings) waits until the answer is over.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import msgspec

from app.domain.chat import Dialect
from app.domain.events import Emit, Event
from app.domain.model_call import ModelCall
from app.domain.models import Model
from app.domain.usage import Usage
from app.prompts.breakpoints import (
    LIFETIME_S,
    Plan,
    place_of,
    plan,
    prices,
    splice_marks,
    with_field,
)
from app.prompts.causes import Cause, cause_of, order_free
from app.prompts.conversations import Conversation, Conversations, key_of, pieces_of
from app.prompts.diagnosis import WORDS, Heard, asks, verdict, with_question
from app.prompts.leading import follow
from app.prompts.learned import ModelFacts, Returns, Seen
from app.prompts.lint import Finding, finding_of
from app.prompts.prefix import (
    EntryMemory,
    IsMoved,
    Rendered,
    Rendering,
    UnreadableError,
    digest,
    render,
    rendering,
)
from app.prompts.settling import Settling
from app.prompts.shown import Shown, Sums, Told, Totals, name_of

_LEAST_BYTES_PER_TOKEN = 3
_MOST_SEEN = 65_536
_FIRST_BLOCKS, _LAST_BLOCKS = 64, 48
_LONGEST_LEAD_S = 10.0
"""A leader that says nothing for so long holds nobody back any more."""
_DEFAULT_LIFETIME_S = 300.0

OnUse = Callable[[Model, Usage, float, float], None]
"""Told of each long prompt's usage: the model, USD saved and seconds saved by the vendor's cache."""
OnCause = Callable[[str, str], None]
"""Told of each miss: the model's name and the cause."""
OnDiagnosis = Callable[[str, str, str, str], None]
"""Told of each diagnosis of a vendor's: the model's name, its word, our cause ("" = none), the verdict."""


@dataclass(slots=True)
class Shaped:
    """What was found out about a request on its way out."""

    tenant: str
    dialect: Dialect
    body: bytes
    rendered: Rendered | None = None
    plan: Plan | None = None
    leads: tuple[bytes, ...] = ()
    """Prefixes that others wait for until this call's first byte."""
    follows: asyncio.Event | None = None
    expected_tokens: int = 0
    """Estimated tokens that the vendor should have: they were written and have not expired."""
    heard: Heard | None = None
    """What the answer says, where the vendor is asked for its diagnosis."""


@dataclass(frozen=True, slots=True)
class Saving:
    """What staying where a conversation is warm is worth."""

    seconds: float = 0.0
    usd: float = 0.0


class PromptCaching:
    """See the module; one event loop owns it."""

    def __init__(
        self,
        models: Iterable[Model],
        enabled: Callable[[Model], bool] = lambda _: True,
        clock: Callable[[], float] = time.monotonic,
        *,
        lead: bool = True,
        affinity: bool = True,
        value_usd_per_s: float = 0.01,
        diagnose: bool = False,
        most_shown: int = 1_000,
    ) -> None:
        """Serve ``models``; breakpoints go to those that are ``enabled``. ``lead``: the first of several that
        would write the same prefix goes ahead; ``affinity``: conversations stay where they are warm;
        ``diagnose``: vendors are asked why they miss. So many requests are remembered for their traces.
        """
        self._diagnoses = diagnose
        self.shown = Shown(most_shown)
        self._leads, self._stays = lead, affinity
        self.value_usd_per_s = value_usd_per_s
        """What a second of a caller's time is worth, to weigh time against money."""
        known = list(models)
        self._providers = {model.name: model.provider for model in known}
        self._clock = clock
        self._facts = {
            model.name: ModelFacts(model.abilities.cache_minimum_tokens) for model in known
        }
        self._splices = {
            model.name
            for model in known
            if model.abilities.cache_breakpoints in {"anthropic", "openai"} and enabled(model)
        }
        self._read = {dialect: EntryMemory() for dialect in Dialect}
        self._seen: OrderedDict[bytes, Seen] = OrderedDict()
        self._returns = Returns()
        self._loose: dict[bytes, bytes] = {}
        self._leading: dict[bytes, asyncio.Event] = {}
        self._settling = Settling(self._reading, self._learn)
        self.conversations = Conversations()
        self.totals: dict[str, Totals] = {}
        self.is_moved: IsMoved | None = None
        """What a layout may have moved behind the last question; None where none is configured."""
        self.on_use: OnUse | None = None
        self.on_cause: OnCause | None = None
        self.on_diagnosis: OnDiagnosis | None = None
        self.on_settled: Callable[[ModelCall, Rendered, bytes], None] | None = None
        """Told of each long prompt whose answer is over: the call, its blocks, its conversation's key."""
        cached = [m for m in known if m.abilities.cache_breakpoints != "none"]
        least = min((m.abilities.cache_minimum_tokens for m in cached), default=0)
        self.min_bytes = least * _LEAST_BYTES_PER_TOKEN if cached else 1 << 62
        """Shorter bodies cannot be cached by any of the vendors: nothing is done about them."""

    # ------------------------------------------------------------ on the way out
    def shape(self, call: ModelCall, dialect: Dialect, body: bytes) -> bytes:
        """The body to send for ``call``: ``body``, with breakpoints where they pay."""
        shaped = Shaped(call.tenant, dialect, body)
        call.prompt_shape = shaped
        model = call.model
        if model.name not in self._splices:
            return body
        self._settling.drain_read()
        # The vendor is asked about the conversation's last answer, which must be known for that.
        diagnoses = self._diagnoses and not self._settling.some()
        now_s = self._clock()
        self._returns.expire(now_s)
        try:
            scope, memory = (call.tenant, model.name), self._read[dialect]
            rendered = render(body, dialect, scope, memory, self.is_moved)
        except (UnreadableError, KeyError):
            return body
        expected = self._expected(rendered, model, now_s)
        facts = self._facts[model.name]
        minimum = max(1, round(facts.minimum_tokens / facts.per_estimate))
        found = plan(rendered, model, call.tenant, self._seen, self._returns, minimum)
        shaped.rendered, shaped.plan, shaped.expected_tokens = rendered, found, expected
        self._see(rendered, call.tenant, model, now_s)
        if found.last >= 0:
            self._lead(shaped, found)
        if found.added:
            body = splice_marks(rendered, found.added)
        if model.abilities.cache_breakpoints == "openai" and "prompt_cache_key" not in (
            rendered.fields
        ):
            body = with_field(body, b"prompt_cache_key", self._key(rendered, call.tenant))
        if asks(rendered):
            shaped.heard = Heard(dialect)
        elif diagnoses:
            shaped.heard = Heard(dialect)
            body = with_question(body, rendered, self._last_id(call, rendered))
        return body

    def _last_id(self, call: ModelCall, rendered: Rendered) -> str:
        """The id of the conversation's last answer, where the same vendor gave it in the same dialect."""
        before = self.conversations.get(key_of(call.tenant, rendered.opening))
        if before is None or before.dialect is not rendered.dialect:
            return ""
        same = self._providers.get(before.model) == call.model.provider
        return before.answer_id if same else ""

    def _key(self, rendered: Rendered, tenant: str) -> str:
        """The same for all that share tools, so that the vendor sends them where the prefix is."""
        end = rendered.ends.get("tools", -1)
        own = b"" if end < 0 else rendered.blocks[end].name
        return digest(tenant.encode(), own).hex()

    def _expected(self, rendered: Rendered, model: Model, now_s: float) -> int:
        """Estimated tokens that the vendor still holds; what it no longer does is marked so."""
        lifetime_s = LIFETIME_S.get(model.abilities.cache_breakpoints, _DEFAULT_LIFETIME_S)
        longest, total = 0, 0
        for block in rendered.blocks:
            total += block.tokens
            seen = self._seen.get(block.name)
            if seen is not None and seen.written:
                seen.written = now_s - seen.last_s < lifetime_s
                longest = total if seen.written else longest
        return longest

    def _see(self, rendered: Rendered, tenant: str, model: Model, now_s: float) -> None:
        """Remember what was sent, and whose return it is."""
        lifetime_s = LIFETIME_S.get(model.abilities.cache_breakpoints, _DEFAULT_LIFETIME_S)
        blocks, count, end = rendered.blocks, len(rendered.blocks), rendered.end
        for position in range(count):
            if _FIRST_BLOCKS <= position < count - _LAST_BLOCKS:
                continue
            name = blocks[position].name
            seen = self._seen.get(name)
            if seen is None:
                seen = self._seen[name] = Seen(1, now_s)
            else:
                if seen.waits_for is not None:
                    self._returns.came(seen)
                seen.times += 1
                seen.last_s = now_s
                self._seen.move_to_end(name)
            if position == end:
                self._returns.wait(seen, tenant, place_of(rendered), now_s + lifetime_s)
            elif position == rendered.ends.get("system", -1) and seen.times == 1:
                self._returns.wait(seen, tenant, "head", now_s + lifetime_s)
        while len(self._seen) > _MOST_SEEN:
            self._seen.popitem(last=False)

    # ------------------------------------------------------------ who goes first
    def _lead(self, shaped: Shaped, found: Plan) -> None:
        """Wait for who writes the same prefix right now, or be the one that others wait for."""
        rendered = shaped.rendered
        assert rendered is not None and shaped.plan is not None  # noqa: S101, PT018 - both just set
        marks = {*found.added, *(i for i, b in enumerate(rendered.blocks) if b.mark)}
        blocks = rendered.blocks
        for position in range(found.last if self._leads else -1, -1, -1):
            event = self._leading.get(blocks[position].name)
            if event is not None and not event.is_set():
                shaped.follows = event
                break
        new = []
        for position in sorted(marks):
            name = blocks[position].name
            seen = self._seen.get(name)
            if name not in self._leading and (seen is None or not seen.written):
                new.append(name)
        if new:
            event = asyncio.Event()
            for name in new:
                self._leading[name] = event
            shaped.leads = tuple(new)

    async def gate(self, call: ModelCall, emit: Emit) -> Emit:
        """Let the call that writes a shared prefix go ahead: gives the ``emit`` to use, when it may start."""
        shaped = call.prompt_shape
        if not isinstance(shaped, Shaped):
            return emit
        if shaped.follows is not None and not shaped.follows.is_set():
            await follow(shaped.follows, _LONGEST_LEAD_S)
        heard = shaped.heard
        if not shaped.leads and heard is None:
            return emit

        async def listening(event: Event) -> None:
            self._written(shaped)
            if heard is not None:
                heard.take(event)
            await emit(event)

        return listening

    def _written(self, shaped: Shaped) -> None:
        """The vendor has begun to answer: what this call wrote can be read."""
        for name in shaped.leads:
            event = self._leading.pop(name, None)
            if event is not None:
                event.set()
            seen = self._seen.get(name)
            if seen is not None:
                seen.written = True
        shaped.leads = ()

    # ------------------------------------------------------------ after the answer
    def settle(self, call: ModelCall) -> None:
        """The call is over, however it ended; what can be learned waits a moment."""
        shaped = call.prompt_shape
        if not isinstance(shaped, Shaped):
            return
        for name in shaped.leads:  # it never began to answer: nobody waits for it any more
            event = self._leading.pop(name, None)
            if event is not None:
                event.set()
        shaped.leads = ()
        if call.usage is None:
            return
        self._settling.add(call)

    def drain(self) -> None:
        """Learn from every call that is over."""
        self._settling.drain()

    async def drained(self) -> None:
        """Learn from every call that is over now, and let others have the loop meanwhile."""
        await self._settling.drained()

    def _reading(self, call: ModelCall) -> Rendered | Rendering:
        """The blocks of a call's prompt, or how they are read where that was not done on its way out."""
        shaped = call.prompt_shape
        assert isinstance(shaped, Shaped)  # noqa: S101 - see settle
        if shaped.rendered is not None:
            return shaped.rendered
        scope, memory = (shaped.tenant, call.model.name), self._read[shaped.dialect]
        return rendering(shaped.body, shaped.dialect, scope, memory, self.is_moved)

    def _learn(self, call: ModelCall, rendered: Rendered) -> None:
        shaped, usage, model = call.prompt_shape, call.usage, call.model
        assert isinstance(shaped, Shaped) and usage is not None  # noqa: S101, PT018 - see settle
        facts = self._facts[model.name]
        estimate = sum(block.tokens for block in rendered.blocks)
        now_s = self._clock()
        cached, written = usage.cached_tokens, usage.cache_write_tokens
        ttft_ns = call.timing.first_event_ns - call.timing.started_ns
        if call.stream and call.timing.first_event_ns:
            facts.learn_first_token(usage.prompt_tokens - cached, ttft_ns / 1e9)
        facts.learn_length(estimate, usage)
        if shaped.plan is not None and shaped.plan.last >= 0:
            facts.learn_minimum(facts.tokens(rendered.tokens_to(shaped.plan.last)), usage)
            facts.learn_read(facts.tokens(shaped.expected_tokens), cached)
        key = key_of(shaped.tenant, rendered.opening)
        before = self.conversations.get(key)
        cause = self._cause(before, rendered, model, usage, now_s)
        if cause is not None:
            self._count_cause(model.name, cause.rule)
        self._learn_order(rendered)
        told = self.shown.request(call.request_id, shaped.tenant)
        told.conversation = name_of(key)
        if cause is not None:
            told.cause, told.pointer = cause.rule, cause.pointer
        heard = shaped.heard
        if heard is not None and before is not None:
            self._compare(told, heard, before, rendered, model)
        self.conversations.put(
            key,
            Conversation(
                model.name,
                rendered.dialect,
                pieces_of(rendered, self._loose),
                dict(rendered.options),
                now_s,
                cached + written,
                shaped.plan is None or shaped.plan.last >= 0,
                1 if before is None else before.turns + 1,
                "" if heard is None else heard.answer_id,
            ),
        )
        talk = self.shown.conversation(key, shaped.tenant)
        talk.model, talk.requests = model.name, talk.requests + 1
        self._count_use(model, usage, (told, talk))
        self.shown.came(shaped.tenant, model.name, now_s)
        if self.on_settled is not None:
            self.on_settled(call, rendered, key)

    def _cause(
        self,
        before: Conversation | None,
        rendered: Rendered,
        model: Model,
        usage: Usage,
        now_s: float,
    ) -> Cause | None:
        """Why a conversation's request did not read what its last one had left; None = it did."""
        if before is None or before.warm_tokens <= 0:
            return None
        if usage.cached_tokens * 2 > before.warm_tokens:
            return None
        lifetime_s = LIFETIME_S.get(model.abilities.cache_breakpoints, _DEFAULT_LIFETIME_S)
        self._learn_order(rendered)
        return cause_of(
            before,
            rendered,
            model.name,
            self._loose,
            idle_s=now_s - before.last_s,
            lifetime_s=lifetime_s,
        )

    def _compare(
        self, told: Told, heard: Heard, before: Conversation, rendered: Rendered, model: Model
    ) -> None:
        """Hold the difference that was found here against what the vendor says."""
        if not heard.word:
            return
        ours = None
        if before.dialect is rendered.dialect:
            ours = cause_of(before, rendered, model.name, self._loose)
        found = verdict(ours, heard.word, rendered.dialect)
        told.vendor = heard.word
        told.agrees = None if found == "open" else found == "agree"
        if self.on_diagnosis is not None:
            word = heard.word if heard.word in WORDS else "other"
            self.on_diagnosis(model.name, word, "" if ours is None else ours.rule, found)

    def _learn_order(self, rendered: Rendered) -> None:
        """Hash the tools with sorted keys, once for each."""
        for block in rendered.blocks:
            if block.section == "tools" and block.own not in self._loose:
                if len(self._loose) >= _MOST_SEEN:
                    self._loose.clear()
                self._loose[block.own] = order_free(rendered, block)

    def _count_use(self, model: Model, usage: Usage, also: Iterable[Sums]) -> None:
        plain, cached, write = prices(model)
        facts = self._facts[model.name]
        usd = usage.cached_tokens * (plain - cached) - usage.cache_write_tokens * (write - plain)
        usd /= 1e6
        seconds = usage.cached_tokens * facts.token_s
        for sums in (self.totals.setdefault(model.name, Totals()), *also):
            sums.add(usage, usd, seconds)
        if self.on_use is not None:
            self.on_use(model, usage, usd, seconds)

    def _count_cause(self, model: str, rule: str) -> None:
        causes = self.totals.setdefault(model, Totals()).causes
        causes[rule] = causes.get(rule, 0) + 1
        if self.on_cause is not None:
            self.on_cause(model, rule)

    # ------------------------------------------------------------ affinity
    def lags(self) -> bool:
        """Whether ``warm_on`` does not know of all calls yet, before ``drained``."""
        return self._stays and len(self._settling) > 0

    def warm_on(self, tenant: str, opening: str) -> Conversation | None:
        """Where this conversation is warm, as far as was learned (see ``lags``); None where it is not."""
        if not self._stays:
            return None
        self._settling.drain_read()
        found = self.conversations.get(key_of(tenant, opening))
        return None if found is None or found.warm_tokens <= 0 else found

    def saving(self, model: Model, conversation: Conversation) -> Saving:
        """What asking ``model`` saves, as far as it holds the conversation's prefix: by measured seconds
        a token, the price table, and how often a prefix that should be there is.
        """
        if conversation.model != model.name:
            return Saving()
        lifetime_s = LIFETIME_S.get(model.abilities.cache_breakpoints, _DEFAULT_LIFETIME_S)
        if self._clock() - conversation.last_s >= lifetime_s:
            return Saving()
        facts = self._facts[model.name]
        tokens = conversation.warm_tokens * facts.read_share
        plain, cached, _ = prices(model)
        return Saving(tokens * facts.token_s, tokens * (plain - cached) / 1e6)

    def beside_the_last(self, tenant: str, rendered: Rendered, model: Model) -> list[Finding]:
        """What keeps this request from reading what its conversation's last one left; at most one."""
        self.drain()
        before = self.conversations.get(key_of(tenant, rendered.opening))
        if before is None or before.dialect is not rendered.dialect:
            return []
        self._learn_order(rendered)
        cause = cause_of(before, rendered, model.name, self._loose)
        return [] if cause is None else [finding_of(cause)]

    def token_s(self, model: str) -> float:
        """Seconds that a prompt token read anew costs the first token; 0 for a model that is unknown."""
        facts = self._facts.get(model)
        return 0.0 if facts is None else facts.token_s

    def per_hour(self, tenant: str, model: str) -> float:
        """How many long prompts of ``tenant`` come for a model in an hour, at the pace of the last ones."""
        self.drain()
        return self.shown.per_hour(tenant, model, self._clock())

    def facts(self, model: str) -> ModelFacts:
        """What is known of a deployment."""
        return self._facts[model]

    def figures(self) -> Mapping[str, object]:
        """By model: tokens, money and seconds, and the causes of misses."""
        self.drain()
        return {name: msgspec.to_builtins(total) for name, total in sorted(self.totals.items())}

    def beside(self, request_id: str, tenant: str) -> Mapping[str, object] | None:
        """What the trace of a request says of its prompt; None for a short one."""
        self.drain()
        return self.shown.beside(request_id, tenant)

    def savings(self) -> dict[str, object]:
        """What the vendors' caches saved since the start, by model and by conversation (the newest ones)."""
        return {"models": self.figures(), "conversations": self.shown.talks()}
