// The prompt linter: what in a request breaks prompt caching or wastes tokens, and how to fix it.

import { ask } from "./gateway.js";
import { make, ms, usd } from "./format.js";

const at = (id) => document.getElementById(id);

function finding(one) {
  return make(
    "li",
    { class: "finding" },
    make("p", {}, make("span", { class: "pill", "data-bad": one.severity === "error", text: one.severity }), ` ${one.rule.replaceAll("_", " ")} at `, make("code", { text: one.pointer || "/" })),
    make("p", { text: `Why: ${one.why}.` }),
    make("p", { text: `Costs each request: ${ms(one.costs.ms)} and ${usd(one.costs.usd)}.` }),
    make("p", { text: `Mend: ${one.mend}.` }),
  );
}

export function linter() {
  at("lint-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const text = at("lint-body").value.trim();
    // Text that is not a JSON object is taken as a system prompt.
    const body = text.startsWith("{") ? text : JSON.stringify({ model: "auto", messages: [{ role: "system", content: text }, { role: "user", content: "…" }] });
    const result = at("lint-result");
    try {
      const report = await ask("v1/prompts/lint", body);
      const count = report.findings.length;
      const lead = `${count || "No"} ${count === 1 ? "finding" : "findings"} for ${report.model}: ${report.prompt_tokens} tokens; caching begins at ${report.minimum_tokens}.`;
      result.replaceChildren(make("p", { text: lead }), make("ol", {}, ...report.findings.map(finding)));
    } catch (error) {
      result.replaceChildren(make("p", { class: "problem", text: error.message || "The gateway does not answer." }));
    }
  });
}
