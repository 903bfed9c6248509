"""What real ranks hold of tiny models of several families, with the profile: one JSON object per line.

Started alone, it saves the models, starts itself once per rank, and runs the probe. Ranks use MLX's ring backend.
"""

import importlib
import importlib.util
import json
import os
import pathlib
import socket
import subprocess
import sys

RANKS = 2
TOKENS = 300
CASES = [
    ("llama", ("tensor",)), ("qwen3_moe", ("tensor", "pipeline")), ("deepseek_v3", ("tensor", "pipeline")),
    ("glm4_moe", ("tensor", "pipeline")), ("gpt_oss", ("tensor",)), ("qwen3_5", ("tensor",)),
    ("ministral3", ("tensor", "pipeline")),
]


def module(name, path):
    sys.path.insert(0, os.path.dirname(path))
    spec = importlib.util.spec_from_file_location(name, path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def rank_of(folder):
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.models.cache import make_prompt_cache
    from mlx_lm.utils import load_model

    mx.set_default_device(mx.cpu)
    group = mx.distributed.init(strict=True, backend="ring")
    for name, modes in CASES:
        for mode in modes:
            model, _ = load_model(pathlib.Path(folder, name), lazy=True)
            if mode == "tensor":
                model.shard(group)
            else:
                model.model.pipeline(group)
            parameters = [value for _, value in tree_flatten(model.parameters())]
            mx.eval(parameters)
            caches = make_prompt_cache(model)
            for tokens in (TOKENS - 1, 1):
                out = model(mx.zeros((1, tokens), mx.int32), cache=caches)
                mx.eval([out, [cache.state for cache in caches]])
            print(json.dumps({
                "name": name, "mode": mode, "weights": sum(value.nbytes for value in parameters),
                "caches": sum(cache.nbytes for cache in caches),
            }), flush=True)


def free_ports():
    taken = [socket.socket() for _ in range(RANKS)]
    for one in taken:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in taken]
    for one in taken:
        one.close()
    return ports


def real_ranks(folder):
    hosts = pathlib.Path(folder, "hosts.json")
    hosts.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in free_ports()]))
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", sys.argv[2], "rank", sys.argv[2], folder], stdout=subprocess.PIPE, text=True,
            env={**os.environ, "MLX_RANK": str(rank), "MLX_HOSTFILE": str(hosts)},
        )
        for rank in range(RANKS)
    ]
    try:
        said = [rank.communicate(timeout=240)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    return [[json.loads(line) for line in text.splitlines()] for text in said]


def main():
    folder, probe_file, families_file = sys.argv[3:6]
    import mlx.core as mx
    import mlx_lm.generate  # noqa: F401
    from mlx.utils import tree_flatten

    mx.set_default_device(mx.cpu)
    probe, families = module("probe", probe_file), module("families", families_file)
    for name, _ in CASES:
        config = families.config_of(name, importlib.import_module(f"mlx_lm.models.{name}").ModelArgs)
        path = pathlib.Path(folder, name)
        path.mkdir()
        path.joinpath("config.json").write_text(json.dumps(config))
        mx.save_safetensors(str(path / "model.safetensors"), dict(tree_flatten(probe.build(config).parameters())))
    held = real_ranks(folder)
    probe.lazy(mx)
    cases = [(name, mode) for name, modes in CASES for mode in modes]
    for number, (name, mode) in enumerate(cases):
        try:
            document = probe.profile(os.path.join(folder, name), RANKS, mode)
        except probe.Refused as error:
            document = probe.refusal(error.kind, error.message)
        ranks = [rank[number] for rank in held]
        assert all((rank["name"], rank["mode"]) == (name, mode) for rank in ranks)
        print(json.dumps({"name": name, "mode": mode, "tokens": TOKENS, "document": json.dumps(document),
                          "ranks": [[rank["weights"], rank["caches"]] for rank in ranks]}))


if sys.argv[1] == "rank":
    rank_of(sys.argv[3])
else:
    main()
