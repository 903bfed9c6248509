"""Common clients, unmodified, against a gate with the real server behind it.

Run by scripts/test-sdk. Each `check_…` is one promise; the first broken one ends the run.
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import langchain_openai
import litellm
import openai
import upstream

ROOT = Path(__file__).resolve().parents[2]
MLXCTL = ROOT / "target/debug/mlxctl"
NODE = ROOT / "target/sdk-node"
MLX_LM = ROOT / "target/sdk-mlx-lm"
# More than the 16 MB that a request may have.
TOO_LARGE = [{"role": "user", "content": "a" * 17_000_000}]
litellm.suppress_debug_info = True
CHAT = [{"role": "user", "content": "What are you?"}]
ANSWER = "I am a tiny test model"
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Instance:
    """A supervisor with an always-on model and a manual one."""

    def __init__(self, folder, network=""):
        self.port, self.manual_port = free_port(), free_port()
        self.config = Path(folder) / "models.toml"
        self.config.write_text(
            f'[paths]\nroot = "{folder}"\nvenv = "{os.environ["MLXCTL_TEST_VENV"]}"\n'
            f'[network]\nhost = "127.0.0.1"\n{network}\n[memory]\nreserve = []\n'
            f'[[model]]\nname = "tiny"\nrepo = "builtin:tiny"\nport = {self.port}\nstart = "always"\n'
            f"aliases = {list(upstream.MODELS)}\n"
            f'[[model]]\nname = "large"\nrepo = "builtin:tiny"\nport = {self.manual_port}\nstart = "manual"\n'
        )
        self.run("setup")
        self.log = open(Path(folder) / "serve.log", "wb")
        self.serve = subprocess.Popen([MLXCTL, "--config", self.config, "serve"], stdout=self.log, stderr=self.log)
        for _ in range(300):
            with contextlib.suppress(subprocess.CalledProcessError):
                self.run("start", "tiny", "--timeout", "60s")
                return
            time.sleep(0.1)
        raise SystemExit("test-sdk: the supervisor does not start")

    def run(self, *arguments):
        command = [MLXCTL, "--config", self.config, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def url(self, manual=False):
        return f"http://127.0.0.1:{self.manual_port if manual else self.port}/v1"

    def end(self):
        self.serve.send_signal(signal.SIGTERM)
        self.serve.wait(60)


@contextlib.contextmanager
def raises(kind, **wanted):
    try:
        yield
    except kind as error:
        assert type(error) is kind, f"{type(error)} is not {kind}"
        for name, value in wanted.items():
            assert getattr(error, name) == value, f"{name} is {getattr(error, name)!r}, not {value!r}: {error}"
        return
    raise AssertionError(f"no {kind.__name__}")


def client(instance, manual=False, **more):
    return openai.OpenAI(base_url=instance.url(manual), api_key=more.pop("api_key", "none"), max_retries=0, timeout=60, **more)


def check_openai_lists(instance):
    ids = [model.id for model in client(instance).models.list()]
    assert "tiny" in ids, ids
    assert client(instance).models.retrieve("tiny").id == "tiny"


def check_openai_chats(instance):
    answer = client(instance).chat.completions.create(model="tiny", messages=CHAT, temperature=0, max_tokens=100)
    assert answer.choices[0].message.content.startswith(ANSWER), answer
    assert answer.choices[0].finish_reason == "stop" and answer.usage.completion_tokens > 5, answer


def check_openai_streams_with_usage(instance):
    stream = client(instance).chat.completions.create(
        model="builtin:tiny", messages=CHAT, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text.startswith(ANSWER), text
    assert chunks[-1].usage.completion_tokens > 5, chunks[-1]


def check_openai_completes(instance):
    prompt = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    complete = client(instance).completions.create
    answer = complete(model="tiny", prompt=prompt, max_tokens=3, temperature=0)
    assert answer.usage.completion_tokens == 3 and answer.choices[0].text.startswith("I am"), answer
    # Continuing an answer used to be fatal to the server.
    for said in ("I", "I am", "I am a"):
        assert complete(model="tiny", prompt=prompt + said, max_tokens=1, temperature=0).choices[0].text


def check_openai_tools_stop_logprobs_and_seeds(instance):
    create = client(instance).chat.completions.create
    answer = create(model="tiny", messages=CHAT, tools=[TOOL], tool_choice="auto", max_tokens=20)
    assert answer.choices[0].message.content, answer
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
    turns = [*CHAT, {"role": "assistant", "content": None, "tool_calls": [call]}, {"role": "tool", "tool_call_id": "1", "content": "sun"}]
    assert create(model="tiny", messages=turns, tools=[TOOL], max_tokens=5).choices[0].message.content
    answer = create(model="tiny", messages=CHAT, temperature=0, stop=[","])
    assert answer.choices[0].message.content == ANSWER, answer
    answer = create(model="tiny", messages=CHAT, temperature=0, logprobs=True, top_logprobs=2, max_tokens=3)
    assert len(answer.choices[0].logprobs.content) == 3, answer
    one, two = (create(model="tiny", messages=CHAT, temperature=1.0, seed=7, max_tokens=10) for _ in range(2))
    assert one.choices[0].message.content == two.choices[0].message.content


def check_openai_errors_are_of_their_classes(instance):
    create = client(instance).chat.completions.create
    with raises(openai.NotFoundError, code="model_not_found", param="model"):
        create(model="gpt-4", messages=CHAT)
    with raises(openai.BadRequestError, param="stop", type="invalid_request_error"):
        create(model="tiny", messages=CHAT, stop=[5])
    with raises(openai.BadRequestError, param="draft_model"):
        create(model="tiny", messages=CHAT, extra_body={"draft_model": "x"})
    with raises(openai.PermissionDeniedError, code="origin_not_allowed"):
        create(model="tiny", messages=CHAT, extra_headers={"Origin": "https://evil.example"})
    with raises(openai.InternalServerError, code="model_offline", status_code=503):
        client(instance, manual=True).chat.completions.create(model="large", messages=CHAT)
    # A library that retries must not wait for what only a person can start.
    began = time.monotonic()
    with raises(openai.InternalServerError):
        patient = openai.OpenAI(base_url=instance.url(True), api_key="none", max_retries=2)
        patient.chat.completions.create(model="large", messages=CHAT)
    assert time.monotonic() - began < 30


def check_openai_names_the_model_as_it_is_listed(instance):
    create = client(instance).chat.completions.create
    assert create(model="builtin:tiny", messages=CHAT, max_tokens=2).model == "tiny"
    assert {chunk.model for chunk in create(model="TINY", messages=CHAT, max_tokens=2, stream=True)} == {"tiny"}
    assert client(instance).completions.create(model="default_model", prompt="Hello", max_tokens=2).model == "tiny"


def check_openai_is_told_of_a_body_that_is_too_large(instance):
    with raises(openai.APIStatusError, status_code=413):
        client(instance).chat.completions.create(model="tiny", messages=TOO_LARGE)

    async def send():
        async with openai.AsyncOpenAI(base_url=instance.url(), api_key="none", max_retries=0, timeout=60) as patient:
            await patient.chat.completions.create(model="tiny", messages=TOO_LARGE)

    with raises(openai.APIStatusError, status_code=413):
        asyncio.run(send())


def check_openai_is_told_what_is_not_supported(instance):
    create = client(instance).chat.completions.create
    for param, value in [
        ("response_format", {"type": "json_object"}),
        ("tool_choice", "required"),
        ("n", 2),
        ("logprobs", True),
    ]:
        with raises(openai.BadRequestError, param=param):
            create(model="tiny", messages=CHAT, tools=[TOOL], **{param: value})
    with raises(openai.BadRequestError, param="prompt"):
        client(instance).completions.create(model="tiny", prompt=[[74, 75]])


def check_coding_agent(instance):
    """A request like opencode's: a long system prompt, tools, a stream, and more tokens than the context leaves."""
    system = {"role": "system", "content": "You are an interactive command-line tool. " * 200}
    stream = client(instance).chat.completions.create(
        model="tiny",
        messages=[system, *CHAT],
        max_tokens=32000,
        temperature=0,
        tools=[TOOL],
        tool_choice="auto",
        stream=True,
        stream_options={"include_usage": True},
        stop=["."],
    )
    chunks = list(stream)
    assert chunks[-1].usage.completion_tokens > 0, chunks[-1]


def check_langchain(instance):
    ask = dict(model="tiny", base_url=instance.url(), api_key="none", max_retries=0, timeout=60)
    # Sends its prompt in a list.
    complete = langchain_openai.OpenAI(**ask, temperature=0, max_tokens=5)
    prompt = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    assert complete.invoke(prompt).startswith("I am")
    assert "".join(complete.stream(prompt)).startswith("I am")
    chat = langchain_openai.ChatOpenAI(**ask, temperature=0)
    assert chat.invoke("What are you?").content.startswith(ANSWER)
    assert "".join(chunk.content for chunk in chat.stream("What are you?")).startswith(ANSWER)


def check_openai_for_node(instance):
    if not (shutil.which("node") and (NODE / "installed.json").exists()):
        print("not installed: ", end="")
        return
    # Node looks for a module next to the file that imports it.
    script = shutil.copy(ROOT / "tests/sdk/client.mjs", NODE)
    done = subprocess.run(["node", script, instance.url()], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def check_litellm(instance):
    ask = dict(model="openai/tiny", api_base=instance.url(), api_key="none", messages=CHAT, temperature=0, num_retries=0)
    assert litellm.completion(**ask).choices[0].message.content.startswith(ANSWER)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in litellm.completion(stream=True, **ask))
    assert text.startswith(ANSWER), text
    with raises(litellm.NotFoundError):
        litellm.completion(**{**ask, "model": "openai/gpt-4"})
    with raises(litellm.BadRequestError):
        litellm.completion(**ask, extra_body={"stop": 5})
    with raises(litellm.ServiceUnavailableError):
        litellm.completion(**{**ask, "model": "openai/large", "api_base": instance.url(True)})


def check_curl(instance):
    def curl(*arguments):
        return subprocess.run(["curl", "-sS", *arguments], check=True, capture_output=True, text=True).stdout

    assert json.loads(curl(instance.url() + "/models"))["data"][0]["id"] == "tiny"
    body = json.dumps({"model": "tiny", "messages": CHAT, "temperature": 0})
    answer = json.loads(curl(instance.url() + "/chat/completions", "-H", "Content-Type: application/json", "-d", body))
    assert answer["choices"][0]["message"]["content"].startswith(ANSWER), answer
    body = json.dumps({"model": "tiny", "messages": CHAT, "stream": True})
    assert curl("-N", instance.url() + "/chat/completions", "-d", body).endswith("data: [DONE]\n\n")
    chunked = curl(instance.url() + "/chat/completions", "-H", "Transfer-Encoding: chunked", "-d", body)
    assert chunked.endswith("data: [DONE]\n\n"), chunked


def check_cases_of_mlx_lm(instance):
    passed = upstream.run(MLX_LM, instance.port)
    assert passed >= 10, passed


def check_keys(instance):
    with raises(openai.AuthenticationError, code="invalid_api_key"):
        client(instance).models.list()
    key = instance.run("key", "add", "sdk")
    known = client(instance, api_key=key)
    assert known.chat.completions.create(model="tiny", messages=CHAT, max_tokens=1).usage.completion_tokens == 1
    instance.run("key", "revoke", "sdk")
    with raises(openai.AuthenticationError):
        known.models.list()


def main():
    plain = [check for name, check in globals().items() if name.startswith("check_") and check is not check_keys]
    for network, checks in [("", plain), ("require_key = true", [check_keys])]:
        with tempfile.TemporaryDirectory(prefix="mlx") as folder:
            instance = Instance(folder, network)
            try:
                for check in checks:
                    check(instance)
                    print(f"{check.__name__.removeprefix('check_').replace('_', ' ')}: ok", flush=True)
            finally:
                instance.end()
    return 0


if __name__ == "__main__":
    sys.exit(main())
