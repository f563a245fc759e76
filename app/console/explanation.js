// Explains a request: its critical path, and each decision in words.

import { clock, make, ms, outcome, status, tokens, usd } from "./format.js";
import { post } from "./gateway.js";

// Times closer than this count as equal.
const CLOCK_TOLERANCE_MS = 0.05;

// The critical path: [{index, time}], first to last. It is walked backwards from the end; at each moment the
// span that was running latest is the one that was waited for. A tool call is never started by another that
// runs in parallel (it is started by the model's stream or by a call's end). Nested spans are walked within
// their parent's time; the remainder is the parent's own.
export function criticalPath(spans, total) {
  const found = new Map();
  const walk = (parent, from, to) => {
    let at = to;
    let own = to - from;
    for (;;) {
      let best = -1;
      let until = from;
      spans.forEach((span, index) => {
        if ((span.parent ?? null) !== parent || index === parent || span.start >= at || span.duration <= 0) return;
        if (span.stage === "tools" && at < to && span.start + span.duration > at + CLOCK_TOLERANCE_MS) return;
        const end = Math.min(at, span.start + span.duration);
        const later = end > until || (end === until && best >= 0 && span.start > spans[best].start);
        if (later) [best, until] = [index, end];
      });
      if (best < 0 || until <= from) break;
      const start = Math.max(from, spans[best].start);
      own -= until - start;
      found.set(best, (found.get(best) ?? 0) + walk(best, start, until));
      at = start;
    }
    return own;
  };
  const between = walk(null, 0, total);
  const path = [...found].map(([index, time]) => ({ index, time }));
  path.sort((a, b) => spans[a.index].start - spans[b.index].start);
  return { path, between };
}

export function spansOf(trace) {
  return trace.spans.map((span) => ({
    stage: span.stage,
    start: span.start_ms,
    duration: span.duration_ms,
    detail: span.detail,
    parent: span.parent,
  }));
}

const BUSY = {
  lanes: "the lanes looking for a ready answer",
  cache: "the cache looking for a kept answer",
  embed: "making the question's vector",
  classifier: "judging how hard the question is",
  router: "choosing a model",
  upstream: "waiting for the model",
  tools: "running tools",
  synthesis: "putting the answer together",
  stream: "streaming the answer as the model wrote it",
};

// "Mostly waiting for the model (local/sim-fast): 498 of 742 ms." The answer to "why was this slow".
export function whySlow(trace) {
  const spans = spansOf(trace);
  const { path, between } = criticalPath(spans, trace.total_ms);
  if (!path.length) return `It took ${ms(trace.total_ms)}; no stage was measured.`;
  const longest = path.reduce((a, b) => (b.time > a.time ? b : a));
  if (between > longest.time) return `Mostly between the stages (reading, writing, waiting for a turn): ${ms(between)} of ${ms(trace.total_ms)}.`;
  const { stage, detail } = spans[longest.index];
  return `Mostly ${BUSY[stage] ?? stage}${detail ? ` (${detail})` : ""}: ${ms(longest.time)} of ${ms(trace.total_ms)}.`;
}

const MISSES = {
  absent: "nothing was kept for it",
  expired: "what was kept had grown too old",
  exact: "the very same request was answered before",
  bypass: "the request asked to leave the cache out",
  uncacheable: "a request of this kind is not kept",
};

const BANDS = {
  fast: "clearly below the threshold",
  powerful: "clearly above the threshold",
  grey: "close to the threshold, where a wrong choice costs least",
  forced: "not judged: a model, a header or a rule named it",
};

// [{title, text, words}] for each decision about this request.
export function decisions(trace) {
  const found = [];
  const { cache } = trace;
  if (cache.outcome) {
    const why = MISSES[cache.reason] ?? cache.reason?.replaceAll("_", " ");
    found.push({
      title: "Cache",
      text: `${outcome(cache.outcome)}${why ? `: ${why}` : ""}.`,
      words: cache.words ?? [],
    });
  }
  if (trace.tier || trace.band) {
    const judged = trace.complexity ?? null;
    const parts = [`tier ${trace.tier ?? "unknown"}`];
    if (judged !== null) parts.push(`judged ${judged.toFixed(2)} on a scale from 0 (easy) to 1 (hard)`);
    if (typeof trace.threshold === "number") parts.push(`the threshold is ${trace.threshold.toFixed(2)}`);
    if (trace.band) parts.push(BANDS[trace.band] ?? trace.band);
    found.push({ title: "Router", text: `${parts.join("; ")}.`, words: [] });
  }
  if (trace.reason) found.push({ title: "Reason", text: `${trace.reason}.`, words: [] });
  if (trace.attempts > 1) found.push({ title: "Tries", text: `${trace.attempts} calls of models were made.`, words: [] });
  if (trace.status !== 200 || trace.code) {
    const code = trace.status === 200 ? 502 : trace.status;
    found.push({ title: "Error", text: `${trace.status} ${trace.code ?? ""}: ${status(code)}`, words: [] });
  }
  if (trace.disconnect) found.push({ title: "Client", text: `left ${trace.disconnect.replaceAll("_", " ")}.`, words: [] });
  return found;
}

export function explanation(trace) {
  const list = make("dl", { class: "decisions" });
  for (const { title, text, words } of decisions(trace)) {
    const told = make("dd", { text });
    if (words.length) {
      const items = words.map((word) => make("li", { text: word }));
      told.append(make("ul", { class: "verifier", "aria-label": "The verifier's words" }, ...items));
    }
    list.append(make("div", {}, make("dt", { text: title }), told));
  }
  return list;
}

export function figures(trace) {
  const rows = [
    ["request", trace.request_id],
    ["at", clock(trace.started_unix_s)],
    ["asked for", trace.requested_model],
    ["answered by", trace.provider && trace.model ? `${trace.provider}/${trace.model}` : trace.model],
    ["first word", trace.ttft_ms === null ? "" : ms(trace.ttft_ms)],
    ["total", ms(trace.total_ms)],
    ["gateway's own time", trace.overhead_ms === null ? "" : ms(trace.overhead_ms)],
    ["tokens", tokens(trace.usage)],
    ["cost", usd(trace.cost_usd)],
    ["saved", trace.avoided_cost_usd ? usd(trace.avoided_cost_usd) : ""],
  ];
  const shown = rows.filter(([, value]) => value);
  return make(
    "dl",
    { class: "facts" },
    ...shown.map(([name, value]) => make("div", {}, make("dt", { text: name }), make("dd", { text: value }))),
  );
}

const HITS = ["exact", "semantic", "coalesced"];

// The button to report a wrong hit; null if the request was no hit.
export function wrongHitButton(trace) {
  if (!HITS.includes(trace.cache.outcome)) return null;
  const said = make("span", { role: "status" });
  const button = make("button", { type: "button", class: "quiet", text: "This hit was wrong" });
  button.addEventListener("click", async () => {
    button.disabled = true;
    const taken = await post("v1/cache/feedback", { request_id: trace.request_id, verdict: "wrong" }).catch(() => false);
    button.hidden = taken;
    button.disabled = false;
    said.textContent = taken
      ? "Noted: the kept answer is removed, and the verifier learns from it."
      : "The verdict was not taken: the request is forgotten, or this key may not judge.";
  });
  return make("div", { class: "verdict" }, button, said);
}
