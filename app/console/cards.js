// The cards of a run: a step (one model call, or a workflow's calls) and a tool call within it.

import { make, ms } from "./format.js";

const OUTCOMES = {
  ok: "done",
  cached: "from the cache",
  error: "failed",
  timeout: "timed out",
  invalid: "arguments do not fit",
  left_out: "left out",
  declined: "declined",
  cancelled: "cancelled",
};
const GOOD = ["ok", "cached"];
const SHORT = 400;

function titleOf(name) {
  const model = /^model (\d+)$/.exec(name);
  if (model) return `Model call ${model[1]}`;
  return name.charAt(0).toUpperCase() + name.slice(1);
}

// Indented JSON; other text unchanged.
function laidOut(text) {
  try {
    const value = JSON.parse(text);
    return typeof value === "object" && value !== null ? JSON.stringify(value, null, 2) : text;
  } catch {
    return text;
  }
}

// The common part of step and call cards: a bar on the run's time scale, a state, text, nested calls.
class Card {
  constructor(name, title, css) {
    this.name = name;
    this.title = title;
    this.done = false;
    this.waited = 0;
    this.calls = [];
    this.messages = new Map();
    this.pill = make("span", { class: "pill", text: "running" });
    this.took = make("span", { class: "took" });
    this.path = make("span", { class: "path", hidden: true });
    this.bar = make("i");
    this.words = make("div", { class: "words" });
    this.list = make("ol", { class: "calls" });
    this.head = make("div", { class: "card-head" }, make("h4", { text: title }), this.pill, this.path, this.took);
    this.element = make(
      "li",
      { class: css, "data-state": "running" },
      this.head,
      make("div", { class: "lane", "aria-hidden": "true" }, this.bar),
      this.words,
      this.list,
    );
  }

  set(state, text, bad = false) {
    this.element.dataset.state = state;
    this.pill.textContent = text;
    this.pill.toggleAttribute("data-bad", bad);
    if (state === "done") this.pill.dataset.cache = bad ? "" : "exact";
  }

  add(call) {
    this.calls.push(call);
    this.list.append(call.element);
  }

  message(id, reasoning) {
    const text = document.createTextNode("");
    const paragraph = make("p", { class: "say" }, text);
    this.messages.set(id, text);
    this.words.append(reasoning ? make("details", { class: "thinking" }, make("summary", { text: "Thinking" }), paragraph) : paragraph);
  }

  text(id, delta, now) {
    if (!this.messages.has(id)) this.message(id, false, now);
    this.messages.get(id).appendData(delta);
    this.touched(now);
  }

  touched() {}

  // The card's start and duration as shares of the run's time.
  place(from, share) {
    this.bar.style.left = `min(${100 * Math.min(1, from)}%, 100% - 3px)`;
    this.bar.style.width = `${100 * Math.min(1 - Math.min(1, from), share)}%`;
  }

  critical(time) {
    this.waited = time;
    this.element.toggleAttribute("data-critical", time > 0);
    this.path.hidden = time <= 0;
    this.path.textContent = time > 0 ? `on the critical path for ${ms(time)}` : "";
  }
}

export class StepCard extends Card {
  constructor(name, now) {
    super(name, titleOf(name), "card");
    this.isModel = name.startsWith("model ");
    this.element.dataset.kind = this.isModel ? "upstream" : "tools";
    this.start = now;
    this.last = now;
    this.stopped = null;
  }

  message(id, reasoning, now) {
    super.message(id, reasoning);
    this.touched(now);
  }

  // Note that the model was working at this moment.
  touched(now) {
    this.last = now;
  }

  // The end of the model's own part: its last token, even if tools are still running.
  busyUntil(now) {
    if (this.fixed) return this.start + this.fixed;
    const speaking = !this.done && !this.calls.some((call) => call.start !== null);
    return speaking ? now : this.last;
  }

  timed(start, duration) {
    [this.start, this.fixed] = [start, duration];
    this.took.textContent = ms(duration);
  }

  finish(now) {
    if (this.done) return;
    this.done = true;
    this.stopped = now;
    this.set("done", "done");
    this.took.textContent = ms((this.isModel ? this.last : now) - this.start);
  }
}

export class CallCard extends Card {
  constructor(id, name, now) {
    super(name, name, "call");
    this.id = id;
    this.json = "";
    this.opened = now;
    this.start = null;
    this.stopped = null;
    this.asked = null;
    this.answered = null;
    this.code = make("pre", { class: "arguments", "aria-label": `Arguments of ${name}` });
    this.lane = this.element.querySelector(".lane");
    this.lane.after(this.code);
    this.outcome = make("div", { class: "outcome" });
    this.element.append(this.outcome);
    this.set("writing", "being written");
    this.bar.dataset.stage = "tools";
  }

  arguments(delta) {
    this.json += delta;
    this.code.textContent = this.json;
  }

  seal(now) {
    this.start ??= now;
    this.code.textContent = laidOut(this.json);
    this.set("running", "running");
  }

  subagent(event) {
    if (event.type === "SUBAGENT_STARTED") {
      this.isSub = true;
      this.element.classList.add("sub");
      this.head.querySelector("h4").textContent = `${event.name} (sub-agent)`;
    } else if (event.type === "SUBAGENT_ERROR") this.words.append(make("p", { class: "problem", text: event.message }));
  }

  timed(start, duration) {
    [this.start, this.stopped] = [start, start + duration];
    this.took.textContent = ms(duration);
  }

  result(text, { outcome = "ok", durationMs = 0, code = "", speculative = false }, now) {
    this.done = true;
    this.timed(Math.max(0, now - durationMs), durationMs);
    const good = GOOD.includes(outcome);
    this.set("done", OUTCOMES[outcome] ?? outcome, !good);
    const notes = [code, speculative ? "begun before the model asked" : ""].filter(Boolean).join(", ");
    const whole = laidOut(text);
    const result = make("pre", { class: "result", "aria-label": `Result of ${this.name}`, text: whole.slice(0, SHORT) });
    this.outcome.replaceChildren(...(notes ? [make("p", { class: "call-note", text: notes })] : []), result);
    if (whole.length <= SHORT) return;
    const more = make("button", { type: "button", class: "quiet", text: `Show all ${whole.length} characters` });
    more.addEventListener("click", () => {
      result.textContent = whole;
      result.tabIndex = -1;
      result.focus();
      more.remove();
    });
    result.textContent += "…";
    this.outcome.append(more);
  }

  // Mark the call as unfinished when the run ends first.
  drop(now) {
    this.done = true;
    this.stopped = now;
    this.start ??= now;
    this.set("done", "no result", true);
  }

  answer(now) {
    this.answered = now;
    this.start = now;
  }

  // Ask for approval; `decided({approved, arguments, reason})` is called once with the answer.
  ask(interrupt, now, decided) {
    this.asked = now;
    this.set("asking", "waits for you");
    const original = JSON.stringify(interrupt.metadata.arguments, null, 2);
    const changed = make("textarea", { rows: 4, spellcheck: "false" });
    changed.value = original;
    const reason = make("input", { type: "text", maxlength: 500 });
    const wrong = make("p", { class: "problem", role: "alert", hidden: true });
    const allow = make("button", { type: "submit", class: "send", text: "Approve" });
    const refuse = make("button", { type: "button", class: "quiet", text: "Decline" });
    const form = make(
      "form",
      { class: "approval", "aria-label": `Approval of ${this.name}` },
      make("p", { class: "question", text: interrupt.message }),
      make("details", {}, make("summary", { text: "Change the arguments" }), make("label", { text: "Arguments as JSON " }, changed)),
      make("label", { text: "Reason, should you decline " }, reason),
      make("div", { class: "buttons" }, allow, refuse),
      wrong,
    );
    const answer = (payload) => {
      this.outcome.replaceChildren(make("p", { class: "call-note", text: payload.approved ? "You approved this call." : "You declined this call." }));
      this.set("running", payload.approved ? "approved" : "declined", !payload.approved);
      decided(payload);
    };
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      try {
        const given = JSON.parse(changed.value);
        answer(changed.value === original ? { approved: true } : { approved: true, arguments: given });
      } catch {
        wrong.textContent = "The arguments are not JSON.";
        wrong.hidden = false;
      }
    });
    refuse.addEventListener("click", () => answer({ approved: false, ...(reason.value ? { reason: reason.value } : {}) }));
    this.outcome.replaceChildren(form);
    return allow;
  }
}
