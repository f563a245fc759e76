// The page: connects the form, the conversation, the list of requests and the banners.

import { Agents } from "./agents.js";
import { Cache } from "./cache.js";
import { setApiKey, read, readiness } from "./gateway.js";
import { playground } from "./compare.js";
import { Overview } from "./overview.js";
import { linter } from "./prompts.js";
import { Recent } from "./recent.js";
import { Requests } from "./requests.js";
import { Turn } from "./turn.js";
import { Upstreams } from "./upstreams.js";
import { Views } from "./views.js";
import { seconds, usd } from "./format.js";

const at = (id) => document.getElementById(id);
const form = at("composer");
const question = at("question");
const turnsBox = at("turns");
const recent = new Recent({ list: at("requests"), empty: at("recent-empty"), legend: at("legend") });
const turns = [];
const endpoints = new Set();
let endpointsLoaded = Promise.resolve();
let running = null;

async function ask(text) {
  at("welcome").hidden = true;
  const turn = new Turn(text, endpoints);
  const messages = at("follow-up").checked ? turns.filter((t) => t.done).flatMap(messagesOf) : [];
  turns.push(turn);
  turnsBox.append(turn.element);
  setRunning(turn);
  const request = { model: at("model").value, messages: [...messages, { role: "user", content: text }] };
  const stopKeepingInView = keepInView(turn);
  await turn.run(request, { cache: at("cache-mode").value, tier: at("tier").value });
  setRunning(null);
  // The feedback buttons depend on it, also for a question that was asked as soon as the page opened.
  await endpointsLoaded;
  const sentence = await turn.settle();
  requestAnimationFrame(() => requestAnimationFrame(stopKeepingInView));
  if (!running) at("announce").textContent = sentence;
  recent.refresh();
  showSavings();
}

function messagesOf(turn) {
  return [
    { role: "user", content: turn.question },
    { role: "assistant", content: turn.text.data },
  ];
}

// Keep the end of the answer in view until the reader scrolls up; returns a function that stops it.
function keepInView(turn) {
  let pinned = true;
  let last = 0;
  // Growing text never scrolls up; only the reader does.
  const look = () => {
    const now = turnsBox.scrollTop + window.scrollY;
    const near = turn.element.getBoundingClientRect().bottom < form.getBoundingClientRect().top + 60;
    pinned = near || (pinned && now >= last);
    last = now;
  };
  const watcher = new ResizeObserver(() => {
    if (pinned) turn.element.scrollIntoView({ block: "end" });
  });
  watcher.observe(turn.element);
  for (const scroller of [turnsBox, window]) scroller.addEventListener("scroll", look);
  return () => {
    watcher.disconnect();
    for (const scroller of [turnsBox, window]) scroller.removeEventListener("scroll", look);
  };
}

function setRunning(turn) {
  running = turn;
  const lost = turn === null && document.activeElement === at("stop");
  at("send").hidden = turn !== null;
  at("stop").hidden = turn === null;
  if (turn !== null || lost) question.focus();
  at("announce").textContent = turn ? "Waiting for the answer." : "";
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = question.value.trim();
  if (!text || running) return;
  question.value = "";
  at("options").open = false;
  ask(text);
});

question.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    form.requestSubmit();
  }
});

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  if (at("options").open) {
    at("options").open = false;
    at("options").querySelector("summary").focus();
  } else if (running) {
    running.stop();
    question.focus();
  }
});

at("stop").addEventListener("click", () => {
  running?.stop();
  question.focus();
});

for (const example of document.querySelectorAll(".example")) {
  example.addEventListener("click", () => {
    if (running) return;
    ask(example.textContent);
    question.focus();
  });
}

document.addEventListener("click", (event) => {
  if (!at("options").contains(event.target)) at("options").open = false;
});

at("key").addEventListener("change", (event) => {
  setApiKey(event.target.value.trim());
  start();
});

async function loadModels() {
  const found = await read("v1/models");
  if (!found) return;
  const chosen = at("model").value;
  const names = found.data.map((model) => model.id);
  if (!names.includes("auto")) names.unshift("auto");
  names.sort((a, b) => (b === "auto") - (a === "auto"));
  at("model").replaceChildren(...names.map((name) => new Option(name, name, false, name === chosen)));
}

async function showSavings() {
  const found = await read("v1/savings?window_s=3600");
  if (!found || !found.turns) return;
  const saved = [];
  if (found.saved_s >= 0.001) saved.push(seconds(found.saved_s));
  if (found.saved_usd > 0) saved.push(usd(found.saved_usd));
  const count = `Last hour: ${found.turns} ${found.turns === 1 ? "turn" : "turns"}`;
  const part = document.createElement("strong");
  part.textContent = saved.join(" and ");
  at("savings").replaceChildren(saved.length ? `${count}, saved ` : count, part);
  at("savings").hidden = false;
}

function banner(text, kind = "") {
  at("banner").textContent = text;
  at("banner").dataset.kind = kind;
  at("banner").hidden = !text;
}

async function checkReadiness() {
  const state = await readiness();
  if (state === null) banner("The gateway does not answer.", "bad");
  else if (!state.ready) banner("The gateway is not ready yet: it is warming up, or draining before a stop.");
  else if (state.simulated) {
    banner("No provider key is set, so a simulated provider answers: its words are made up, its streaming and timing are real.");
  } else banner("");
  if (state === null || !state.ready) setTimeout(checkReadiness, 1500);
}

async function loadEndpoints() {
  const found = await read("openapi.json");
  for (const path of Object.keys(found?.paths ?? {})) endpoints.add(path);
}

const THEMES = ["auto", "light", "dark"];
function setTheme(name) {
  if (name === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  localStorage.setItem("slipstream-theme", name);
  at("theme").textContent = `Theme: ${name}`;
}
at("filters").addEventListener("submit", (event) => event.preventDefault());
at("theme").addEventListener("click", () => {
  const now = localStorage.getItem("slipstream-theme") ?? "auto";
  setTheme(THEMES[(THEMES.indexOf(now) + 1) % THEMES.length]);
});
setTheme(localStorage.getItem("slipstream-theme") ?? "auto");

function start() {
  checkReadiness();
  loadModels();
  showSavings();
  endpointsLoaded = loadEndpoints();
}

start();
recent.start();
const views = new Views({
  "agents-view": new Agents(),
  "requests-view": new Requests(),
  "overview-view": new Overview(),
  "cache-view": new Cache(),
  "upstreams-view": new Upstreams(),
});
linter();
playground();
if (views.now === "ask") question.focus();
