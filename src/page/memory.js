// The memory budget as a bar, with a legend.

import { $, bytes, draw, list, make, say } from "./parts.js";

/** The budget as a bar: reserves, models with how much they use of what was granted to them, what is free. */
export function showMemory(state) {
  const { budget, host } = state;
  const reserves = budget.reserves.filter((reserve) => reserve.active);
  const models = state.models.filter((model) => model.holds_memory && model.estimate_bytes);
  const terms = [
    ...reserves.map((reserve) => ({ kind: "reserve", name: reserve.name, size: reserve.bytes })),
    ...models.map((model, place) => ({
      kind: "model", name: model.name, size: model.estimate_bytes, now: model.footprint_bytes, depth: Math.min(place, 3),
    })),
  ];
  const sum = terms.reduce((all, term) => all + term.size, 0);
  const whole = Math.max(budget.total_bytes, sum, 1);
  const bar = $("bar");
  const width = bar.clientWidth || 300, at = (size) => (size / whole) * width;
  bar.setAttribute("viewBox", `0 0 ${width} 30`);
  bar.replaceChildren();
  let from = 0;
  for (const term of terms) {
    const part = draw("g", {}, bar);
    const depth = term.depth === undefined ? "" : ` deep-${term.depth}`;
    if (term.kind === "model") {
      // The grant, and over it the part of it that is used.
      draw("rect", { class: `model${depth}`, x: from, y: 0, width: at(term.size), height: 30, "fill-opacity": 0.45 }, part);
      const taken = Math.min(term.now || 0, term.size);
      draw("rect", { class: `taken${depth}`, x: from, y: 0, width: at(taken), height: 30 }, part);
    } else {
      draw("rect", { class: "reserve", x: from, y: 0, width: at(term.size), height: 30 }, part);
    }
    from += at(term.size);
    draw("line", { class: "edge", x1: from, x2: from, y1: 0, y2: 30 }, part);
  }
  const limit = host.gpu_limit_bytes;
  const marked = limit && limit < whole;
  if (marked) draw("line", { class: "mark", x1: at(limit), x2: at(limit), y1: 0, y2: 30 }, bar);
  if (sum > budget.total_bytes) {
    const end = at(budget.total_bytes);
    draw("line", { class: "over", x1: end, x2: end, y1: 0, y2: 30 }, bar);
  }
  say($("free"), bytes(budget.free_bytes));
  say($("total"), bytes(budget.total_bytes));
  const rows = [...terms, { kind: "free", name: "free", size: budget.free_bytes }];
  if (marked) rows.push({ kind: "mark", name: "the GPU may hold", size: limit });
  list($("terms"), rows, (term) => `${term.kind} ${term.name}`, () => {
    const row = make("li");
    row.append(make("span", "swatch"), make("span", "name"), make("span", "now"), make("span", "size"));
    return row;
  }, (row, term) => {
    const [swatch, name, now, size] = row.children;
    swatch.className = `swatch ${term.kind}${term.depth === undefined ? "" : ` deep-${term.depth}`}`;
    say(name, term.name);
    say(now, term.now ? `${bytes(term.now)} of` : "");
    say(size, bytes(term.size));
  });
  const facts = [host.chip, host.os, `${bytes(host.available_bytes)} available`, `memory pressure ${host.pressure.toLowerCase()}`];
  if (host.swap_used_bytes) facts.push(`${bytes(host.swap_used_bytes)} swapped`);
  say($("machine"), facts.filter(Boolean).join(" · "));
}
