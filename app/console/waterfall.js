// A request's waterfall: live from this page's observations, then from the gateway's trace.

import { criticalPath, spansOf } from "./explanation.js";
import { make, ms } from "./format.js";

export const STAGES = ["lanes", "cache", "embed", "classifier", "router", "upstream", "tools", "synthesis", "stream"];

// "lanes;dur=0.02, cache;dur=0.31" -> [{stage, duration}], `total` left out.
export function serverTiming(header) {
  if (!header) return [];
  return header
    .split(",")
    .map((entry) => {
      const [name, ...parameters] = entry.trim().split(";");
      const duration = parameters.map((p) => p.trim()).find((p) => p.startsWith("dur="));
      return { stage: name, duration: duration ? Number(duration.slice(4)) : NaN };
    })
    .filter((entry) => entry.stage !== "total" && Number.isFinite(entry.duration));
}

// A round step that puts about `count` ticks below `total`.
function step(total, count) {
  const rough = total / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 2.5, 5, 10].map((n) => n * power).find((n) => n >= rough);
}

export class Waterfall {
  constructor() {
    this.rows = make("ol");
    this.ticks = make("div", { class: "ticks" });
    this.first = make("i", { hidden: true });
    this.element = make(
      "div",
      { class: "waterfall", role: "group", "aria-label": "Where the time went" },
      this.rows,
      make("div", { class: "first", "aria-hidden": "true" }, this.first),
      make("div", { class: "scale", "aria-hidden": "true" }, make("span"), this.ticks, make("span")),
    );
    this.spans = [];
    this.firstToken = null;
  }

  // Draw spans [{stage, start, duration, detail, parent}] in ms over a total in ms.
  draw(spans, total, firstToken = null) {
    this.spans = spans;
    this.firstToken = firstToken;
    this.rows.replaceChildren(...spans.map((span) => this.row(span)));
    this.scale(total);
  }

  row(span) {
    const bar = make("div", { class: "bar", "data-stage": span.stage });
    const detail = make("span", { class: "detail", text: span.stage === "tools" ? "" : (span.detail ?? "") });
    const track = make("div", { class: "track", title: span.detail || null, "aria-hidden": "true" }, bar, detail);
    const number = make("span", { class: "ms" });
    const name = make("span", { class: "stage", "data-depth": this.depth(span), text: span.stage === "tools" && span.detail ? span.detail : span.stage });
    span.parts = { bar, detail, number };
    const note = make("span", { class: "unseen", text: span.detail ? ` (${span.detail})` : "" });
    if (span.waited) note.append(`, on the critical path for ${ms(span.waited)}`);
    return make("li", { "data-stage": span.stage, "data-critical": Boolean(span.waited) }, name, track, number, note);
  }

  depth(span) {
    let depth = 0;
    for (let at = span; at && typeof at.parent === "number" && depth < 2; depth += 1) at = this.spans[at.parent];
    return depth;
  }

  // Position every bar on a scale of `total` ms.
  scale(total) {
    const full = Math.max(total, 0.001);
    for (const { start, duration, parts } of this.spans) {
      const left = Math.min(100, (start / full) * 100);
      const width = Math.min(100 - left, (duration / full) * 100);
      parts.bar.style.left = `min(${left}%, 100% - 3px)`;
      parts.bar.style.width = `${width}%`;
      parts.number.textContent = ms(duration);
      this.place(parts.detail, left, width);
    }
    this.first.hidden = this.firstToken === null;
    if (this.firstToken !== null) this.first.style.left = `${Math.min(100, (this.firstToken / full) * 100)}%`;
    const every = step(full, Math.max(2, Math.min(6, (this.ticks.clientWidth || 300) / 80)));
    const marks = [];
    for (let at = 0; at < full * 0.97 && marks.length < 6; at += every) {
      const mark = make("span", { text: at === 0 ? "0" : ms(at) });
      mark.style.left = `${(at / full) * 100}%`;
      marks.push(mark);
    }
    this.ticks.replaceChildren(...marks);
  }

  // Place the label where the track is free: after the bar, before it, or not at all.
  place(detail, left, width) {
    const after = 100 - left - width;
    detail.hidden = Math.max(after, left) < 25;
    if (after >= left) {
      detail.style.left = `${left + width}%`;
      detail.style.right = "auto";
    } else {
      detail.style.left = "auto";
      detail.style.right = `${100 - left}%`;
    }
  }

  trace(trace) {
    const spans = spansOf(trace);
    for (const { index, time } of criticalPath(spans, trace.total_ms).path) spans[index].waited = time;
    this.draw(spans, trace.total_ms, trace.ttft_ms);
  }
}

// The live waterfall: a growing waiting bar, the stages once the headers arrive, then the stream.
export class LiveWaterfall extends Waterfall {
  constructor() {
    super();
    this.started = performance.now();
    this.ended = null;
    this.draw([{ stage: "waiting", start: 0, duration: 0, open: true }], 1);
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    const tick = () => {
      if (this.ended !== null) return;
      this.grow();
      if (still) setTimeout(tick, 250);
      else requestAnimationFrame(tick);
    };
    tick();
  }

  now() {
    return (this.ended ?? performance.now()) - this.started;
  }

  // The headers have the durations of the gateway's stages, which are laid end to end up to now.
  headers(timing) {
    const at = this.now();
    const spent = timing.reduce((sum, entry) => sum + entry.duration, 0);
    let start = Math.max(0, at - spent);
    const spans = timing.map((entry) => {
      // The upstream span continues while the answer streams.
      const span = { stage: entry.stage, start, duration: entry.duration, open: entry.stage === "upstream" };
      start += entry.duration;
      return span;
    });
    if (!spans.length) spans.push({ stage: "waiting", start: 0, duration: at });
    this.draw([...spans, { stage: "stream", start: at, duration: 0, open: true }], at, this.firstToken);
  }

  token() {
    this.firstToken ??= this.now();
  }

  grow() {
    const at = this.now();
    for (const span of this.spans) if (span.open) span.duration = Math.max(0, at - span.start);
    this.scale(at);
  }

  end() {
    if (this.ended !== null) return;
    this.ended = performance.now();
    this.grow();
  }
}
