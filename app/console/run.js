// An agent run as cards: one card per step, filled as its events arrive, and its critical path.
//
// Events are AG-UI's, in order of their numbers. Times are measured by this page until the gateway's trace is
// available: a page that rejoined a run late received many events at once, so its own times are wrong.

import { CallCard, StepCard } from "./cards.js";
import { criticalPath, spansOf } from "./explanation.js";
import { Waterfall } from "./waterfall.js";
import { make, seconds, usd } from "./format.js";

// Times closer than this count as equal.
const CLOCK_TOLERANCE_MS = 0.05;
const STATES = {
  running: "running",
  finished: "finished",
  cancelled: "cancelled",
  failed: "failed",
  interrupted: "waits for you",
};

export class Run {
  constructor(question) {
    this.question = question;
    this.messages = [{ id: "question", role: "user", content: question }];
    this.state = "running";
    this.cards = [];
    this.calls = new Map();
    this.ended = [];
    this.legs = 0;
    this.requestIds = [];
    this.interrupts = [];
    this.origin = performance.now();
    this.over = null;
    this.waterfall = new Waterfall();
    this.status = make("p", { class: "run-status", role: "status" });
    this.pill = make("span", { class: "pill", text: STATES.running });
    this.clock = make("span", { class: "took" });
    this.note = make("p", { class: "note", hidden: true });
    this.problem = make("p", { class: "problem", role: "alert", hidden: true });
    this.list = make("ol", { class: "cards", "aria-label": "Steps" });
    this.summary = make("p", { class: "run-summary", hidden: true });
    this.element = make(
      "section",
      { class: "run", "aria-label": `Run: ${question.slice(0, 80)}` },
      make("p", { class: "asked", text: question }),
      make("div", { class: "run-head" }, this.pill, this.status, this.clock),
      this.problem,
      this.note,
      this.summary,
      make("div", { class: "account" }, this.waterfall.element),
      this.list,
    );
    this.tick();
  }

  now() {
    return (this.over ?? performance.now()) - this.origin;
  }

  // Redraw growing parts while the run is active.
  tick() {
    if (this.over !== null) return;
    this.draw();
    setTimeout(() => this.tick(), 120);
  }

  // Apply one event; returns true if it was the last of its leg.
  take(event) {
    const kind = event.type;
    if (kind === "RUN_STARTED") this.begin();
    else if (kind === "ACTIVITY_SNAPSHOT") this.say(event.content.text);
    else if (kind === "ACTIVITY_DELTA") this.say(event.patch[0].value);
    else if (kind === "STEP_STARTED") this.open(new StepCard(event.stepName, this.now()));
    else if (kind === "STEP_FINISHED") this.step?.finish(this.now());
    else if (/^(TEXT|REASONING)_MESSAGE_/.test(kind)) this.speak(event);
    else if (kind.startsWith("TOOL_CALL_")) this.call(event);
    else if (kind.startsWith("SUBAGENT_")) this.calls.get(event.subagentRunId)?.subagent(event);
    else if (kind === "RUN_FINISHED" || kind === "RUN_ERROR") {
      this.end(event);
      return true;
    }
    return false;
  }

  begin() {
    this.legs += 1;
    this.legStart = this.now();
    this.ended = [];
    this.step = null;
    this.set("running");
  }

  say(text) {
    this.status.textContent = text;
  }

  set(state) {
    this.state = state;
    this.pill.textContent = STATES[state];
    this.element.dataset.state = state;
    this.pill.toggleAttribute("data-bad", state === "failed");
    if (state === "finished") this.pill.dataset.cache = "exact";
  }

  open(card) {
    this.step = card;
    card.leg = this.legs;
    this.cards.push(card);
    this.list.append(card.element);
    return card;
  }

  // The card of an event: a sub-agent's own, or the open step; else a card for a declared workflow, or for
  // an answer without a model.
  place(event, name) {
    const sub = this.calls.get(event.subagentRunId);
    if (sub) return sub;
    if (this.step && !this.step.done) return this.step;
    if (this.step?.name === name) return this.step;
    return this.open(new StepCard(name, this.now()));
  }

  speak(event) {
    const card = this.place(event, "answer");
    if (event.type.endsWith("_START")) card.message(event.messageId, event.type.startsWith("REASONING"), this.now());
    else if (event.type.endsWith("_CONTENT")) card.text(event.messageId, event.delta, this.now());
    if (event.type === "TEXT_MESSAGE_CONTENT" && !event.subagentRunId) this.said(event);
  }

  // The conversation so far, to send along when a person's answer starts another leg.
  said(event) {
    const known = this.messages.find((message) => message.id === event.messageId);
    if (known) known.content = (known.content ?? "") + event.delta;
    else this.messages.push({ id: event.messageId, role: "assistant", content: event.delta });
  }

  call(event) {
    const id = event.toolCallId;
    if (event.type === "TOOL_CALL_START") {
      const card = new CallCard(id, event.toolCallName, this.now());
      card.leg = this.legs;
      card.inside = this.calls.get(event.subagentRunId) ?? null;
      const parent = this.place(event, "workflow");
      parent.add(card);
      card.under = parent instanceof CallCard ? parent.under : parent;
      this.calls.set(id, card);
      return;
    }
    const card = this.calls.get(id);
    if (!card) return;
    if (event.type === "TOOL_CALL_ARGS") card.arguments(event.delta);
    else if (event.type === "TOOL_CALL_END") {
      card.seal(this.now());
      card.under.touched(this.now());
      if (!card.inside) this.asked(card);
    } else if (event.type === "TOOL_CALL_RESULT") {
      card.result(event.content, event.metadata ?? {}, this.now());
      this.ended.push(card);
      if (!card.inside) this.messages.push({ id: event.messageId, role: "tool", toolCallId: id, content: event.content });
      if (card.under.name === "workflow" && card.under.calls.every((one) => one.done)) card.under.finish(this.now());
    }
  }

  asked(card) {
    const call = { id: card.id, type: "function", function: { name: card.name, arguments: card.json || "{}" } };
    const id = `calls of ${this.cards.length}`;
    const known = this.messages.find((message) => message.id === id);
    if (known) known.toolCalls.push(call);
    else this.messages.push({ id, role: "assistant", toolCalls: [call] });
  }

  end(event) {
    for (const card of this.cards) card.finish(this.now());
    this.say("");
    if (event.type === "RUN_ERROR") {
      this.fail(event.message, event.code);
      return;
    }
    const { outcome } = event;
    this.interrupts = outcome.type === "interrupt" ? outcome.interrupts : [];
    if (this.interrupts.length) {
      this.set("interrupted");
      return;
    }
    this.stop(outcome.type === "cancelled" ? "cancelled" : "finished");
    const tokens = event.usage.reduce((sum, each) => sum + each.totalTokens, 0);
    const facts = [`${tokens} tokens`, usd(event.metadata.costUsd)];
    if (event.metadata.leftOut?.length) facts.push(`left out: ${event.metadata.leftOut.join(", ")}`);
    this.facts = facts;
    this.sum();
  }

  // Ask for each pending approval; call `resume(entries, messages)` when all are decided.
  ask(resume) {
    const entries = [];
    const fields = this.interrupts.map((interrupt) => {
      const card = this.calls.get(interrupt.toolCallId);
      return card.ask(interrupt, this.now(), (payload) => {
        card.answer(this.now());
        entries.push({ interruptId: interrupt.id, status: "resolved", payload });
        if (entries.length === this.interrupts.length) resume(entries, this.messages);
        else this.element.querySelector(".approval button")?.focus();
      });
    });
    fields[0]?.focus();
  }

  fail(message, code = "") {
    this.stop("failed");
    this.problem.replaceChildren(message, ...(code ? [" ", make("code", { text: code })] : []));
    this.problem.hidden = false;
  }

  stop(state) {
    if (this.over !== null) return;
    this.over = performance.now();
    for (const card of this.cards) card.finish(this.now());
    for (const card of this.calls.values()) if (!card.done) card.drop(this.now());
    this.set(state);
    this.draw();
  }

  // "In 2.4 s what would have taken 4.1 s one after another."
  sum() {
    const spans = this.spans().filter((span) => span.parent === null && span.stage !== "waiting");
    const alone = spans.reduce((total, span) => total + span.duration, 0);
    const total = this.total ?? this.now();
    const lead = `${STATES[this.state]} after ${seconds(total / 1000)}`;
    const gained = alone > total * 1.05 ? `, where its steps one after another would take ${seconds(alone / 1000)}` : "";
    this.summary.textContent = `${lead.charAt(0).toUpperCase()}${lead.slice(1)}${gained}; ${(this.facts ?? []).join(", ")}.`;
    this.summary.hidden = false;
  }

  // The cards as spans, for the waterfall and the critical path.
  spans() {
    const found = [];
    const add = (card, stage, start, end, detail, parent) => {
      found.push({ card, stage, start, duration: Math.max(0, end - start), detail, parent });
      return found.length - 1;
    };
    const calls = (list, parent) => {
      for (const call of list) {
        if (call.start === null) continue;
        if (call.asked !== null) add(call, "waiting", call.asked, call.answered ?? this.now(), "a person's answer", parent);
        if (call.asked !== null && call.answered === null) continue;
        const index = add(call, "tools", call.start, call.done ? call.stopped : this.now(), call.name, parent);
        calls(call.calls, index);
      }
    };
    for (const step of this.cards) {
      if (step.isModel) add(step, "upstream", step.start, step.busyUntil(this.now()), step.title, null);
      calls(step.calls, null);
    }
    return found;
  }

  draw() {
    const spans = this.spans();
    const total = this.total ?? this.now();
    for (const card of [...this.cards, ...this.calls.values()]) card.critical(0);
    // The critical path is known at the end; before it the mark would jump.
    const path = this.state === "running" ? [] : criticalPath(spans, total).path;
    for (const { index, time } of path) {
      spans[index].waited = time;
      spans[index].card.critical(spans[index].card.waited + time);
    }
    for (const span of spans) if (span.stage !== "waiting") span.card.place(span.start / total, span.duration / total);
    this.clock.textContent = seconds(total / 1000);
    this.waterfall.draw(spans, total);
  }

  // Assign each step of this leg its model calls, in order and without sub-agents' calls; a step begins when
  // the tools of the one before have ended.
  models(trace, at) {
    const subs = [...this.calls.values()].filter((card) => card.isSub && card.leg === this.legs);
    const inSub = ({ start }) => subs.some((sub) => start >= sub.start - CLOCK_TOLERANCE_MS && start <= sub.stopped);
    const calls = trace.spans
      .filter((span) => span.stage === "upstream")
      .map((span) => ({ start: at + span.start_ms, end: at + span.start_ms + span.duration_ms }))
      .filter((span) => !inSub(span));
    const steps = this.cards.filter((card) => card.isModel && card.leg === this.legs);
    const groups = steps.map(() => []);
    let now = 0;
    for (const call of calls) {
      const waited = Math.max(...(steps[now]?.calls ?? []).map((card) => card.stopped));
      if (groups[now]?.length && now < steps.length - 1 && call.start >= waited - CLOCK_TOLERANCE_MS) now += 1;
      groups[now]?.push(call);
    }
    groups.forEach((group, place) => {
      if (group.length) steps[place].timed(group[0].start, Math.max(...group.map((call) => call.end)) - group[0].start);
    });
  }

  // Replace this page's times by the gateway's.
  settle(trace) {
    const at = this.legStart;
    trace.tools.forEach((use, place) => {
      const card = this.ended[place];
      if (card?.name === use.name) card.timed(at + use.start_ms, use.duration_ms);
    });
    this.models(trace, at);
    if (this.state === "interrupted") return;
    this.total = at + trace.total_ms;
    this.draw();
    if (this.facts) this.sum();
    if (this.legs > 1) return;
    // The trace has more than the cards: sub-agents' model calls, retries, waits.
    const spans = spansOf(trace);
    for (const { index, time } of criticalPath(spans, trace.total_ms).path) spans[index].waited = time;
    this.waterfall.draw(spans, trace.total_ms);
  }
}
