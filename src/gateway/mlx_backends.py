"""The MLX backends of this network, for an LLM gateway that uses httpx.

Printed by `mlxctl gateway --format python`; print it again when the registry changes.

    import mlx_backends

    status = await mlx_backends.health(client)          # {"32b": "healthy", "70b": "offline"}
    if mlx_backends.route(body):                        # is it one for them?
        response = await mlx_backends.send(client, body)     # `stream=True`: relay response.aiter_raw(), then aclose()

Only a 200 of a backend means that it can answer now: behind its port stands a gate that answers 503, with the state
in `error.state`, while the model is offline, loading, draining, refused or failed.
"""

import asyncio
import os
import time
from dataclasses import dataclass

import httpx


@dataclass(frozen=True)
class Backend:
    name: str
    url: str
    names: tuple = ()  # what clients may call it
    on_demand: bool = False  # offline is normal
    context: int | None = None  # longest prompt plus answer, tokens


# <registry>
BACKENDS = {
    "32b": Backend("32b", "http://192.168.132.21:8800", ("32b", "reasoning")),
    "70b": Backend("70b", "http://192.168.132.21:8801", ("70b", "large"), on_demand=True),
}
REASONING = "32b"
LARGE = "70b"
# </registry>

MLX_REASONING_BACKEND = BACKENDS[REASONING].url if REASONING else None
MLX_LARGE_BACKEND = BACKENDS[LARGE].url if LARGE else None

# Yours to set.
OVERSIZED_TOKENS = 16_000  # of a prompt, from which on a request goes to the large model
AWAY_SECONDS = 5.0  # a machine that does not answer at all is left out for so long, unless nobody else is left
CONNECT_SECONDS = 3.0
READ_SECONDS = 600.0  # a long prompt takes minutes until its first token

# Statuses of a backend that cannot serve anybody now, whatever the request.
UNAVAILABLE = {429, 500, 502, 503, 504}

_away = {}


class Unavailable(Exception):
    """No backend could take the request; `response` is the last refusal, None where none was reached."""

    def __init__(self, message, response=None):
        super().__init__(message)
        self.response = response


def headers():
    """The bearer key of the gates, from MLX_API_KEY, where they ask for one."""
    key = os.environ.get("MLX_API_KEY")
    return {"Authorization": f"Bearer {key}"} if key else {}


async def state(client, backend):
    """What one backend is doing: ready, offline, loading, draining, refused, failed, unhealthy, unreachable."""
    timeout = 3.0 if backend.on_demand else 5.0
    try:
        response = await client.get(f"{backend.url}/v1/models", headers=headers(), timeout=timeout)
    except httpx.HTTPError:
        return "unreachable"
    if response.status_code == 200:
        return "ready"
    try:
        return response.json()["error"].get("state") or "unhealthy"
    except (ValueError, KeyError, TypeError, AttributeError):
        return "unhealthy"


def status(backend, state):
    """healthy, unhealthy or unreachable; of an on-demand backend, healthy or offline."""
    if state == "ready":
        return "healthy"
    if backend.on_demand:
        return "offline"
    return "unreachable" if state == "unreachable" else "unhealthy"


async def states(client):
    """`state` of every backend, by name."""
    found = await asyncio.gather(*(state(client, backend) for backend in BACKENDS.values()))
    return dict(zip(BACKENDS, found))


async def health(client):
    """`status` of every backend, by name: what a gateway shows in its own /health."""
    return {name: status(BACKENDS[name], found) for name, found in (await states(client)).items()}


def tokens(body):
    """The prompt's, estimated: four bytes of text are about a token.

    The answer does not count: `max_tokens` is a bound that coding agents set to 32,000 whatever they ask, and a gate
    lowers it to what the context leaves.
    """
    text = 0
    for message in body.get("messages") or []:
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, str):
            text += len(content.encode())
        elif isinstance(content, list):
            parts = (part.get("text") for part in content if isinstance(part, dict))
            text += sum(len(part.encode()) for part in parts if isinstance(part, str))
    prompt = body.get("prompt")
    for part in prompt if isinstance(prompt, list) else [prompt]:
        text += len(part.encode()) if isinstance(part, str) else 0
    return text // 4


def named(model):
    """The backend that a client's `model` names, if one is."""
    wanted = str(model or "").lower()
    return next((backend for backend in BACKENDS.values() if wanted in map(str.lower, backend.names)), None)


def route(body, reasoning=False):
    """The backends for a request, best first; empty: it is none of theirs.

    By the model that it names; else, where `reasoning` says that it needs that (your gateway knows), the reasoning
    model. Of these, and of requests that name no model at all, the oversized ones go to the large model first, and the
    others stand in.
    """
    size = tokens(body)
    backend = named(body.get("model"))
    if backend is None and reasoning and REASONING:
        backend = BACKENDS[REASONING]
    if backend is None and not body.get("model") and LARGE and size >= OVERSIZED_TOKENS:
        backend = BACKENDS[LARGE]
    if backend is None:
        return []
    order = [backend]
    if LARGE and backend.name == REASONING and size >= OVERSIZED_TOKENS:
        order.insert(0, BACKENDS[LARGE])
    order += [BACKENDS[name] for name in (REASONING, LARGE) if name and BACKENDS[name] not in order]
    fitting = [other for other in order if other.context is None or size < other.context]
    return fitting or order[:1]


async def send(client, body, path="/v1/chat/completions", stream=False, reasoning=False):
    """Sends a request to the first backend of its route that takes it, and returns that one's response.

    A backend that is offline, loading, refused, full or unreachable is passed over; once an answer has begun there is
    no way back. `response.extensions["mlx_backend"]` names who answered. Raises `Unavailable` when nobody did.
    """
    route_ = route(body, reasoning)
    asked = named(body.get("model"))
    present = [backend for backend in route_ if _away.get(backend.name, 0.0) <= time.monotonic()]
    refusal, reasons = None, []
    for backend in present or route_:
        request = client.build_request(
            "POST",
            backend.url + path,
            # A name of its own may be a preset, which the gate has to see.
            json={**body, "model": body["model"] if backend is asked else backend.name},
            headers=headers(),
            timeout=httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS),
        )
        try:
            response = await client.send(request, stream=True)
            if response.status_code in UNAVAILABLE or not stream:
                await response.aread()
        except httpx.TransportError as error:
            if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
                _away[backend.name] = time.monotonic() + AWAY_SECONDS
            reasons.append(f"{backend.name}: {type(error).__name__} {error}".rstrip())
            continue
        if response.status_code not in UNAVAILABLE:
            response.extensions["mlx_backend"] = backend.name
            return response
        refusal = response
        reasons.append(f"{backend.name}: {response.status_code} {response.text[:300]}")
    raise Unavailable("; ".join(reasons) or "no backend serves this model", refusal)
