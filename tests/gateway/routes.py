"""What the module decides by itself: `routes.py MODULE`, with one printed for models 32b (8192 tokens) and 70b."""

import asyncio
import importlib.util
import json
import sys

import httpx

spec = importlib.util.spec_from_file_location("mlx_backends", sys.argv[1])
m = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = m
spec.loader.exec_module(m)


def route(**body):
    reasoning = body.pop("reasoning", False)
    return [backend.name for backend in m.route(body, reasoning)]


short = [{"role": "user", "content": "why?"}]
long = [{"role": "user", "content": [{"type": "text", "text": "x" * 4 * 20_000}]}]
odd = [None, "text", {"content": 5}, {"content": [1, {"text": None}]}]

assert route(model="qwen-coder", messages=short) == [], "a model of somebody else"
assert route(messages=short) == []
assert route(model="qwen-coder", messages=long) == [], "oversized, and still of somebody else"
assert route(messages=long) == route(model=None, messages=long) == ["70b"], "too long for the 32b"
assert route(messages=short, reasoning=True) == ["32b", "70b"]
assert route(model="REASONING", messages=short) == ["32b", "70b"]
assert route(model="large", messages=short) == ["70b", "32b"]
assert route(model="32b", messages=long) == ["70b"], "too long for the 32b, which is not asked in vain"
assert route(model="32b", messages=short, max_tokens=32_000) == ["32b", "70b"], "a bound, which the gate lowers"
assert route(model="32b", prompt="x" * 4 * 5000) == ["32b", "70b"], "below what counts as oversized"
assert route(model="32b", prompt=["x" * 4 * 9000]) == ["70b"], "a list of one, as LangChain sends it"
m.OVERSIZED_TOKENS = 4000
assert route(model="32b", prompt="x" * 4 * 5000) == ["70b", "32b"]
assert route(prompt="x" * 4 * 5000) == ["70b", "32b"], "the large one, and the other while that is down"
large, m.LARGE = m.LARGE, None
assert route(prompt="x" * 4 * 5000) == [], "there is no large one"
m.LARGE = large
assert route(model="32b", messages=odd, max_tokens="many") == ["32b", "70b"], "nonsense is for the gate to refuse"

always, manual = m.BACKENDS["32b"], m.BACKENDS["70b"]
assert [m.status(always, state) for state in ("ready", "loading", "unreachable")] == ["healthy", "unhealthy", "unreachable"]
assert [m.status(manual, state) for state in ("ready", "loading", "unreachable")] == ["healthy", "offline", "offline"]


def asked(model, offline=()):
    """What each backend was asked for, in order, until one answered."""
    seen = []

    def answer(request):
        seen.append(json.loads(request.content)["model"])
        return httpx.Response(503 if request.url.port in offline else 200, json={})

    async def ask():
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
            await m.send(client, {"model": model, "messages": short})

    asyncio.run(ask())
    return seen


assert asked("Reasoning") == ["Reasoning"], "it may be a preset"
assert asked("reasoning", offline=[httpx.URL(always.url).port]) == ["reasoning", "70b"], "which the other one does not know"
