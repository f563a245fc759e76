// The cache view: entries with their origin and hits, and buttons to report or delete them.

import { post, read, remove } from "./gateway.js";
import { table } from "./tables.js";
import { clock, make, outcome, seconds, requestLink, usd } from "./format.js";

const PAGE = 100;
const at = (id) => document.getElementById(id);
const share = (value) => (value === null || value === undefined ? "–" : `${(100 * value).toFixed(2)} %`);
const size = (bytes) => (bytes < 1e6 ? `${(bytes / 1e3).toFixed(1)} kB` : `${(bytes / 1e6).toFixed(1)} MB`);
const MODES = {
  shadow: "watches and serves nothing yet",
  open: "serves",
  closed: "closed itself: its hits were worse than proven",
};

export class Cache {
  constructor() {
    this.marks = [""];
    at("cache-kind").addEventListener("change", () => this.first());
    at("cache-newer").addEventListener("click", () => this.turn(-1));
    at("cache-older").addEventListener("click", () => this.turn(1));
    at("cache-again").addEventListener("click", () => this.show());
  }

  async show() {
    await Promise.all([this.sums(), this.page()]);
  }

  hide() {}

  async first() {
    this.marks = [""];
    await this.page();
  }

  async turn(by) {
    if (by > 0) this.marks.push(this.next);
    else this.marks.pop();
    await this.page();
  }

  async sums() {
    const found = await read("v1/cache/stats");
    if (!found) return;
    const counted = (counts, words) => Object.entries(counts).sort((a, b) => b[1] - a[1]).map(([name, n]) => [words(name), String(n)]);
    const parts = [
      table("Kept for equal requests", ["figure", "value"], [["entries", String(found.entries)], ["size", size(found.size_bytes)]]),
      table("Hits", ["kind", "requests"], counted(found.hits, outcome)),
      table("Misses", ["why", "requests"], counted(found.misses, (name) => name.replaceAll("_", " "))),
    ];
    if (found.semantic.enabled) parts.push(this.routes(found.semantic));
    at("cache-sums").replaceChildren(...parts);
  }

  // The semantic cache's routes: mode, error bound and the evidence for it.
  routes({ entries, routes }) {
    const rows = routes.map((route) => [
      route.model,
      MODES[route.mode] ?? route.mode,
      route.bound_per_hit === null ? `none proven; ${share(route.limit_per_hit)} allowed` : `${share(route.bound_per_hit)} of ${share(route.limit_per_hit)} allowed`,
      route.threshold === null ? `${route.labels} labels so far` : `${route.evidence_labels} labels, ${route.evidence_hits} would-be hits, ${route.evidence_wrong} wrong`,
      `${route.hits} of ${route.requests}`,
      route.audited ? `${route.audited_wrong} of ${route.audited} wrong` : "none",
    ]);
    const head = ["route", "now", "chance of a wrong hit", "evidence", "hits", "audits"];
    const made = table(`Hits by meaning: ${entries ?? "an unknown number of"} questions kept`, head, rows);
    made.classList.add("wide");
    return made;
  }

  async page() {
    const kind = at("cache-kind").value;
    const after = this.marks.at(-1);
    const found = await read(`v1/cache/entries?kind=${kind}&limit=${PAGE}&after=${encodeURIComponent(after)}`);
    at("cache-newer").disabled = this.marks.length === 1;
    at("cache-older").disabled = !found?.next;
    this.next = found?.next ?? "";
    const said = found ? this.count(found.entries.length) : "No list is given: this kind of cache is off, or a key is wanted (Ask, Options).";
    at("cache-count").textContent = said;
    const rows = (found?.entries ?? []).map((entry) => this.row(entry));
    at("cache-rows").replaceChildren(...rows);
    at("cache-table").hidden = rows.length === 0;
  }

  count(number) {
    if (!number) return this.marks.length === 1 ? "Nothing is kept." : "No more.";
    const first = (this.marks.length - 1) * PAGE;
    return `Entries ${first + 1} to ${first + number}, ${at("cache-kind").value === "exact" ? "newest first" : "in no order"}.`;
  }

  row(entry) {
    const used = entry.kind === "exact" ? `${entry.hits} ${entry.hits === 1 ? "hit" : "hits"}` : `${entry.askers} ${entry.askers === 1 ? "asker" : "askers"}`;
    const said = make("span", { role: "status" });
    const wrong = make("button", { type: "button", class: "quiet", text: "This was wrong", "aria-label": `This was wrong: entry ${entry.id.slice(0, 8)}` });
    const gone = make("button", { type: "button", class: "quiet", text: "Delete", "aria-label": `Delete: entry ${entry.id.slice(0, 8)}` });
    const row = make(
      "tr",
      {},
      make("td", {}, clock(entry.kept_unix_ms / 1000), make("small", { text: ` ${seconds(Math.max(0, entry.age_s))} ago` })),
      make("td", { text: entry.model || "any" }),
      make("td", {}, requestLink(entry.request_id)),
      make("td", { text: used }),
      make("td", { text: entry.tags.join(", ") || "–" }),
      make("td", { text: seconds(Math.max(0, entry.expires_in_s)) }),
      make("td", { text: usd(entry.cost_usd) }),
      make("td", { class: "acts" }, wrong, gone, said),
    );
    if (entry.text) row.children[3].after(this.words(entry.text));
    const act = async (call, words) => {
      wrong.disabled = gone.disabled = true;
      const taken = await call().catch(() => false);
      wrong.hidden = gone.hidden = taken;
      wrong.disabled = gone.disabled = false;
      row.toggleAttribute("data-gone", taken);
      said.textContent = taken ? words : "Not taken: it is gone already, or this key may not.";
      if (taken) this.sums();
    };
    wrong.addEventListener("click", () => act(() => post("v1/cache/feedback", { entry_id: entry.id, verdict: "wrong" }), "Removed as wrong."));
    gone.addEventListener("click", () => act(() => remove(`v1/cache/entries/${entry.id}`), "Deleted."));
    return row;
  }

  words({ question, answer }) {
    return make("td", { class: "kept-words" }, ...(question ? [make("b", { text: question }), make("br")] : []), answer ?? "unreadable");
  }
}
