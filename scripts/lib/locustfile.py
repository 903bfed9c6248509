"""What a user of scripts/load does: chats, plain and streamed, one after the other."""

import json
import os
import random
import time

from locust import HttpUser, between, task

MODELS = os.environ["LOAD_MODELS"].split(",")
KEEP_ALIVE = os.environ["LOAD_KEEP_ALIVE"] == "1"


class Client(HttpUser):
    wait_time = between(0.0, 0.05)

    def on_start(self):
        if not KEEP_ALIVE:
            self.client.headers["Connection"] = "close"

    def ask(self, name, **more):
        model = random.choice(MODELS)
        said = f"What are you, number {random.randrange(10**9)}?"
        body = {"model": model, "messages": [{"role": "user", "content": said}], "max_tokens": 8}
        began = time.perf_counter()
        return began, self.client.post(
            "/v1/chat/completions", json=body | more, name=f"{model}, {name}", stream=bool(more), catch_response=True
        )

    @task(3)
    def whole(self):
        _, asked = self.ask("whole")
        with asked as answer:
            if answer.status_code != 200:
                answer.failure(f"{answer.status_code}: {answer.text[:200]}")
            elif not answer.json()["choices"][0]["message"]["content"]:
                answer.failure("an answer without text")

    @task(3)
    def streamed(self):
        began, asked = self.ask("streamed", stream=True)
        with asked as answer:
            if answer.status_code != 200:
                answer.failure(f"{answer.status_code}: {answer.text[:200]}")
                return
            text, done = "", False
            for line in answer.iter_lines():
                if line == b"data: [DONE]":
                    done = True
                elif line.startswith(b"data: "):
                    event = json.loads(line[6:])
                    if "error" in event:
                        answer.failure(f"an error event: {event['error']}")
                        return
                    text += "".join(choice["delta"].get("content") or "" for choice in event["choices"])
            answer.request_meta["response_time"] = (time.perf_counter() - began) * 1000
            if not done:
                answer.failure("the stream ended before its end")
            elif not text:
                answer.failure("a stream without text")

    @task(1)
    def models(self):
        with self.client.get("/v1/models", name="models", catch_response=True) as answer:
            known = {model["id"] for model in answer.json().get("data", ())}
            if not known.issuperset(MODELS):
                answer.failure(f"{answer.status_code}: {answer.text[:200]}")
