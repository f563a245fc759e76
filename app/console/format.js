// Formatting of numbers, outcomes and statuses, shared by all views, and the DOM helper `make`.

export function ms(value) {
  if (value === null || value === undefined) return "–";
  if (value < 1) return `${value.toFixed(2)} ms`;
  if (value < 10) return `${value.toFixed(1)} ms`;
  if (value < 10000) return `${Math.round(value)} ms`;
  return `${(value / 1000).toFixed(1)} s`;
}

export function seconds(value) {
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  if (value < 120) return `${value.toFixed(1)} s`;
  return `${(value / 60).toFixed(1).replace(/\.0$/, "")} min`;
}

export function usd(value) {
  if (!value) return "$0";
  if (value < 0) return `-${usd(-value)}`;
  if (value < 0.01) return `$${value.toFixed(6)}`;
  return `$${value.toFixed(4)}`;
}

export function clock(unixSeconds) {
  return new Date(unixSeconds * 1000).toLocaleTimeString([], { hour12: false });
}

const OUTCOMES = {
  exact: "exact hit",
  semantic: "semantic hit",
  coalesced: "shared an answer in flight",
  lane: "answered by a lane",
  miss: "miss",
  bypass: "bypassed",
};

export function outcome(word) {
  return OUTCOMES[word] ?? word ?? "";
}

export function tokens(usage) {
  if (!usage) return "";
  const prompt = usage.input_tokens + usage.cached_tokens + usage.cache_write_tokens;
  if (prompt + usage.output_tokens === 0) return "";
  const cached = usage.cached_tokens ? ` (${usage.cached_tokens} cached)` : "";
  return `${prompt}${cached} in, ${usage.output_tokens} out`;
}

const STATUSES = {
  400: "The gateway could not take this request.",
  401: "The gateway asks for a key. Put it under Options.",
  403: "This key may not do that.",
  404: "There is no such model or path.",
  413: "The question is too long.",
  429: "Too many requests just now.",
  499: "The client left.",
  500: "Something went wrong inside the gateway.",
  502: "The model's server gave no usable answer.",
  503: "The gateway or the model has no capacity just now.",
  504: "It took too long, or only a cached answer was wanted and there is none.",
};

export function status(code) {
  return STATUSES[code] ?? (code >= 500 ? STATUSES[500] : STATUSES[400]);
}

// A link that opens one request in the list of requests.
export function requestLink(id, text = id) {
  const link = make("a", { href: "#requests-view", text });
  link.addEventListener("click", () => document.dispatchEvent(new CustomEvent("open-request", { detail: id })));
  return link;
}

// Create an element: tag, attributes (text = textContent), children.
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "text") element.textContent = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}
