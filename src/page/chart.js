// Lines over the last hour.

import { draw } from "./parts.js";

const HOUR = 3600e3;

/** The next round number, for the top of an axis. */
function top(value) {
  const step = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 4, 5, 8, 10].map((times) => times * step).find((round) => round >= value * 0.999);
}

export function chart(svg, lines, value, format, now) {
  const width = svg.clientWidth || 300, height = 116, left = 46, foot = 18, head = 7;
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.replaceChildren();
  const since = now - HOUR;
  const drawable = lines.map((line) => line.points.filter((point) => value(point) !== null && point.at >= since - 60e3));
  const most = top(Math.max(...drawable.flat().map(value), 1e-9));
  const any = drawable.some((points) => points.length > 0);
  const x = (at) => left + Math.max(0, Math.min(1, (at + 30e3 - since) / HOUR)) * (width - left - 4);
  const y = (size) => head + (1 - size / most) * (height - head - foot);
  for (const share of [0, 0.5, 1]) {
    draw("line", { class: "grid", x1: left, x2: width, y1: y(most * share), y2: y(most * share) }, svg);
    if (any) words(svg, left - 7, y(most * share) + 4, "end", format(Number((most * share).toPrecision(3))));
  }
  for (const [ago, text, anchor] of [[1, "60 min ago", "start"], [0.5, "30", "middle"], [0, "now", "end"]]) {
    words(svg, ago === 0 ? width : left + (1 - ago) * (width - left - 4), height - 3, anchor, text);
  }
  if (!any) return words(svg, left + (width - left) / 2, y(most * 0.5) - 6, "middle", "no answers in the last hour");
  drawable.forEach((points, place) => {
    const group = draw("g", { class: `line-${place}` }, svg);
    // More than ten minutes without an answer are a gap.
    const apart = (a, b) => !a || !b || b.at - a.at > 600e3;
    let path = "";
    points.forEach((point, at) => {
      const [begins, ends] = [apart(points[at - 1], point), apart(point, points[at + 1])];
      const [left, down] = [x(point.at).toFixed(1), y(value(point)).toFixed(1)];
      path += `${begins ? "M" : "L"}${left} ${down}`;
      // A single point has no line, and the newest one should stand out.
      if (ends && (begins || at === points.length - 1)) draw("circle", { cx: left, cy: down, r: 2.5 }, group);
    });
    if (path) draw("path", { d: path }, group);
  });
}

function words(svg, x, y, anchor, text) {
  draw("text", { x, y, "text-anchor": anchor }, svg).textContent = text;
}
