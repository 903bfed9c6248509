"""Load on a gate, by an independent client:

    locust -f tests/gateway/locustfile.py --headless -u 8 -r 8 -t 1m --host http://127.0.0.1:8800
"""

from locust import HttpUser, constant, task

BODY = {"messages": [{"role": "user", "content": "What are you?"}], "max_tokens": 16}


class Client(HttpUser):
    wait_time = constant(0)

    @task(3)
    def chat(self):
        self.client.post("/v1/chat/completions", json=BODY)

    @task(3)
    def stream(self):
        with self.client.post("/v1/chat/completions", json=BODY | {"stream": True}, catch_response=True) as answer:
            if not answer.text.rstrip().endswith("[DONE]"):
                answer.failure("the stream ended early")

    @task(1)
    def models(self):
        self.client.get("/v1/models")
