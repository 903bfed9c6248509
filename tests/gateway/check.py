"""Looks at a running instance as the gateways do: `check.py MODULE`, with the printed module; one JSON object.

`plan` is what the health check of the plan says, whose text is run as it stands; `module` what the module says;
`ordinary` and `oversized` who answered such a request, null where nobody did.
"""

import asyncio
import importlib.util
import json
import pathlib
import sys
import textwrap

try:
    import httpx
except ModuleNotFoundError:
    sys.exit("no httpx in this environment: run the tests with scripts/test")

spec = importlib.util.spec_from_file_location("mlx_backends", sys.argv[1])
mlx_backends = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = mlx_backends
spec.loader.exec_module(mlx_backends)

PLAN = (pathlib.Path(__file__).parent / "plan-5.2.txt").read_text()


async def plan():
    names = {
        "httpx": httpx,
        "MLX_REASONING_BACKEND": mlx_backends.MLX_REASONING_BACKEND,
        "MLX_LARGE_BACKEND": mlx_backends.MLX_LARGE_BACKEND,
    }
    body = textwrap.indent(PLAN, "    ") + "\n    return [mlx_reasoning_status, mlx_large_status]\n"
    exec("async def check():\n" + body, names)
    return await names["check"]()


async def asked(client, size, **options):
    text = "word " * (size * 4 // 5)
    body = {"model": "reasoning", "messages": [{"role": "user", "content": text}], "max_tokens": 2}
    try:
        response = await mlx_backends.send(client, body, **options)
    except mlx_backends.Unavailable:
        return None
    if options.get("stream"):
        lines = [line async for line in response.aiter_lines()]
        assert lines, "a stream without a line"
    assert response.status_code == 200, response.text
    return response.extensions["mlx_backend"]


async def main():
    mlx_backends.OVERSIZED_TOKENS = 100
    async with httpx.AsyncClient() as client:
        print(
            json.dumps(
                {
                    "plan": await plan(),
                    "module": await mlx_backends.health(client),
                    "ordinary": await asked(client, 10) if "--ask" in sys.argv else None,
                    "oversized": await asked(client, 150, stream=True) if "--ask" in sys.argv else None,
                }
            )
        )


asyncio.run(main())
