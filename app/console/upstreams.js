// The state of each upstream and deployment, as the workers see it.

import { read, readiness } from "./gateway.js";
import { table } from "./tables.js";
import { Polled } from "./views.js";
import { make, seconds, usd } from "./format.js";

const EVERY_MS = 3000;
const at = (id) => document.getElementById(id);
const STATES = { closed: "in use", held: "on hold, as its vendor said", half_open: "probed", open: "not asked: it fails" };
const ORDER = Object.keys(STATES);
const took = (value) => (value === null ? "–" : seconds(value));
const most = (values) => values.reduce((a, b) => (b !== null && (a === null || b > a) ? b : a), null);
const sum = (values) => values.reduce((a, b) => a + b, 0);

// Merge the workers' lists, grouped by name.
function together(lists, name) {
  const found = new Map();
  for (const one of lists.flat()) found.set(one[name], [...(found.get(one[name]) ?? []), one]);
  return [...found.values()];
}

export class Upstreams extends Polled {
  constructor() {
    super(EVERY_MS);
  }

  async refresh() {
    const [found, ready] = await Promise.all([read("v1/upstreams"), readiness()]);
    const parts = [this.degraded(ready)];
    if (found) parts.push(...this.parts(found.workers));
    else parts.push(make("p", { text: "Nothing is told to this caller: an admin key may be wanted (Ask, Options)." }));
    at("upstreams").replaceChildren(...parts);
  }

  degraded(ready) {
    if (ready === null) return make("p", { class: "state", "data-bad": true, text: "The gateway does not answer." });
    const faults = Object.entries(ready.degraded ?? {}).map(([part, why]) => make("li", { text: `${part.replaceAll("_", " ")}: ${why}` }));
    const text = faults.length ? "Some parts work less well than they should:" : "No part of the gateway is degraded.";
    return make("div", { class: "state", "data-bad": faults.length > 0 || !ready.ready }, make("p", { text }), make("ul", {}, ...faults));
  }

  parts(workers) {
    const wide = [this.deployments(workers), this.providers(workers)];
    for (const one of wide) one.classList.add("wide");
    const hedges = workers.map((worker) => worker.hedges);
    const failures = together(workers.map((worker) => worker.providers), "name").flatMap((those) => this.failures(those));
    return [
      ...wide,
      table("Failed calls since the start", ["upstream", "error", "calls"], failures),
      table("Second calls beside a slow first one", ["outcome", "value"], [
        ...["won", "lost", "failed"].map((word) => [word, String(sum(hedges.map((one) => one[word] ?? 0)))]),
        ["the losers cost about", usd(sum(hedges.map((one) => one.cost_usd)))],
      ]),
    ];
  }

  deployments(workers) {
    const rows = together(workers.map((worker) => worker.deployments), "model").map((those) => {
      const state = ORDER[Math.max(...those.map((one) => ORDER.indexOf(one.state)))];
      const wait = Math.max(...those.map((one) => one.asked_again_in_s));
      const words = STATES[state] + (wait > 0 ? `, for ${seconds(wait)} more` : "");
      const worst = (name) => took(most(those.map((one) => one[name])));
      return [
        those[0].model,
        `${those[0].provider}/${those[0].upstream_model}, ${those[0].tier}`,
        make("span", { class: "pill", "data-cache": state === "closed" ? "exact" : "", "data-bad": state === "open" || state === "half_open", text: words }),
        String(sum(those.map((one) => one.in_flight))),
        worst("first_token_s"),
        `${worst("first_token_p50_s")} / ${worst("first_token_p95_s")}`,
        worst("whole_call_s"),
        `${(100 * most(those.map((one) => one.failing_share))).toFixed(1)} %`,
      ];
    });
    const head = ["model", "is", "state", "in flight", "first token, now", "p50 / p95", "whole call", "failing"];
    return table("Deployments", head, rows);
  }

  providers(workers) {
    const rows = together(workers.map((worker) => worker.providers), "name").map((those) => {
      const places = (which) => sum(those.map((one) => one.places[which]));
      const open = those.map((one) => one.connections).filter(Boolean);
      const connections = (which) => (open.length ? String(sum(open.map((one) => one[which]))) : "–");
      const limited = sum(those.map((one) => one.failures.upstream_rate_limit ?? 0));
      return [
        those[0].name,
        `${places("in_use")} of ${Math.round(places("limit"))}`,
        String(places("waiting")),
        String(limited),
        `${connections("open")}, ${connections("idle")} idle`,
        connections("waiting"),
        connections("opened_total"),
      ];
    });
    return table("Upstreams", ["upstream", "places in use", "calls that wait", "429s", "connections", "waiting for one", "opened"], rows);
  }

  failures(those) {
    const counts = new Map();
    for (const one of those) for (const [code, n] of Object.entries(one.failures)) counts.set(code, (counts.get(code) ?? 0) + n);
    return [...counts].sort((a, b) => b[1] - a[1]).map(([code, n]) => [those[0].name, code.replaceAll("_", " "), String(n)]);
  }
}
