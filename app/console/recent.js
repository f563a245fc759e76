// The gateway's last requests of all clients; each opens to its waterfall.

import { read } from "./gateway.js";
import { clock, make, ms, outcome, status, tokens, usd } from "./format.js";
import { STAGES, Waterfall } from "./waterfall.js";

const EVERY_MS = 4000;
const CLIENT_LEFT = 499;

function cacheWords({ outcome: word, reason }) {
  return [outcome(word), reason === word ? "" : reason?.replaceAll("_", " ")].filter(Boolean).join(": ");
}

export class Recent {
  constructor({ list, empty, legend }) {
    this.list = list;
    this.empty = empty;
    this.rows = new Map();
    const key = (stage) => make("span", {}, make("i", { "data-stage": stage }), stage);
    legend.replaceChildren(...STAGES.map(key), make("span", {}, make("i", { class: "dash" }), "first word"));
  }

  start() {
    const again = async () => {
      if (!document.hidden) await this.refresh();
      setTimeout(again, EVERY_MS);
    };
    again();
  }

  async refresh() {
    const found = await read("v1/traces?limit=50");
    if (!found) return;
    const kept = new Map();
    for (const trace of found.traces) {
      // A request id may be used twice; the start time distinguishes the turns.
      const id = `${trace.request_id} ${trace.started_unix_s}`;
      kept.set(id, this.rows.get(id) ?? this.row(trace));
    }
    this.rows = kept;
    this.empty.hidden = kept.size > 0;
    this.arrange([...kept.values()]);
  }

  // Reorder rows and touch only those that moved, so that a focused or open row keeps its state.
  arrange(rows) {
    const wanted = new Set(rows);
    for (const row of [...this.list.children]) if (!wanted.has(row)) row.remove();
    rows.forEach((row, place) => {
      if (this.list.children[place] !== row) this.list.insertBefore(row, this.list.children[place] ?? null);
    });
  }

  row(trace) {
    const bad = trace.status !== 200 || trace.code;
    const failed = trace.code ?? (trace.status === CLIENT_LEFT ? "client left" : String(trace.status));
    const label = bad ? failed : (trace.cache.outcome ?? "");
    const button = make(
      "button",
      { type: "button", class: "request", "aria-expanded": "false" },
      make("span", { class: "when", text: clock(trace.started_unix_s) }),
      make("span", { class: "who", text: trace.model ?? (trace.cache.outcome === "lane" ? "lane" : trace.requested_model || "–") }),
      make("span", { class: "took", text: ms(trace.total_ms) }),
      make("span", { class: "mark", text: trace.stream ? "stream" : "json" }),
      this.mini(trace),
      make("span", { class: "pill", "data-cache": trace.cache.outcome, "data-bad": Boolean(bad), text: label }),
    );
    const row = make("li", {}, button);
    let opened = null;
    button.addEventListener("click", () => {
      const open = button.getAttribute("aria-expanded") === "true";
      button.setAttribute("aria-expanded", String(!open));
      if (open) opened.element.remove();
      else {
        opened = this.opened(trace);
        row.append(opened.element);
        opened.waterfall.trace(trace);
      }
    });
    return row;
  }

  mini(trace) {
    const bars = make("span", { class: "mini", "aria-hidden": "true" });
    for (const span of trace.spans) {
      if (span.parent !== null) continue;
      const bar = make("i", { "data-stage": span.stage });
      bar.style.left = `min(${(span.start_ms / trace.total_ms) * 100}%, 100% - 2px)`;
      bar.style.width = `${(span.duration_ms / trace.total_ms) * 100}%`;
      bars.append(bar);
    }
    return bars;
  }

  opened(trace) {
    const waterfall = new Waterfall();
    const facts = [
      ["request", trace.request_id],
      ["asked for", trace.requested_model],
      ["answered by", trace.provider && trace.model ? `${trace.provider}/${trace.model}` : trace.model],
      ["tier", trace.tier],
      ["cache", cacheWords(trace.cache)],
      ["first word", trace.ttft_ms === null ? "" : ms(trace.ttft_ms)],
      ["tokens", tokens(trace.usage)],
      ["cost", usd(trace.cost_usd)],
      ["saved", trace.avoided_cost_usd ? usd(trace.avoided_cost_usd) : ""],
      ["gateway's own time", trace.overhead_ms === null ? "" : ms(trace.overhead_ms)],
      ["tries", trace.attempts > 1 ? String(trace.attempts) : ""],
      ["error", trace.status === 200 && !trace.code ? "" : `${trace.status} ${trace.code ?? ""}: ${status(trace.status === 200 ? 502 : trace.status)}`],
      ["client left", (trace.disconnect ?? "").replaceAll("_", " ")],
      ["why", trace.reason],
    ];
    const rows = facts
      .filter(([, value]) => value)
      .map(([name, value]) => make("div", {}, make("dt", { text: name }), make("dd", { text: value })));
    const element = make("div", { class: "opened" }, waterfall.element, make("dl", { class: "facts" }, ...rows));
    return { element, waterfall };
  }
}
