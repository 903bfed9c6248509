"""A gateway as small as one can be, with the printed module: `small_gateway.py MODULE PORT`."""

import importlib.util
import sys

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

spec = importlib.util.spec_from_file_location("mlx_backends", sys.argv[1])
mlx_backends = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = mlx_backends
spec.loader.exec_module(mlx_backends)
mlx_backends.OVERSIZED_TOKENS = 1000

client = httpx.AsyncClient()


async def health(request):
    return JSONResponse(await mlx_backends.health(client))


async def chat(request):
    body = await request.json()
    if not mlx_backends.route(body):
        return JSONResponse({"error": {"message": "not one for the MLX backends"}}, 404)
    try:
        response = await mlx_backends.send(client, body, stream=body.get("stream") is True)
    except mlx_backends.Unavailable as error:
        return JSONResponse({"error": {"message": str(error)}}, 503)
    headers = {"x-mlx-backend": response.extensions["mlx_backend"]}
    return StreamingResponse(
        relay(response), response.status_code, headers, response.headers.get("content-type")
    )


async def relay(response):
    try:
        if response.is_stream_consumed:
            yield response.content
        else:
            async for chunk in response.aiter_bytes():
                yield chunk
    finally:
        await response.aclose()


app = Starlette(
    routes=[Route("/health", health), Route("/v1/chat/completions", chat, methods=["POST"])]
)
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")
