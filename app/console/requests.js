// The list of requests with filters; only visible rows exist in the document.

import { read } from "./gateway.js";
import { Polled } from "./views.js";
import { Waterfall } from "./waterfall.js";
import { explanation, figures, whySlow, wrongHitButton } from "./explanation.js";
import { clock, make, ms } from "./format.js";

const ROW_PX = 34;
const AHEAD = 8;
const KEPT = 10000;
const PAGE = 1000;
const EVERY_MS = 4000;
const at = (id) => document.getElementById(id);
const keyOf = (trace) => `${trace.request_id} ${trace.started_unix_s}`;

export class Requests extends Polled {
  constructor() {
    super(EVERY_MS);
    this.all = [];
    this.known = new Set();
    this.shown = [];
    this.chosen = null;
    this.active = 0;
    this.viewport = at("rows");
    this.spacer = make("div", { role: "presentation" });
    this.viewport.append(this.spacer);
    this.viewport.addEventListener("scroll", () => this.paint());
    this.viewport.addEventListener("keydown", (event) => this.key(event));
    for (const name of ["filter-status", "filter-cache", "filter-model", "filter-order"]) {
      at(name).addEventListener("change", () => this.filter());
    }
    at("filter-text").addEventListener("input", () => this.filter());
    new ResizeObserver(() => this.paint()).observe(this.viewport);
    document.addEventListener("open-request", (event) => this.find(event.detail));
  }

  show() {
    this.visible = true;
    super.show();
  }

  // Show one request by its id, ignoring the filters.
  async find(id) {
    for (const name of ["filter-status", "filter-cache", "filter-model"]) at(name).value = "";
    at("filter-text").value = id;
    await this.refresh();
    this.choose(0);
  }

  hide() {
    this.visible = false;
    super.hide();
  }

  async refresh() {
    const found = await read(`v1/traces?limit=${PAGE}`);
    if (!found) {
      at("rows-count").textContent = "The gateway gives no traces: it may want a key (see Ask, Options).";
      return;
    }
    const fresh = found.traces.filter((trace) => !this.known.has(keyOf(trace)));
    for (const trace of fresh) this.known.add(keyOf(trace));
    this.all = [...fresh, ...this.all];
    for (const trace of this.all.splice(KEPT)) this.known.delete(keyOf(trace));
    if (fresh.length) this.models();
    this.filter();
  }

  models() {
    const names = [...new Set(this.all.map((trace) => trace.model).filter(Boolean))].sort();
    const chosen = at("filter-model").value;
    const options = names.map((name) => new Option(name, name, false, name === chosen));
    at("filter-model").replaceChildren(new Option("any", ""), ...options);
  }

  filter() {
    const [state, cache, model] = ["status", "cache", "model"].map((name) => at(`filter-${name}`).value);
    const text = at("filter-text").value.trim().toLowerCase();
    const active = this.shown[this.active];
    const good = (trace) => trace.status === 200 && !trace.code;
    this.shown = this.all.filter(
      (trace) =>
        (!state || (state === "ok") === good(trace)) &&
        (!cache || trace.cache.outcome === cache) &&
        (!model || trace.model === model) &&
        (!text || trace.request_id.toLowerCase().includes(text)),
    );
    if (at("filter-order").value === "slowest") this.shown.sort((a, b) => b.total_ms - a.total_ms);
    const place = active ? this.shown.indexOf(active) : -1;
    this.active = Math.max(0, place);
    at("rows-count").textContent = `${this.shown.length} of ${this.all.length} requests`;
    this.paint();
  }

  paint() {
    this.spacer.style.height = `${this.shown.length * ROW_PX}px`;
    const first = Math.max(0, Math.floor(this.viewport.scrollTop / ROW_PX) - AHEAD);
    const last = Math.min(this.shown.length, first + Math.ceil(this.viewport.clientHeight / ROW_PX) + 2 * AHEAD);
    const rows = [];
    for (let place = first; place < last; place += 1) rows.push(this.row(this.shown[place], place));
    this.spacer.replaceChildren(...rows);
    if (rows.length) this.viewport.setAttribute("aria-activedescendant", `row-${this.active}`);
    else this.viewport.removeAttribute("aria-activedescendant");
  }

  row(trace, place) {
    const bad = trace.status !== 200 || trace.code;
    const who = trace.model ?? (trace.cache.outcome === "lane" ? "lane" : trace.requested_model || "–");
    const label = bad ? (trace.code ?? String(trace.status)) : (trace.cache.outcome ?? "");
    const cells = [
      make("span", { class: "when", text: clock(trace.started_unix_s) }),
      make("span", { class: "id", text: trace.request_id }),
      make("span", { text: who }),
      make("span", {}, make("span", { class: "pill", "data-cache": trace.cache.outcome, "data-bad": Boolean(bad), text: label })),
      make("span", { class: "took", text: ms(trace.total_ms) }),
    ];
    const row = make("div", {
      id: `row-${place}`,
      class: "trace-row",
      role: "option",
      "aria-selected": String(this.chosen === keyOf(trace)),
      "aria-posinset": place + 1,
      "aria-setsize": this.shown.length,
      "data-active": place === this.active,
    }, ...cells);
    row.style.top = `${place * ROW_PX}px`;
    row.addEventListener("click", () => this.choose(place));
    return row;
  }

  key(event) {
    const page = Math.max(1, Math.floor(this.viewport.clientHeight / ROW_PX) - 1);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    if (event.key === "Enter" || event.key === " ") this.choose(this.active);
    else if (event.key in steps) this.move(steps[event.key]);
    else return;
    event.preventDefault();
  }

  move(by) {
    this.active = Math.min(this.shown.length - 1, Math.max(0, this.active + by));
    const top = this.active * ROW_PX;
    const height = this.viewport.clientHeight;
    if (top < this.viewport.scrollTop) this.viewport.scrollTop = top;
    else if (top + ROW_PX > this.viewport.scrollTop + height) this.viewport.scrollTop = top + ROW_PX - height;
    this.paint();
  }

  async choose(place) {
    const trace = this.shown[place];
    if (!trace) return;
    this.active = place;
    this.chosen = keyOf(trace);
    this.paint();
    // The single trace has the verifier's explanation, which the list leaves out. An id may be used twice.
    const whole = await read(`v1/traces/${encodeURIComponent(trace.request_id)}`);
    if (this.chosen !== keyOf(trace)) return;
    this.detail(whole && keyOf(whole) === keyOf(trace) ? whole : trace);
  }

  detail(trace) {
    const waterfall = new Waterfall();
    const parts = [
      make("h3", { text: "Why did this take so long?" }),
      make("p", { class: "slow", text: whySlow(trace) }),
      waterfall.element,
      make("p", { class: "key-note", text: "Marked stages are the critical path: what the end waited for." }),
      make("h3", { text: "What was decided, and why" }),
      explanation(trace),
      wrongHitButton(trace),
      figures(trace),
    ];
    at("trace-detail").replaceChildren(...parts.filter(Boolean));
    waterfall.trace(trace);
  }
}
