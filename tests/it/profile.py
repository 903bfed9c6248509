"""Profiles of many configurations in one process: a JSON object a line, with what the caches were seen to take."""

import importlib.util
import json
import pathlib
import sys
import tempfile

probe_file, families_file, configs = sys.argv[1:4]


def module(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


import mlx.core as mx  # noqa: E402
import mlx_lm.generate  # noqa: E402, F401

mx.set_default_device(mx.cpu)
probe = module("probe", probe_file)
probe.lazy(mx)


def describe(name, config):
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "config.json").write_text(json.dumps(config))
        try:
            document = probe.profile(folder)
        except probe.Refused as error:
            document = probe.refusal(error.kind, error.message)
    tokens = {n: probe.bytes_at(document, n) for n in (1, 300, 10_000)} if "error" not in document else {}
    print(json.dumps({"name": name, "document": json.dumps(document), "bytes": tokens}), flush=True)


for case in json.loads(pathlib.Path(configs).read_text()):
    describe(case["name"], case["config"])
families = module("families", families_file)
for name in ("llama4", "gemma3_text", "deepseek_v32", "deepseek_v41", "falcon_h1", "rwkv7", "minimax_m3_vl"):
    config = families.config_of(name, getattr(importlib.import_module(f"mlx_lm.models.{name}"), "ModelArgs"))
    describe(name, config)
