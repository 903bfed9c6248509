// Helpers for every part of the page. Text from outside is set as text, never as markup.

const SVG = "http://www.w3.org/2000/svg";

export const $ = (id) => document.getElementById(id);

export function make(tag, kind, text) {
  const node = document.createElement(tag);
  if (kind) node.className = kind;
  if (text !== undefined) node.textContent = text;
  return node;
}

export function draw(tag, attributes, parent) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (parent) parent.append(node);
  return node;
}

/** Sets text only if it differs, so that nothing flickers and a selection stays. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function mark(node, kind) {
  if (node.dataset.kind !== kind) node.dataset.kind = kind;
}

/** Keeps one child of `parent` per item, in order; a child is reused as long as its key is there. */
export function list(parent, items, key, create, update) {
  const old = new Map([...parent.children].map((node) => [node.dataset.key, node]));
  items.forEach((item, place) => {
    const name = String(key(item));
    let node = old.get(name);
    if (node) old.delete(name);
    else {
      node = create(item);
      node.dataset.key = name;
    }
    if (parent.children[place] !== node) parent.insertBefore(node, parent.children[place] || null);
    if (update) update(node, item, place);
  });
  for (const node of old.values()) node.remove();
}

export function three(value) {
  const digits = value >= 100 ? 0 : value >= 10 ? 1 : 2;
  return value.toFixed(digits);
}

export function bytes(count) {
  if (count === null || count === undefined) return "–";
  let value = Math.abs(count), unit = 0;
  const units = ["B", "KB", "MB", "GB", "TB"];
  while (value >= 999.5 && unit < 4) {
    value /= 1000;
    unit += 1;
  }
  return (count < 0 ? "−" : "") + (unit === 0 ? value.toFixed(0) : three(value)) + " " + units[unit];
}

export function span(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  const s = Math.floor(seconds), m = Math.floor(s / 60), h = Math.floor(m / 60), d = Math.floor(h / 24);
  if (d > 0) return `${d} d ${h % 24} h`;
  if (h > 0) return `${h} h ${m % 60} m`;
  if (m > 0) return `${m} m ${s % 60} s`;
  return `${s} s`;
}

export function short(ms) {
  if (ms === null || ms === undefined) return "–";
  return ms < 1000 ? `${Math.round(ms)} ms` : `${three(ms / 1000)} s`;
}

export function speed(value) {
  return value === null || value === undefined ? "–" : `${three(value)} tok/s`;
}

/** The time of day if it is on the same day as `now`, else the date. */
export function clock(at, now) {
  const time = new Date(at), two = (n) => String(n).padStart(2, "0");
  if (time.toDateString() !== new Date(now).toDateString()) {
    return time.toLocaleDateString("en-GB", { day: "numeric", month: "short" });
  }
  return `${two(time.getHours())}:${two(time.getMinutes())}:${two(time.getSeconds())}`;
}

export function when(at, now) {
  const node = make("time", "", clock(at, now));
  node.dateTime = at;
  node.title = new Date(at).toLocaleString("en-GB");
  return node;
}

export function count(n, one, many) {
  return `${n.toLocaleString("en")} ${n === 1 ? one : many}`;
}
