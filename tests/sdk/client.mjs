// The OpenAI library for Node against a gate: node client.mjs BASE_URL
import assert from "node:assert";
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "none", maxRetries: 0, timeout: 60_000 });
const ask = { model: "tiny", temperature: 0, messages: [{ role: "user", content: "What are you?" }] };

const ids = [];
for await (const model of client.models.list()) ids.push(model.id);
assert(ids.includes("tiny"));

const answer = await client.chat.completions.create(ask);
assert(answer.choices[0].message.content.startsWith("I am a tiny test model"));
assert.strictEqual(answer.model, "tiny");

let text = "";
for await (const chunk of await client.chat.completions.create({ ...ask, stream: true })) {
  text += chunk.choices[0]?.delta?.content ?? "";
}
assert(text.startsWith("I am a tiny test model"));

await assert.rejects(client.chat.completions.create({ ...ask, stop: 5 }), { status: 400, param: "stop" });
// More than the 16 MB that a request may have: the refusal arrives while it is still being sent.
const large = [{ role: "user", content: "a".repeat(17_000_000) }];
await assert.rejects(client.chat.completions.create({ ...ask, messages: large }), { status: 413 });
