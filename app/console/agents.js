// The agents view: choose an agent, give it a task, and watch its run as cards. One run at a time.

import { Refused, RunStream, read } from "./gateway.js";
import { Run } from "./run.js";

const at = (id) => document.getElementById(id);
const PREFIX = "agent/";
const KEPT = "slipstream-run";

// Not crypto.randomUUID: a page that was not fetched by TLS or from loopback has none.
function nonce() {
  return [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

export class Agents {
  constructor() {
    this.run = null;
    this.stream = null;
    at("agent-form").addEventListener("submit", (event) => {
      event.preventDefault();
      const task = at("agent-task").value.trim();
      if (task && !this.busy()) this.begin(task);
    });
    at("agent-task").addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      at("agent-form").requestSubmit();
    });
    at("agent-cancel").addEventListener("click", () => this.cancel());
  }

  busy() {
    return this.run?.state === "running";
  }

  async show() {
    const found = await read("v1/models");
    if (!found) return;
    const names = found.data.map((model) => model.id).filter((id) => id.startsWith(PREFIX)).map((id) => id.slice(PREFIX.length));
    const chosen = at("agent-name").value;
    at("agent-name").replaceChildren(...names.map((name) => new Option(name, name, false, name === chosen)));
    at("agent-form").hidden = names.length === 0;
    at("agents-empty").hidden = names.length > 0;
    if (!this.run) await this.recover();
  }

  hide() {}

  // Rejoin the run of this tab after a reload of the page.
  async recover() {
    const kept = JSON.parse(sessionStorage.getItem(KEPT) ?? "null");
    if (!kept || !(await read(`v1/runs/${encodeURIComponent(kept.id)}`))) return;
    this.put(new Run(kept.task), kept);
    await this.follow(kept.id, (stream) => stream.rejoin(this.listener()));
  }

  async begin(task) {
    const agent = at("agent-name").value;
    this.put(new Run(task), { agent, task });
    await this.leg({ messages: this.run.messages });
  }

  put(run, kept) {
    this.run?.stop("cancelled");
    this.stream?.leave();
    this.run = run;
    this.kept = kept;
    at("run").replaceChildren(run.element);
  }

  // One run of the gateway: the first, or one that continues with a person's answers.
  async leg(more) {
    const id = `console-${nonce()}`;
    const threadId = (this.kept.thread ??= id);
    sessionStorage.setItem(KEPT, JSON.stringify({ ...this.kept, id }));
    // The page rejoins a lost run, so the gateway must not cancel it with the connection.
    const input = { threadId, forwardedProps: { agent: this.kept.agent, onDisconnect: "detach" }, ...more };
    await this.follow(id, (stream) => stream.start(input, this.listener()));
  }

  async follow(id, going) {
    const run = this.run;
    const stream = (this.stream = new RunStream(id));
    at("agent-cancel").hidden = false;
    try {
      await going(stream);
    } catch (error) {
      if (error.name === "AbortError" || run !== this.run) return;
      run.fail(error instanceof Refused ? error.message : "The gateway does not answer. Is it still running?", error.code);
    }
    if (run !== this.run) return;
    const lost = document.activeElement === at("agent-cancel");
    at("agent-cancel").hidden = true;
    if (lost) at("agent-task").focus();
    if (run.state === "interrupted") run.ask((resume, messages) => this.leg({ messages, resume }));
    await this.settle(run, id);
    at("agent-announce").textContent = run.state === "interrupted" ? "The run waits for your approval." : `The run is ${run.state}.`;
  }

  listener() {
    const run = this.run;
    return {
      opened: () => {},
      event: (event) => run === this.run && run.take(event),
      lost: (tries) => {
        run.note.textContent = `The connection broke off; the run goes on, and this page rejoins it (try ${tries}).`;
        run.note.hidden = false;
      },
      back: () => {
        run.note.textContent = "Rejoined where the connection broke off.";
      },
    };
  }

  async cancel() {
    const taken = await this.stream.cancel().catch(() => false);
    if (!taken) this.run.note.textContent = "The gateway did not take the cancellation.";
    if (!taken) this.run.note.hidden = false;
  }

  // The gateway's own trace, which is written just after the last event.
  async settle(run, id) {
    const state = await read(`v1/runs/${encodeURIComponent(id)}`);
    if (!state) return;
    for (const wait of [0, 60, 250, 800]) {
      await new Promise((resolve) => setTimeout(resolve, wait));
      const trace = await read(`v1/traces/${encodeURIComponent(state.request_id)}`);
      if (!trace) continue;
      run.settle(trace);
      run.element.dataset.settled = "";
      return;
    }
  }
}
