// A question with its answer: streamed text, waterfall, cost and feedback buttons.

import { Refused, chat, post, read } from "./gateway.js";
import { make, ms, outcome, status, tokens, usd } from "./format.js";
import { LiveWaterfall, serverTiming } from "./waterfall.js";

const HITS = ["exact", "semantic", "coalesced", "lane"];
const CUTS = {
  length: "The answer was cut at its token limit.",
  content_filter: "The model's filter withheld the rest.",
  tool_calls: "The model asks for a tool of yours; this page has none to offer.",
};

export class Turn {
  constructor(question, endpoints) {
    this.question = question;
    this.endpoints = endpoints;
    this.text = document.createTextNode("");
    this.answer = make("div", { class: "answer", "aria-busy": "true" }, this.text);
    this.note = make("p", { class: "note", hidden: true });
    this.problem = make("p", { class: "problem", role: "alert", hidden: true });
    this.facts = make("dl", { class: "facts" });
    this.reason = make("p", { class: "reason", hidden: true });
    this.verdict = make("div", { class: "verdict", hidden: true });
    this.element = make(
      "article",
      { class: "turn", "aria-label": `Question: ${question.slice(0, 80)}` },
      make("p", { class: "asked", text: question }),
      this.answer,
      this.note,
      this.problem,
    );
    this.stopping = new AbortController();
    this.told = {};
  }

  stop() {
    this.stopping.abort();
  }

  // Send the request; resolves when the answer is complete, stopped or failed.
  async run(request, options) {
    this.waterfall = new LiveWaterfall();
    this.element.append(make("div", { class: "account" }, this.waterfall.element, this.facts, this.reason, this.verdict));
    try {
      await chat(request, options, this.listener(), this.stopping.signal);
      this.done = true;
    } catch (error) {
      this.fail(error);
    }
    this.waterfall.end();
    this.note.hidden = !this.stopped;
    this.answer.setAttribute("aria-busy", "false");
    this.answer.hidden = !this.text.data;
    this.show();
  }

  // Show the gateway's trace; returns a sentence for the screen reader.
  async settle() {
    await this.refine();
    this.offerVerdict();
    return this.sentence();
  }

  listener() {
    return {
      headers: (response) => {
        const get = (name) => response.headers.get(name) ?? "";
        this.requestId = get("x-request-id");
        this.told = {
          cache: get("x-slipstream-cache"),
          model: get("x-slipstream-model"),
          tier: get("x-slipstream-tier"),
          reason: get("x-slipstream-reason"),
        };
        this.waterfall.headers(serverTiming(get("server-timing")));
        this.show();
      },
      text: (delta) => {
        this.note.hidden = true;
        this.text.appendData(delta);
        this.word();
      },
      thinking: (delta) => {
        this.thinking(delta);
        this.word();
      },
      note: (text) => {
        this.note.textContent = text;
        this.note.hidden = false;
      },
      usage: (usage) => {
        const cached = usage.prompt_tokens_details?.cached_tokens ?? 0;
        this.usage = {
          input_tokens: usage.prompt_tokens - cached,
          cached_tokens: cached,
          cache_write_tokens: 0,
          output_tokens: usage.completion_tokens,
        };
      },
      finish: (word) => {
        if (CUTS[word]) this.say(CUTS[word]);
      },
    };
  }

  word() {
    if (this.waterfall.firstToken !== null) return;
    this.waterfall.token();
    this.show();
  }

  thinking(delta) {
    if (!this.thoughts) {
      this.thoughts = make("p");
      const box = make("details", { class: "thinking" }, make("summary", { text: "Thinking" }), this.thoughts);
      this.answer.before(box);
    }
    this.thoughts.append(delta);
  }

  fail(error) {
    if (error.name === "AbortError") {
      this.stopped = true;
      this.note.textContent = "Stopped.";
      return;
    }
    if (!(error instanceof Refused)) {
      this.say(this.text.data ? "The connection to the gateway broke off." : "The gateway does not answer. Is it still running?");
      return;
    }
    const lead = this.text.data ? "The answer broke off." : status(error.status);
    const message = error.message.charAt(0).toUpperCase() + error.message.slice(1);
    this.say(`${lead} ${message}`.trim(), error.code);
  }

  say(text, code = "") {
    this.problem.replaceChildren(text, ...(code ? [" ", make("code", { text: code })] : []));
    this.problem.hidden = false;
  }

  // The gateway's trace replaces this page's estimates. It is written just after the last byte.
  async refine() {
    if (!this.requestId) return;
    for (const wait of [0, 60, 250, 800]) {
      await new Promise((resolve) => setTimeout(resolve, wait));
      const trace = await read(`v1/traces/${encodeURIComponent(this.requestId)}`);
      if (!trace) continue;
      this.trace = trace;
      if (trace.spans.length) this.waterfall.trace(trace);
      this.show();
      return;
    }
  }

  show() {
    const { trace, told } = this;
    const cache = trace?.cache.outcome ?? told.cache;
    const rows = [];
    const add = (name, value) => {
      if (value) rows.push(make("div", {}, make("dt", { text: name }), make("dd", {}, value)));
    };
    if (cache) add("cache", make("span", { class: "pill", "data-cache": cache, text: outcome(cache) }));
    add("model", told.model || trace?.model);
    add("tier", trace?.tier ?? told.tier);
    add("first word", this.waterfall.firstToken === null ? "" : ms(trace?.ttft_ms ?? this.waterfall.firstToken));
    if (this.waterfall.ended !== null) add("total", ms(trace?.total_ms ?? this.waterfall.now()));
    add("tokens", tokens(trace?.usage ?? this.usage));
    if (trace) add("cost", usd(trace.cost_usd));
    if (trace?.avoided_cost_usd) add("saved", usd(trace.avoided_cost_usd));
    if (trace?.overhead_ms !== null && trace?.overhead_ms !== undefined) add("gateway's own time", ms(trace.overhead_ms));
    this.facts.replaceChildren(...rows);
    const reason = trace?.reason || told.reason;
    this.reason.textContent = reason ? `Why: ${reason}` : "";
    this.reason.hidden = !reason;
  }

  offerVerdict() {
    const hit = HITS.includes(this.told.cache) && this.told.cache !== "lane";
    const path = hit ? "v1/cache/feedback" : "v1/feedback";
    if (!this.done || !this.requestId || !this.endpoints.has(`/${path}`)) return;
    const words = hit ? { right: "right", wrong: "wrong" } : { right: "good", wrong: "bad" };
    const buttons = ["right", "wrong"].map((word) => {
      const button = make("button", { type: "button", class: "quiet", text: `This was ${word}` });
      button.addEventListener("click", async () => {
        const taken = await post(path, { request_id: this.requestId, verdict: words[word] }).catch(() => false);
        this.verdict.replaceChildren(taken ? this.thanks(hit, word) : "The verdict was not taken.");
        this.verdict.setAttribute("role", "status");
      });
      return button;
    });
    this.verdict.replaceChildren(...buttons);
    this.verdict.hidden = false;
  }

  thanks(hit, word) {
    if (word === "right") return "Noted: this was right.";
    return hit ? "Noted: the kept answer is removed. Ask again for a new one." : "Noted: this was wrong.";
  }

  sentence() {
    if (this.stopped) return "Stopped.";
    if (!this.done) return "";
    const cache = this.trace?.cache.outcome ?? this.told.cache;
    const total = ms(this.trace?.total_ms ?? this.waterfall.now());
    return `Answer complete after ${total}${cache ? `, ${outcome(cache)}` : ""}.`;
  }
}
