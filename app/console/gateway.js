// Calls of the gateway, all of this page's own origin. Paths are relative, so a prefix in front works.

// In memory alone: gone with the page, never in a store that another page or script of a later day could read.
let kept = "";
// How often a lost connection to a run is tried again, each time after twice the wait: a minute in all.
const REJOINS = 18;

export function keepKey(value) {
  kept = value;
}

function headers(more = {}) {
  const found = { ...more };
  if (kept) found.authorization = `Bearer ${kept}`;
  return found;
}

// A JSON value, or null when the endpoint is not there, not ready or not allowed.
export async function read(path) {
  try {
    const response = await fetch(path, { headers: headers(), cache: "no-store" });
    return response.ok ? await response.json() : null;
  } catch {
    return null;
  }
}

// The same for text.
export async function readText(path) {
  try {
    const response = await fetch(path, { headers: headers(), cache: "no-store" });
    return response.ok ? await response.text() : null;
  } catch {
    return null;
  }
}

// Post JSON text and give the JSON answer; throws an Error in the gateway's own words.
export async function ask(path, body) {
  const response = await fetch(path, { method: "POST", headers: headers({ "content-type": "application/json" }), body });
  const found = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(found.detail ?? found.error?.message ?? `The gateway answered ${response.status}.`);
  return found;
}

export async function post(path, body) {
  const response = await fetch(path, {
    method: "POST",
    headers: headers({ "content-type": "application/json" }),
    body: JSON.stringify(body),
  });
  return response.ok;
}

export async function remove(path) {
  return (await fetch(path, { method: "DELETE", headers: headers() })).ok;
}

// The state of the gateway also where it answers 503 while it warms up.
export async function readiness() {
  try {
    const response = await fetch("readyz", { cache: "no-store" });
    return { ready: response.ok, ...(await response.json().catch(() => ({}))) };
  } catch {
    return null;
  }
}

export class Refused extends Error {
  constructor(message, status, code) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

async function refusal(response) {
  const text = await response.text().catch(() => "");
  let error = null;
  try {
    const found = JSON.parse(text);
    // The vendors' form, or problem details.
    error = found.error ?? { message: found.detail, code: found.code };
  } catch {
    // Not JSON: a proxy between, most likely; its page is of no use here.
  }
  return new Refused(error?.message ?? "", response.status, error?.code ?? error?.type ?? "");
}

// Split an SSE body into frames: {data}, {data, id} or {comment}. Bytes may be cut anywhere.
export async function* frames(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  let data = [];
  let id;
  for (;;) {
    const { value, done } = await reader.read();
    held += done ? "\n\n" : value;
    // A lone CR at the end may be the first half of CRLF: wait for the next piece.
    const usable = !done && held.endsWith("\r") ? held.length - 1 : held.length;
    const lines = held.slice(0, usable).split(/\r\n|\n|\r/);
    held = lines.pop() + held.slice(usable);
    for (const line of lines) {
      if (line === "") {
        if (data.length) yield id === undefined ? { data: data.join("\n") } : { data: data.join("\n"), id };
        data = [];
      } else if (line.startsWith(":")) {
        yield { comment: line.slice(1).trim() };
      } else if (line.startsWith("data:")) {
        data.push(line.slice(line[5] === " " ? 6 : 5));
      } else if (line.startsWith("id:")) {
        id = line.slice(line[3] === " " ? 4 : 3);
      }
    }
    if (done) return;
  }
}

// Ask and stream. `on` is told: headers(response), text(delta), thinking(delta), note(text), usage(u), finish(word).
export async function chat(request, options, on, signal) {
  const more = { "content-type": "application/json" };
  if (options.cache) more["x-slipstream-cache"] = options.cache;
  if (options.tier) more["x-slipstream-tier"] = options.tier;
  const response = await fetch("v1/chat/completions", {
    method: "POST",
    headers: headers(more),
    body: JSON.stringify({ ...request, stream: true, stream_options: { include_usage: true } }),
    signal,
  });
  on.headers(response);
  if (!response.ok) throw await refusal(response);
  let ended = false;
  for await (const frame of frames(response.body)) {
    if (frame.comment !== undefined) {
      if (frame.comment && !/^(keep-?alive|ping)$/i.test(frame.comment)) on.note(frame.comment);
      continue;
    }
    if (frame.data === "[DONE]") {
      ended = true;
      continue;
    }
    const chunk = JSON.parse(frame.data);
    if (chunk.error) throw new Refused(chunk.error.message, 0, chunk.error.code ?? chunk.error.type ?? "");
    const choice = chunk.choices?.[0];
    const thinking = choice?.delta?.reasoning_content ?? choice?.delta?.reasoning;
    if (thinking) on.thinking(thinking);
    const text = choice?.delta?.content ?? choice?.delta?.refusal;
    if (text) on.text(text);
    if (choice?.finish_reason) on.finish(choice.finish_reason);
    if (chunk.usage) on.usage(chunk.usage);
  }
  if (!ended) throw new Refused("The stream ended without its closing mark.", 0, "stream_cut");
}

// A run's events, numbered without a gap. A connection that breaks is made again where it broke off; `on`
// is told: opened(response), event(event), lost(), back(). Throws Refused where the gateway says no.
export class RunStream {
  constructor(runId) {
    this.runId = runId;
    this.last = 0;
    this.stopping = new AbortController();
  }

  async start(input, on) {
    const body = JSON.stringify({ ...input, runId: this.runId });
    await this.follow(on, () => this.ask("v1/agent", { method: "POST", headers: headers({ "content-type": "application/json" }), body }));
  }

  async rejoin(on) {
    await this.follow(on, () => this.again());
  }

  again() {
    const more = this.last ? { "last-event-id": `${this.runId}:${this.last}` } : {};
    return this.ask(`v1/runs/${encodeURIComponent(this.runId)}/events`, { headers: headers(more), cache: "no-store" });
  }

  async cancel() {
    const path = `v1/runs/${encodeURIComponent(this.runId)}/cancel`;
    const response = await fetch(path, { method: "POST", headers: headers(), keepalive: true });
    return response.ok;
  }

  leave() {
    this.stopping.abort();
  }

  async ask(path, options) {
    const response = await fetch(path, { ...options, signal: this.stopping.signal });
    if (!response.ok) throw await refusal(response);
    return response;
  }

  async follow(on, open) {
    let opening = open;
    for (let tries = 0; ; ) {
      try {
        const response = await opening();
        if (tries) on.back();
        on.opened(response);
        tries = 0;
        for await (const frame of frames(response.body)) {
          const number = Number(frame.id?.slice(frame.id.lastIndexOf(":") + 1));
          if (frame.data === undefined || !(number > this.last)) continue;
          this.last = number;
          if (on.event(JSON.parse(frame.data))) return;
        }
      } catch (error) {
        if (error.name === "AbortError" || (error instanceof Refused && error.status !== 503)) throw error;
        // Nothing has ever come: there is no run to go back to.
        if (this.last === 0) throw error;
      }
      tries += 1;
      if (tries > REJOINS) throw new Refused("The connection is lost, and the gateway does not answer.", 0, "connection_lost");
      on.lost(tries);
      await new Promise((resolve) => setTimeout(resolve, Math.min(4000, 150 * 2 ** tries)));
      opening = () => this.again();
    }
  }
}
