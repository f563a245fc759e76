// The gateway's API client, same-origin only. Paths are relative, so the page works behind a path prefix.

// The API key, kept in memory only: never in a store that another page or a later script could read.
let apiKey = "";
// Reconnection attempts to a run, with exponential backoff: a minute in all.
const MAX_RECONNECTS = 18;

export function setApiKey(value) {
  apiKey = value;
}

function headers(more = {}) {
  const found = { ...more };
  if (apiKey) found.authorization = `Bearer ${apiKey}`;
  return found;
}

// Get JSON; null if the endpoint is missing, not ready or not allowed.
export async function read(path) {
  try {
    const response = await fetch(path, { headers: headers(), cache: "no-store" });
    return response.ok ? await response.json() : null;
  } catch {
    return null;
  }
}

// Get text, likewise.
export async function readText(path) {
  try {
    const response = await fetch(path, { headers: headers(), cache: "no-store" });
    return response.ok ? await response.text() : null;
  } catch {
    return null;
  }
}

// Post JSON text and return the JSON answer; throws an Error with the gateway's message.
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

// The readiness document, also with status 503.
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
    // An error in a vendor's form, or problem details.
    error = found.error ?? { message: found.detail, code: found.code };
  } catch {
    // Not JSON, probably a proxy's error page.
  }
  return new Refused(error?.message ?? "", response.status, error?.code ?? error?.type ?? "");
}

// Split an SSE body into frames: {data}, {data, id} or {comment}. Chunks may end anywhere.
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

// Send a chat request and stream the answer. Callbacks of `on`: headers(response), text(delta), thinking(delta), note(text), usage(u), finish(word).
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

// A run's events without gaps: a broken connection is resumed after the last event. Callbacks of `on`:
// opened(response), event(event), lost(), back(). Throws Refused if the gateway refuses the request.
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
        // No event was ever received, so there is no run to rejoin.
        if (this.last === 0) throw error;
      }
      tries += 1;
      if (tries > MAX_RECONNECTS) throw new Refused("The connection is lost, and the gateway does not answer.", 0, "connection_lost");
      on.lost(tries);
      await new Promise((resolve) => setTimeout(resolve, Math.min(4000, 150 * 2 ** tries)));
      opening = () => this.again();
    }
  }
}
