// The overview: load, latency objective, cache, tiers, savings and upstreams.

import { read, readText, readiness } from "./gateway.js";
import { table } from "./tables.js";
import { Polled } from "./views.js";
import { whySlow } from "./explanation.js";
import { clock, make, ms, outcome, seconds, requestLink, usd } from "./format.js";

const EVERY_MS = 3000;
const WINDOW_S = 300;
const PAGE = 1000;
const SLOWEST = 5;
// The latency objective: this share of answers within this time.
const PROMISES = [
  { share: 0.8, within_ms: 3000 },
  { share: 0.95, within_ms: 5000 },
];
const at = (id) => document.getElementById(id);
const percent = (part, whole) => `${whole ? ((100 * part) / whole).toFixed(1) : "0.0"} %`;

export function percentile(sorted, share) {
  return sorted.length ? sorted[Math.min(sorted.length - 1, Math.ceil(share * sorted.length) - 1)] : null;
}

function counts(traces, of) {
  const found = new Map();
  for (const trace of traces) found.set(of(trace), (found.get(of(trace)) ?? 0) + 1);
  return [...found].sort((a, b) => b[1] - a[1]);
}

// {provider: {which: value}} from the gauge slipstream_upstream_places in Prometheus' text.
export function places(metrics) {
  const found = {};
  const line = /^slipstream_upstream_places\{provider="([^"]*)",which="([^"]*)"\} (\S+)/gm;
  for (const [, provider, which, value] of metrics.matchAll(line)) (found[provider] ??= {})[which] = Number(value);
  return found;
}

export class Overview extends Polled {
  constructor() {
    super(EVERY_MS);
  }

  async refresh() {
    // Keep the keyboard focus on a link in here.
    if (at("overview").contains(document.activeElement)) return;
    const [found, saved, metrics, ready] = await Promise.all([
      read(`v1/traces?limit=${PAGE}`),
      read("v1/savings?window_s=3600"),
      readText("metrics"),
      readiness(),
    ]);
    const parts = [this.state(ready)];
    if (found) parts.push(...this.traffic(found.traces));
    else parts.push(make("p", { text: "No traces are given to this caller: a key may be wanted (Ask, Options)." }));
    if (saved) parts.push(this.savings(saved));
    if (metrics) parts.push(this.upstreams(metrics));
    at("overview").replaceChildren(...parts);
  }

  state(ready) {
    const faults = Object.entries(ready?.degraded ?? {});
    if (ready === null) return make("p", { class: "state", "data-bad": true, text: "The gateway does not answer." });
    const lead = ready.ready ? "Ready" : `Not ready: ${ready.status}`;
    const list = faults.map(([part, text]) => make("li", { text: `${part.replaceAll("_", " ")}: ${text}` }));
    return make(
      "div",
      { class: "state", "data-bad": !ready.ready || faults.length > 0 },
      make("p", { text: faults.length ? `${lead}, but degraded:` : `${lead}; nothing is degraded.` }),
      make("ul", {}, ...list),
    );
  }

  traffic(traces) {
    const now = Date.now() / 1000;
    const recent = traces.filter((trace) => trace.started_unix_s > now - WINDOW_S);
    // If the gateway keeps less than the window, compute the rate over what it keeps.
    const full = traces.length >= PAGE && recent.length === traces.length;
    const span = full ? Math.max(1, now - recent.at(-1).started_unix_s) : WINDOW_S;
    const good = recent.filter((trace) => trace.status === 200 && !trace.code);
    const left = recent.filter((trace) => trace.status === 499);
    const times = good.map((trace) => trace.total_ms).sort((a, b) => a - b);
    const rows = [
      ["requests a second", (recent.length / span).toFixed(2)],
      ["requests", String(recent.length)],
      ["failed", percent(recent.length - good.length - left.length, recent.length)],
      ["left by the client", percent(left.length, recent.length)],
      ...[0.5, 0.8, 0.95, 0.99].map((share) => [`p${Math.round(share * 100)}`, ms(percentile(times, share))]),
    ];
    const promises = PROMISES.map(({ share, within_ms }) => {
      const within = times.filter((time) => time <= within_ms).length;
      // Failed and abandoned requests do not count as answered in time.
      const held = recent.length ? (within / recent.length >= share ? "held" : "broken") : "no traffic";
      return [`${share * 100} % within ${within_ms / 1000} s`, percent(within, recent.length), held];
    });
    const shares = (list) => list.map(([name, count]) => [name, String(count), percent(count, recent.length)]);
    const slowest = table("The slowest of these, and why", ["at", "request", "took", "why"], this.slowest(recent));
    slowest.classList.add("wide", "slowest");
    const figures = table(`The last ${seconds(span)}`, ["figure", "value"], rows);
    figures.classList.add("tall");
    return [
      figures,
      table("The promise", ["promise", "now", "state"], promises),
      table("Cache", ["outcome", "requests", "share"], shares(counts(recent, (t) => outcome(t.cache.outcome) || "none"))),
      table("Tiers", ["tier", "requests", "share"], shares(counts(recent, (t) => t.tier ?? "no model"))),
      slowest,
    ];
  }

  slowest(recent) {
    return [...recent]
      .sort((a, b) => b.total_ms - a.total_ms)
      .slice(0, SLOWEST)
      .map((trace) => [clock(trace.started_unix_s), requestLink(trace.request_id), ms(trace.total_ms), whySlow(trace)]);
  }

  savings(saved) {
    const rows = Object.entries(saved.by_technique)
      .filter(([, one]) => one.turns)
      .map(([name, one]) => [name.replaceAll("_", " "), String(one.turns), seconds(one.saved_s), usd(one.saved_usd)]);
    rows.push(["together", String(saved.turns), seconds(saved.saved_s), usd(saved.saved_usd)]);
    return table("Saved in the last hour", ["technique", "turns", "time", "money"], rows);
  }

  upstreams(metrics) {
    const rows = Object.entries(places(metrics)).map(([name, one]) => [
      name, String(one.in_use ?? 0), String(one.waiting ?? 0), String(one.limit ?? "–"),
    ]);
    return table("Upstreams", ["provider", "calls now", "waiting", "limit"], rows);
  }
}
