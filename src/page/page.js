// The page: the connection to the supervisor, signing in, and what is shown.

import { chart } from "./chart.js";
import { showMemory } from "./memory.js";
import { $, bytes, count, draw, list, make, mark, say, short, span, speed } from "./parts.js";
import { eventRows, requestRows } from "./rows.js";

/** After this many milliseconds of silence the supervisor counts as lost. */
const SILENCE = 5000;
/** Time between two attempts to reconnect, milliseconds. */
const AGAIN = 1000;
/** How many events, and how many characters of a log, are kept. */
const EVENTS = 60;
const LOG = 60_000;

const KINDS = {
  ready: "good", spawning: "busy", loading: "busy", draining: "busy", stopping: "busy", backoff: "bad", failed: "bad",
};

let session = null;
let source = null;
let heard = 0;
let retry = 0;
let state = null;
let hour = [];
let events = [];
let chosen = "";

/** The time by the supervisor's clock, which may differ from this browser's. */
function now() {
  return state ? state.now : Date.now();
}

// The connection to the supervisor.

async function post(path, body, token) {
  const headers = { "content-type": "application/json", "x-mlxctl-token": token };
  const answer = await fetch(path, { method: "POST", headers, body: JSON.stringify(body) });
  let document = {};
  try {
    document = await answer.json();
  } catch {
    document = { message: `the answer was cut off (${answer.status})` };
  }
  return { ok: answer.ok, status: answer.status, document };
}

function link(kind, text) {
  mark($("link"), kind);
  say($("link"), text);
  $("main").classList.toggle("lost", kind === "bad");
}

function close() {
  if (source) source.close();
  source = null;
  clearTimeout(retry);
}

/** Asks for the session first, because the stream itself cannot report that a key is missing. */
async function connect() {
  close();
  try {
    const answer = await fetch("session");
    if (answer.status === 401) return stranger();
    if (!answer.ok) throw new Error(String(answer.status));
    session = await answer.json();
  } catch {
    return lost();
  }
  if (document.hidden) return;
  account();
  follow();
}

function follow() {
  close();
  heard = Date.now();
  source = new EventSource(chosen ? `stream?log=${encodeURIComponent(chosen)}` : "stream");
  const on = (name, take) => source.addEventListener(name, (event) => {
    heard = Date.now();
    take(JSON.parse(event.data));
  });
  on("state", (next) => {
    state = next;
    link("good", "live");
    $("main").hidden = false;
    show();
  });
  on("events", (all) => { events = all.reverse(); eventRows($("events"), events, now()); });
  on("event", (one) => { events = [one, ...events].slice(0, EVENTS); eventRows($("events"), events, now()); });
  on("hour", (lines) => { hour = lines; showHour(); });
  on("requests", (requests) => requestRows($("requests"), requests, now()));
  let first = true;
  on("log", (text) => {
    addLog(first ? text : logged + text);
    first = false;
  });
  const began = heard;
  source.onerror = () => {
    // The model whose log was chosen may be gone.
    if (heard === began) {
      chosen = "";
      $("log").hidden = true;
    }
    lost();
  };
}

function lost() {
  close();
  // A stream that ended normally is reopened before anyone notices.
  if (Date.now() - heard > SILENCE || !state) link("bad", "supervisor lost");
  buttons();
  retry = setTimeout(connect, AGAIN);
}

function stranger() {
  session = null;
  link("off", "key needed");
  $("main").hidden = true;
  ask(true);
}

setInterval(() => {
  if (document.hidden || $("link").dataset.kind === "off") return;
  if (Date.now() - heard > SILENCE) {
    link("bad", "supervisor lost");
    buttons();
    if (source) lost();
  }
}, 1000);

document.addEventListener("visibilitychange", () => {
  if (document.hidden) close();
  else connect();
});

// Signing in and out.

function ask(open) {
  $("login").hidden = !open;
  $("account").hidden = open && !session;
  if (open) $("key").focus({ preventScroll: true });
}

function account() {
  $("account").hidden = false;
  say($("account"), session.key ? `Sign out ${session.key}` : "Sign in");
  if (session.key) ask(false);
}

$("account").addEventListener("click", async () => {
  if (!session || !session.key) return ask($("login").hidden);
  try {
    await post("logout", {}, session.token);
  } catch {
    // The stream reports that the supervisor is lost.
  }
  connect();
});

$("login").addEventListener("submit", async (event) => {
  event.preventDefault();
  const why = $("why");
  try {
    const { ok, document } = await post("login", { key: $("key").value }, "login");
    why.hidden = ok;
    mark(why, "bad");
    say(why, ok ? "" : document.message);
    if (!ok) return;
    $("key").value = "";
    ask(false);
    connect();
  } catch {
    why.hidden = false;
    say(why, "the supervisor does not answer");
  }
});

// What is shown.

function show() {
  showMemory(state);
  list($("models"), state.models, (model) => model.name, card, showModel);
  const waits = [...state.waiting_for, ...state.yielding_to.map((name) => `${name} is running, and the models yield to it`)];
  $("waits").hidden = waits.length === 0;
  list($("waiting"), waits, (text) => text, (text) => make("li", "", text));
  const active = state.models.reduce((sum, model) => sum + model.in_flight, 0);
  const queued = state.models.reduce((sum, model) => sum + model.queued, 0);
  say($("under-way"), `${active} in progress${queued ? `, ${queued} waiting` : ""}`);
  say($("about"), `mlxctl ${state.version}, up ${span(state.uptime_seconds)}`);
  list($("which"), [{ name: "" }, ...state.models], (model) => model.name,
    (model) => Object.assign(make("option", "", model.name || "choose a model"), { value: model.name }));
  if ($("which").value !== chosen) $("which").value = chosen;
  if (state.now - drawn > 20_000) showHour();
}

function card(model) {
  const node = make("article", "card of-model"), top = make("div", "top"), title = make("div", "title");
  title.append(make("b", "", model.name), make("span", "word state"));
  const button = make("button");
  button.type = "button";
  button.addEventListener("click", () => press(node));
  top.append(title, make("p", "repo muted"), button);
  const facts = make("dl", "facts");
  for (const name of ["Memory", "Speed", "First token", "Up"]) {
    const pair = make("div");
    pair.append(make("dt", "", name), make("dd"));
    facts.append(pair);
  }
  const answer = make("div", "answer"), sum = make("details");
  sum.append(make("summary", "", "Details"), make("pre"));
  answer.append(make("p"), sum, make("ul"));
  answer.hidden = true;
  answer.setAttribute("role", "alert");
  const progress = make("progress");
  progress.max = 1;
  progress.setAttribute("aria-label", "loading");
  node.append(top, facts, make("p", "note small muted"), answer, progress);
  return node;
}

function showModel(node, model) {
  const word = node.querySelector(".state");
  say(word, model.state);
  mark(word, KINDS[model.state] || "off");
  say(node.querySelector(".repo"), model.repo);
  node.querySelector(".repo").title = model.repo;
  const memory = model.footprint_bytes ?? model.estimate_bytes;
  const values = [bytes(memory), speed(model.tokens_per_second), short(model.ttft_ms), span(model.uptime_seconds)];
  node.querySelectorAll("dd").forEach((cell, place) => say(cell, values[place]));
  say(node.querySelector("dt"), model.footprint_bytes === null ? "Needs" : "Memory");
  say(node.querySelector(".note"), note(model));
  const progress = node.querySelector("progress");
  const share = model.state === "loading" && model.progress ? model.progress : 0;
  if (progress.value !== share) progress.value = share;
  // A refusal in the previous state no longer applies.
  if (node.dataset.state !== model.state) node.querySelector(".answer").hidden = true;
  node.dataset.state = model.state;
  button(node);
}

/** Shows why a press was refused: a sentence, the details behind it, and what to do. */
function refused(answer, document) {
  const [first, ...rest] = String(document.message).split("\n");
  const [sentence, sum, hints] = answer.children;
  say(sentence, first);
  sum.hidden = rest.length === 0;
  sum.open = false;
  say(sum.querySelector("pre"), rest.join("\n"));
  hints.replaceChildren(...(document.hint || "").split("\n").filter(Boolean).map((hint) => make("li", "", hint)));
  mark(answer, "bad");
  answer.hidden = false;
}

function note(model) {
  const parts = [];
  if (model.state === "loading" && model.progress) parts.push(`${Math.round(model.progress * 100)} % of the weights read`);
  if (model.next_start_seconds !== null) parts.push(`starts again in ${span(model.next_start_seconds)}`);
  if (model.reason && model.state !== "ready") parts.push(model.reason);
  if (model.in_flight) parts.push(`${model.in_flight} in progress`);
  if (model.queued) parts.push(`${model.queued} waiting`);
  if (model.stops_in_seconds !== null) parts.push(`stops in ${span(model.stops_in_seconds)}`);
  if (model.held_back && !model.holds_memory) parts.push(`held back: ${model.held_back}`);
  if (model.requests) {
    parts.push(count(model.requests, "request", "requests"));
    parts.push(count(model.tokens, "token", "tokens"));
  }
  if (model.errors) parts.push(count(model.errors, "error", "errors"));
  if (model.restarts) parts.push(count(model.restarts, "restart", "restarts"));
  if (parts.length === 0) parts.push(model.start === "manual" && !model.holds_memory ? "started only by hand" : "no requests yet");
  return parts.join(" · ");
}

// Buttons. Stopping takes two presses, because a thumb slips.

const UP = ["spawning", "loading", "ready", "backoff"];
const GOING = ["draining", "stopping"];

function button(node) {
  const button = node.querySelector("button"), up = UP.includes(node.dataset.state);
  button.hidden = !(session && session.control);
  if (node.dataset.busy === "yes" || GOING.includes(node.dataset.state)) {
    button.disabled = true;
    say(button, node.dataset.busy === "yes" ? "…" : "Stop");
    button.className = "";
    return;
  }
  button.disabled = !source;
  if (!up) delete node.dataset.sure;
  say(button, up ? (node.dataset.sure ? "Sure?" : "Stop") : "Start");
  button.className = up ? (node.dataset.sure ? "sure" : "stop") : "start";
}

function buttons() {
  document.querySelectorAll(".of-model").forEach(button);
}

async function press(node) {
  const up = UP.includes(node.dataset.state), answer = node.querySelector(".answer");
  if (up && !node.dataset.sure) {
    node.dataset.sure = "yes";
    setTimeout(() => { delete node.dataset.sure; button(node); }, 4000);
    return button(node);
  }
  delete node.dataset.sure;
  node.dataset.busy = "yes";
  answer.hidden = true;
  button(node);
  try {
    const path = `models/${encodeURIComponent(node.dataset.key)}/${up ? "stop" : "start"}`;
    const { ok, status, document } = await post(path, {}, session.token);
    if (!ok) refused(answer, document);
    if (status === 401 || status === 403) connect();
  } catch {
    lost();
  }
  delete node.dataset.busy;
  button(node);
}

// The last hour.

let drawn = 0;

function showHour() {
  drawn = now();
  const lines = hour.slice(0, 3);
  list($("legend"), lines.length > 1 ? lines : [], (line) => line.model, (line) => {
    const entry = make("li"), sample = draw("svg", { viewBox: "0 0 22 8" });
    draw("path", { d: "M1 4H21" }, sample);
    entry.append(sample, make("span", "", line.model));
    return entry;
  }, (entry, line, place) => { entry.className = `line-${place}`; });
  chart($("speed"), lines, (point) => point.tokens_per_second, (value) => String(value), drawn);
  chart($("first"), lines, (point) => point.first_ms, (value) => (value >= 1000 ? `${value / 1000} s` : `${value} ms`), drawn);
  say($("speed-now"), latest((point) => point.tokens_per_second, speed));
  say($("first-now"), latest((point) => point.first_ms, short));
}

/** The newest value among all lines. */
function latest(value, format) {
  const points = hour.flatMap((line) => line.points).filter((point) => value(point) !== null);
  points.sort((a, b) => b.at - a.at);
  return points.length ? format(value(points[0])) : "";
}

let width = innerWidth;
addEventListener("resize", () => {
  if (!state || width === innerWidth) return;
  width = innerWidth;
  showMemory(state);
  showHour();
});

let logged = "";

function addLog(all) {
  const log = $("log"), follows = log.scrollHeight - log.scrollTop - log.clientHeight < 24;
  logged = all.length > LOG ? all.slice(all.indexOf("\n", all.length - LOG) + 1) : all;
  say(log, logged || "the log is empty");
  if (follows) log.scrollTop = log.scrollHeight;
}

$("which").addEventListener("change", () => {
  chosen = $("which").value;
  $("log").hidden = !chosen;
  logged = "";
  say($("log"), "");
  if (source) follow();
});

connect();
