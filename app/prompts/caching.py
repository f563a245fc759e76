"""Make the vendor's prompt cache work: breakpoints for long prompts, and learning from the answers' usage.

One ``PromptCaching`` serves all requests of a process. Prompts below the shortest cacheable prefix bypass it.
A longer body is parsed into blocks once and breakpoints are spliced in where they pay; the rest (lengths,
minimums, causes of misses, savings) is learned after the answer.
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
    conversation_stage,
    plan,
    prices,
    splice_breakpoints,
    with_field,
)
from app.prompts.cache_report import (
    CacheReport,
    CacheSavings,
    ModelSavings,
    RequestSavings,
    conversation_id,
)
from app.prompts.causes import MissCause, canonical_tool_hash, find_cause
from app.prompts.conversations import (
    Conversations,
    ConversationState,
    conversation_key,
    summarise_blocks,
)
from app.prompts.diagnosis import (
    KNOWN_REASONS,
    VendorDiagnosis,
    client_asks,
    verdict,
    with_diagnosis_request,
)
from app.prompts.learning_queue import LearningQueue
from app.prompts.lint import Finding, finding_from_cause
from app.prompts.prefix import (
    IsMoved,
    MessageCache,
    RenderedPrompt,
    RenderSteps,
    UnreadableError,
    digest,
    render,
    render_steps,
)
from app.prompts.prefix_leader import wait_for_leader
from app.prompts.prepared_request import PreparedRequest
from app.prompts.usage_statistics import ModelCacheStats, PrefixReuse, SeenPrefix

_LEAST_BYTES_PER_TOKEN = 3
_MOST_SEEN = 65_536
_FIRST_BLOCKS, _LAST_BLOCKS = 64, 48
_LONGEST_LEAD_S = 10.0
"""Longest wait for the leader's first byte."""
_DEFAULT_LIFETIME_S = 300.0

OnUse = Callable[[Model, Usage, float, float], None]
"""Called with each long prompt's usage: model, USD and seconds saved by the vendor's cache."""
OnCause = Callable[[str, str], None]
"""Called with each miss: the model's name and the cause."""
OnDiagnosis = Callable[[str, str, str, str], None]
"""Called with each vendor diagnosis: model name, its reason, our cause ("" = none), the verdict."""


@dataclass(frozen=True, slots=True)
class AffinitySaving:
    """The value of keeping a conversation on its warm deployment."""

    seconds: float = 0.0
    usd: float = 0.0


class PromptCaching:
    """See the module; owned by one event loop."""

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
        """Serve ``models``; the ``enabled`` ones get breakpoints. ``lead``: the first of several calls that
        would write the same prefix goes ahead; ``affinity``: conversations stay where they are warm;
        ``diagnose``: vendors are asked for the cause of misses; ``most_shown``: requests kept for traces.
        """
        self._diagnoses = diagnose
        self.report = CacheReport(most_shown)
        self._leads, self._stays = lead, affinity
        self.value_usd_per_s = value_usd_per_s
        """The value of a second of the caller's time."""
        known = list(models)
        self._providers = {model.name: model.provider for model in known}
        self._clock = clock
        self._statistics = {
            model.name: ModelCacheStats(model.abilities.cache_minimum_tokens) for model in known
        }
        self._splices = {
            model.name
            for model in known
            if model.abilities.cache_breakpoints in {"anthropic", "openai"} and enabled(model)
        }
        self._message_caches = {dialect: MessageCache() for dialect in Dialect}
        self._seen: OrderedDict[bytes, SeenPrefix] = OrderedDict()
        self._reuse = PrefixReuse()
        self._canonical_hashes: dict[bytes, bytes] = {}
        self._leaders: dict[bytes, asyncio.Event] = {}
        self._learning_queue = LearningQueue(self._reading, self._learn)
        self.conversations = Conversations()
        self.totals: dict[str, ModelSavings] = {}
        self.is_moved: IsMoved | None = None
        """Whether a layout may have moved a text behind the last question; None where there is no layout."""
        self.on_use: OnUse | None = None
        self.on_cause: OnCause | None = None
        self.on_diagnosis: OnDiagnosis | None = None
        self.on_learned: Callable[[ModelCall, RenderedPrompt, bytes], None] | None = None
        """Called with each long prompt after its answer: the call, its blocks, its conversation's key."""
        cached = [m for m in known if m.abilities.cache_breakpoints != "none"]
        least = min((m.abilities.cache_minimum_tokens for m in cached), default=0)
        self.min_bytes = least * _LEAST_BYTES_PER_TOKEN if cached else 1 << 62
        """Shorter bodies cannot be cached by any of the vendors and are left alone."""

    def shape(self, call: ModelCall, dialect: Dialect, body: bytes) -> bytes:
        """The body to send for ``call``: ``body``, with breakpoints where they pay."""
        shaped = PreparedRequest(call.tenant, dialect, body)
        call.prompt_shape = shaped
        model = call.model
        if model.name not in self._splices:
            return body
        self._learning_queue.drain_rendered()
        # The question names the conversation's last answer, which must be learned for that.
        diagnoses = self._diagnoses and not self._learning_queue.run_slice()
        now_s = self._clock()
        self._reuse.expire(now_s)
        try:
            scope, memory = (call.tenant, model.name), self._message_caches[dialect]
            rendered = render(body, dialect, scope, memory, self.is_moved)
        except (UnreadableError, KeyError):
            return body
        expected = self._expected(rendered, model, now_s)
        facts = self._statistics[model.name]
        minimum = max(1, round(facts.minimum_tokens / facts.tokens_per_estimate))
        found = plan(rendered, model, call.tenant, self._seen, self._reuse, minimum)
        shaped.rendered, shaped.plan, shaped.expected_tokens = rendered, found, expected
        self._see(rendered, call.tenant, model, now_s)
        if found.last >= 0:
            self._lead(shaped, found)
        if found.added:
            body = splice_breakpoints(rendered, found.added)
        if model.abilities.cache_breakpoints == "openai" and "prompt_cache_key" not in (
            rendered.fields
        ):
            body = with_field(body, b"prompt_cache_key", self._key(rendered, call.tenant))
        if client_asks(rendered):
            shaped.diagnosis = VendorDiagnosis(dialect)
        elif diagnoses:
            shaped.diagnosis = VendorDiagnosis(dialect)
            body = with_diagnosis_request(body, rendered, self._last_id(call, rendered))
        return body

    def _last_id(self, call: ModelCall, rendered: RenderedPrompt) -> str:
        """The id of the conversation's last answer, if from the same vendor in the same dialect."""
        before = self.conversations.get(conversation_key(call.tenant, rendered.opening))
        if before is None or before.dialect is not rendered.dialect:
            return ""
        same = self._providers.get(before.model) == call.model.provider
        return before.answer_id if same else ""

    def _key(self, rendered: RenderedPrompt, tenant: str) -> str:
        """One key per set of tools, so that the vendor routes to the cached prefix."""
        end = rendered.section_ends.get("tools", -1)
        own = b"" if end < 0 else rendered.blocks[end].prefix_hash
        return digest(tenant.encode(), own).hex()

    def _expected(self, rendered: RenderedPrompt, model: Model, now_s: float) -> int:
        """Estimated tokens that the vendor still holds; marks expired prefixes as not written."""
        lifetime_s = LIFETIME_S.get(model.abilities.cache_breakpoints, _DEFAULT_LIFETIME_S)
        longest, total = 0, 0
        for block in rendered.blocks:
            total += block.tokens
            seen = self._seen.get(block.prefix_hash)
            if seen is not None and seen.written:
                seen.written = now_s - seen.last_s < lifetime_s
                longest = total if seen.written else longest
        return longest

    def _see(self, rendered: RenderedPrompt, tenant: str, model: Model, now_s: float) -> None:
        """Record the prefixes that are sent, and which expected reuses they are."""
        lifetime_s = LIFETIME_S.get(model.abilities.cache_breakpoints, _DEFAULT_LIFETIME_S)
        blocks, count, end = rendered.blocks, len(rendered.blocks), rendered.last_repeated
        for position in range(count):
            if _FIRST_BLOCKS <= position < count - _LAST_BLOCKS:
                continue
            name = blocks[position].prefix_hash
            seen = self._seen.get(name)
            if seen is None:
                seen = self._seen[name] = SeenPrefix(1, now_s)
            else:
                if seen.reuse_key is not None:
                    self._reuse.record_reuse(seen)
                seen.times += 1
                seen.last_s = now_s
                self._seen.move_to_end(name)
            if position == end:
                self._reuse.expect(seen, tenant, conversation_stage(rendered), now_s + lifetime_s)
            elif position == rendered.section_ends.get("system", -1) and seen.times == 1:
                self._reuse.expect(seen, tenant, "head", now_s + lifetime_s)
        while len(self._seen) > _MOST_SEEN:
            self._seen.popitem(last=False)

    def _lead(self, shaped: PreparedRequest, found: Plan) -> None:
        """Follow the call that is writing the same prefix, or become the leader for others."""
        rendered = shaped.rendered
        assert rendered is not None and shaped.plan is not None  # noqa: S101, PT018 - both just set
        marks = {*found.added, *(i for i, b in enumerate(rendered.blocks) if b.breakpoint_ttl)}
        blocks = rendered.blocks
        for position in range(found.last if self._leads else -1, -1, -1):
            event = self._leaders.get(blocks[position].prefix_hash)
            if event is not None and not event.is_set():
                shaped.leader_started = event
                break
        new = []
        for position in sorted(marks):
            name = blocks[position].prefix_hash
            seen = self._seen.get(name)
            if name not in self._leaders and (seen is None or not seen.written):
                new.append(name)
        if new:
            event = asyncio.Event()
            for name in new:
                self._leaders[name] = event
            shaped.leads_prefixes = tuple(new)

    async def gate(self, call: ModelCall, emit: Emit) -> Emit:
        """Wait for the leader of a shared prefix, if any; returns the ``emit`` to use."""
        shaped = call.prompt_shape
        if not isinstance(shaped, PreparedRequest):
            return emit
        if shaped.leader_started is not None and not shaped.leader_started.is_set():
            await wait_for_leader(shaped.leader_started, _LONGEST_LEAD_S)
        heard = shaped.diagnosis
        if not shaped.leads_prefixes and heard is None:
            return emit

        async def listening(event: Event) -> None:
            self._written(shaped)
            if heard is not None:
                heard.read(event)
            await emit(event)

        return listening

    def _written(self, shaped: PreparedRequest) -> None:
        """The vendor has begun to answer: the prefixes that this call wrote can be read."""
        for name in shaped.leads_prefixes:
            event = self._leaders.pop(name, None)
            if event is not None:
                event.set()
            seen = self._seen.get(name)
            if seen is not None:
                seen.written = True
        shaped.leads_prefixes = ()

    def settle(self, call: ModelCall) -> None:
        """Queue a finished call for learning, however it ended."""
        shaped = call.prompt_shape
        if not isinstance(shaped, PreparedRequest):
            return
        for name in shaped.leads_prefixes:  # it never began to answer: release the followers
            event = self._leaders.pop(name, None)
            if event is not None:
                event.set()
        shaped.leads_prefixes = ()
        if call.usage is not None:
            self._learning_queue.add(call)

    def drain(self) -> None:
        """Learn from every finished call, now."""
        self._learning_queue.drain()

    async def drained(self) -> None:
        """Learn from every call finished by now, yielding to the loop between slices."""
        await self._learning_queue.drained()

    def _reading(self, call: ModelCall) -> RenderedPrompt | RenderSteps:
        """The blocks of a call's prompt, or the steps that parse it where it was not parsed when sent."""
        shaped = call.prompt_shape
        assert isinstance(shaped, PreparedRequest)  # noqa: S101 - see settle
        if shaped.rendered is not None:
            return shaped.rendered
        scope, memory = (shaped.tenant, call.model.name), self._message_caches[shaped.dialect]
        return render_steps(shaped.body, shaped.dialect, scope, memory, self.is_moved)

    def _learn(self, call: ModelCall, rendered: RenderedPrompt) -> None:
        shaped, usage, model = call.prompt_shape, call.usage, call.model
        assert isinstance(shaped, PreparedRequest) and usage is not None  # noqa: S101, PT018 - see settle
        facts = self._statistics[model.name]
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
        key = conversation_key(shaped.tenant, rendered.opening)
        before = self.conversations.get(key)
        cause = self._cause(before, rendered, model, usage, now_s)
        if cause is not None:
            self._count_cause(model.name, cause.rule)
        self._learn_order(rendered)
        told = self.report.request(call.request_id, shaped.tenant)
        told.conversation = conversation_id(key)
        if cause is not None:
            told.cause, told.pointer = cause.rule, cause.pointer
        heard = shaped.diagnosis
        if heard is not None and before is not None:
            self._compare(told, heard, before, rendered, model)
        self.conversations.put(
            key,
            ConversationState(
                model.name,
                rendered.dialect,
                summarise_blocks(rendered, self._canonical_hashes),
                dict(rendered.options),
                now_s,
                cached + written,
                shaped.plan is None or shaped.plan.last >= 0,
                1 if before is None else before.turns + 1,
                "" if heard is None else heard.answer_id,
            ),
        )
        talk = self.report.conversation(key, shaped.tenant)
        talk.model, talk.requests = model.name, talk.requests + 1
        self._count_use(model, usage, (told, talk))
        self.report.count_request(shaped.tenant, model.name, now_s)
        if self.on_learned is not None:
            self.on_learned(call, rendered, key)

    def _cause(
        self,
        before: ConversationState | None,
        rendered: RenderedPrompt,
        model: Model,
        usage: Usage,
        now_s: float,
    ) -> MissCause | None:
        """Why a request missed the prefix of its conversation's last one; None = it did not miss."""
        if before is None or before.warm_tokens <= 0:
            return None
        if usage.cached_tokens * 2 > before.warm_tokens:
            return None
        lifetime_s = LIFETIME_S.get(model.abilities.cache_breakpoints, _DEFAULT_LIFETIME_S)
        self._learn_order(rendered)
        return find_cause(
            before,
            rendered,
            model.name,
            self._canonical_hashes,
            idle_s=now_s - before.last_s,
            lifetime_s=lifetime_s,
        )

    def _compare(
        self,
        told: RequestSavings,
        heard: VendorDiagnosis,
        before: ConversationState,
        rendered: RenderedPrompt,
        model: Model,
    ) -> None:
        """Compare our cause with the vendor's diagnosis."""
        if not heard.reason:
            return
        ours = None
        if before.dialect is rendered.dialect:
            ours = find_cause(before, rendered, model.name, self._canonical_hashes)
        found = verdict(ours, heard.reason, rendered.dialect)
        told.vendor = heard.reason
        told.agrees = None if found == "open" else found == "agree"
        if self.on_diagnosis is not None:
            word = heard.reason if heard.reason in KNOWN_REASONS else "other"
            self.on_diagnosis(model.name, word, "" if ours is None else ours.rule, found)

    def _learn_order(self, rendered: RenderedPrompt) -> None:
        """Store each tool's canonical hash (keys sorted)."""
        for block in rendered.blocks:
            if block.section == "tools" and block.content_hash not in self._canonical_hashes:
                if len(self._canonical_hashes) >= _MOST_SEEN:
                    self._canonical_hashes.clear()
                self._canonical_hashes[block.content_hash] = canonical_tool_hash(rendered, block)

    def _count_use(self, model: Model, usage: Usage, also: Iterable[CacheSavings]) -> None:
        plain, cached, write = prices(model)
        facts = self._statistics[model.name]
        usd = usage.cached_tokens * (plain - cached) - usage.cache_write_tokens * (write - plain)
        usd /= 1e6
        seconds = usage.cached_tokens * facts.token_s
        for sums in (self.totals.setdefault(model.name, ModelSavings()), *also):
            sums.add(usage, usd, seconds)
        if self.on_use is not None:
            self.on_use(model, usage, usd, seconds)

    def _count_cause(self, model: str, rule: str) -> None:
        causes = self.totals.setdefault(model, ModelSavings()).causes
        causes[rule] = causes.get(rule, 0) + 1
        if self.on_cause is not None:
            self.on_cause(model, rule)

    def session_affinity_pending(self) -> bool:
        """Whether finished calls still wait to be learned, so that ``warm_on`` may be outdated."""
        return self._stays and len(self._learning_queue) > 0

    def warm_on(self, tenant: str, opening: str) -> ConversationState | None:
        """Where this conversation is warm, as far as learned; None where it is not."""
        if not self._stays:
            return None
        self._learning_queue.drain_rendered()
        found = self.conversations.get(conversation_key(tenant, opening))
        return None if found is None or found.warm_tokens <= 0 else found

    def saving(self, model: Model, conversation: ConversationState) -> AffinitySaving:
        """What the warm prefix saves on ``model``: by measured seconds per token, the price table, and the
        share of expected prefixes that are really read.
        """
        if conversation.model != model.name:
            return AffinitySaving()
        lifetime_s = LIFETIME_S.get(model.abilities.cache_breakpoints, _DEFAULT_LIFETIME_S)
        if self._clock() - conversation.last_s >= lifetime_s:
            return AffinitySaving()
        facts = self._statistics[model.name]
        tokens = conversation.warm_tokens * facts.read_share
        plain, cached, _ = prices(model)
        return AffinitySaving(tokens * facts.token_s, tokens * (plain - cached) / 1e6)

    def lint_against_last(
        self, tenant: str, rendered: RenderedPrompt, model: Model
    ) -> list[Finding]:
        """Why this request cannot read its conversation's cached prefix; at most one finding."""
        self.drain()
        before = self.conversations.get(conversation_key(tenant, rendered.opening))
        if before is None or before.dialect is not rendered.dialect:
            return []
        self._learn_order(rendered)
        cause = find_cause(before, rendered, model.name, self._canonical_hashes)
        return [] if cause is None else [finding_from_cause(cause)]

    def token_s(self, model: str) -> float:
        """Seconds to the first token per uncached prompt token; 0 for an unknown model."""
        facts = self._statistics.get(model)
        return 0.0 if facts is None else facts.token_s

    def requests_per_hour(self, tenant: str, model: str) -> float:
        """Long prompts of ``tenant`` per hour for a model, at the recent rate."""
        self.drain()
        return self.report.per_hour(tenant, model, self._clock())

    def model_statistics(self, model: str) -> ModelCacheStats:
        """The learned statistics of a deployment."""
        return self._statistics[model]

    def statistics(self) -> Mapping[str, object]:
        """By model: tokens, money and seconds, and the causes of misses."""
        self.drain()
        return {name: msgspec.to_builtins(total) for name, total in sorted(self.totals.items())}

    def trace_of(self, request_id: str, tenant: str) -> Mapping[str, object] | None:
        """The prompt part of a request's trace; None for a short prompt."""
        self.drain()
        return self.report.trace_of(request_id, tenant)

    def savings(self) -> dict[str, object]:
        """What the vendors' caches saved since the start, by model and for the newest conversations."""
        return {"models": self.statistics(), "conversations": self.report.conversations()}
