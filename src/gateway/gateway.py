"""An LLM gateway: routes each request to one of the MLX backends or to this machine's own model.

Printed by `mlxctl gateway --format fastapi`. It is yours to edit; the backends are in mlx_backends.py next to it,
which you print again when the registry changes:

    mlxctl gateway --format fastapi > gateway.py
    mlxctl gateway --format python > mlx_backends.py
    pip install fastapi uvicorn httpx
    OWN_BACKEND=http://127.0.0.1:8000 OWN_MODEL=Qwen2.5-Coder-32B uvicorn gateway:app --port 8080

What a request asks for decides who gets it:

    model names an MLX model       that model, or the other MLX model while it is down
    model names anything else      this machine's own model
    no model, oversized prompt     the large MLX model, then the reasoning one, then this machine's own
    no model, x-reasoning: 1       the reasoning MLX model, then the large one, then this machine's own
    no model                       this machine's own model
"""

import asyncio
import json
import os
from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.background import BackgroundTask

import mlx_backends

# This machine's own model: any OpenAI-compatible server, such as vLLM.
OWN_BACKEND = os.environ.get("OWN_BACKEND", "http://127.0.0.1:8000")
OWN_MODEL = os.environ.get("OWN_MODEL", "Qwen2.5-Coder-32B")


@asynccontextmanager
async def lifespan(app):
    # One client for all requests, so that connections are reused. HTTP_PROXY must not apply to the LAN.
    async with httpx.AsyncClient(trust_env=False) as app.state.client:
        yield


app = FastAPI(title="LLM gateway", lifespan=lifespan)


def problem(status, message, kind="invalid_request_error"):
    return JSONResponse({"error": {"message": message, "type": kind, "code": status}}, status)


async def own_status(client):
    try:
        response = await client.get(f"{OWN_BACKEND}/v1/models", timeout=5.0)
    except httpx.HTTPError:
        return "unreachable"
    return "healthy" if response.status_code == 200 else "unhealthy"


@app.get("/health")
async def health():
    """Every backend by name. An on-demand model that is offline is normal; 503 only when nothing can answer."""
    own, mlx = await asyncio.gather(own_status(app.state.client), mlx_backends.health(app.state.client))
    backends = {OWN_MODEL: own, **mlx}
    return JSONResponse({"backends": backends}, 200 if "healthy" in backends.values() else 503)


@app.get("/v1/models")
async def models():
    names = [OWN_MODEL, *(name for backend in mlx_backends.BACKENDS.values() for name in backend.names)]
    return {"object": "list", "data": [{"id": name, "object": "model", "owned_by": "gateway"} for name in names]}


@app.post("/v1/chat/completions")
@app.post("/v1/completions")
async def completions(request: Request):
    try:
        body = json.loads(await request.body())
    except ValueError:
        return problem(400, "the request body is not valid JSON")
    if not isinstance(body, dict):
        return problem(400, "the request body must be a JSON object")
    response = await unless_gone(request, forward(request, body))
    if response is None:
        return Response(status_code=499)  # the client is gone
    if isinstance(response, Response):
        return response
    headers = {"x-backend": response.extensions.get("mlx_backend", "none")}
    if "retry-after" in response.headers:
        headers["retry-after"] = response.headers["retry-after"]
    kind = response.headers.get("content-type")
    if response.is_stream_consumed:
        return Response(response.content, response.status_code, headers, kind)
    # A client that leaves before the first byte never starts `relay`, so close the response here as well.
    return StreamingResponse(relay(response), response.status_code, headers, kind, BackgroundTask(response.aclose))


async def forward(request, body):
    """The backend's response, or one of our own where none could be reached."""
    client, path, stream = app.state.client, request.url.path, body.get("stream") is True
    reasoning = request.headers.get("x-reasoning") == "1"
    if not mlx_backends.route(body, reasoning):
        return await send_own(client, path, body, stream)
    try:
        return await mlx_backends.send(client, body, path, stream, reasoning)
    except mlx_backends.Unavailable as error:
        if not body.get("model"):
            return await send_own(client, path, body, stream)
        # The gate's refusal says why, and when to try again.
        return error.response if error.response is not None else problem(503, str(error), "unavailable")


async def send_own(client, path, body, stream):
    body = body if body.get("model") else {**body, "model": OWN_MODEL}
    timeout = httpx.Timeout(mlx_backends.READ_SECONDS, connect=mlx_backends.CONNECT_SECONDS)
    request = client.build_request("POST", OWN_BACKEND + path, json=body, timeout=timeout)
    try:
        response = await client.send(request, stream=True)
        if not stream:
            await response.aread()
        response.extensions["mlx_backend"] = OWN_MODEL
        return response
    except httpx.TransportError as error:
        return problem(503, f"{OWN_MODEL} cannot be reached: {type(error).__name__} {error}".rstrip(), "unavailable")


async def unless_gone(request, answer):
    """The result of `answer`. None if the client hangs up first: the backend then stops computing."""

    async def gone():
        while (await request.receive())["type"] != "http.disconnect":
            pass

    work, left = asyncio.ensure_future(answer), asyncio.ensure_future(gone())
    try:
        await asyncio.wait({work, left}, return_when=asyncio.FIRST_COMPLETED)
        return await work if work.done() else None
    finally:
        left.cancel()
        work.cancel()


async def relay(response):
    """Passes the body on as it arrives. Closing the response makes the backend stop when the client has gone."""
    try:
        async for chunk in response.aiter_bytes():
            yield chunk
    finally:
        await response.aclose()
