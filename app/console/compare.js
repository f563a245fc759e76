// Comparison: the same question with the gateway's techniques and, at once, without (no cache, powerful model).

import { Turn } from "./turn.js";
import { make, ms } from "./format.js";

const at = (id) => document.getElementById(id);
const SIDES = [
  { title: "With the techniques", options: {} },
  { title: "Without: no cache, powerful model", options: { cache: "bypass", tier: "powerful" } },
];

// The ratio in words; empty if it is close to 1.
function times(ratio) {
  if (!(ratio >= 1.2) || !Number.isFinite(ratio)) return "";
  return `, ${ratio < 10 ? ratio.toFixed(1) : Math.round(ratio).toLocaleString("en")} times as long`;
}

export function playground() {
  let running = [];
  at("compare-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const text = at("compare-question").value.trim();
    if (!text) return;
    for (const turn of running) turn.stop();
    const turns = SIDES.map(() => new Turn(text, new Set()));
    running = turns;
    at("compare-sides").replaceChildren(
      ...SIDES.map(({ title }, side) => make("section", { "aria-label": title }, make("h3", { text: title }), turns[side].element)),
    );
    const request = { model: "auto", messages: [{ role: "user", content: text }] };
    await Promise.all(
      turns.map(async (turn, side) => {
        await turn.run(request, SIDES[side].options);
        await turn.settle();
      }),
    );
    if (running !== turns) return;
    const [ours, plain] = turns.map((turn) => turn.trace?.total_ms ?? turn.waterfall.now());
    at("compare-result").textContent = turns.every((turn) => turn.done)
      ? `With: ${ms(ours)}. Without: ${ms(plain)}${times(plain / ours)}.`
      : "One side failed or was stopped, so there is nothing to compare.";
  });
}
