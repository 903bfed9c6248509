// Requests and events, one row each.

import { count, list, make, mark, short, when } from "./parts.js";

const BAD_EVENTS = /fail|crash|refus|panic|problem|quarantin|hung|damaged|killed/;

function none(parent, text) {
  if (parent.children.length === 0) parent.append(make("li", "none", text));
}

export function requestRows(parent, requests, now) {
  list(parent, requests, (request) => `${request.model} ${request.id} ${request.at}`, (request) => {
    const row = make("li"), good = request.outcome === "ok" && request.status < 400;
    const what = make("span", "what");
    what.append(make("span", "who", request.model), ` ${count(request.tokens, "token", "tokens")} in ${short(request.total_ms)}`);
    const end = make("span", "end", good ? "ok" : `${request.status} ${request.outcome}`);
    mark(end, good ? "good" : "bad");
    const cached = request.cached_tokens ? `, ${request.cached_tokens.toLocaleString("en")} cached` : "";
    const more = [
      request.first_ms !== null && `first ${short(request.first_ms)}`,
      request.prompt_tokens > 0 && `prompt ${request.prompt_tokens.toLocaleString("en")}${cached}`,
      request.key || request.client,
    ];
    row.append(when(request.at, now), what, end, make("span", "more", more.filter(Boolean).join(" · ")));
    row.title = `${request.method} ${request.path} from ${request.client}, ${request.id}`;
    return row;
  });
  none(parent, "no requests yet");
}

export function eventRows(parent, events, now) {
  list(parent, events, (event) => event.seq, (event) => {
    const row = make("li"), what = make("span", "what");
    mark(row, BAD_EVENTS.test(event.kind) ? "bad" : "");
    const named = event.model && event.text.startsWith(`${event.model} `);
    if (event.model) what.append(make("span", "who", event.model), " ");
    what.append(named ? event.text.slice(event.model.length + 1) : event.text);
    row.append(when(event.at, now), what, make("span", "end"));
    if (event.hint) row.append(make("span", "more", `→ ${event.hint}`));
    return row;
  });
  none(parent, "no events yet");
}
