"""Prints a model's cache profile, one JSON document. Started by mlxctl, with a request in JSON as its argument.

    {"folder": "...", "seconds": 60, "memory_bytes": 3e9, "ranks": 0, "mode": "tensor" | "pipeline"}

The folder holds a model, or only its config.json. The model is built by mlx_lm and called twice for each of a few
lengths (all tokens but one, then one, as a server does); the shapes of the arrays that its caches then hold are the
answer. MLX is lazy: nothing is computed, and no weight is read. What the caches hold is described by a rule per
array, which is checked at further lengths (profile_caches.py); profile_texts.py reads the texts.

The folder is not trusted. Nothing in it is run; there is no network, no other process, and no file is written.
Any failure ends in {"error": {"kind", "message"}} within the limits. `kind` is one of config, family, build, weights,
code, ranks, limit, internal.
"""

import json
import os
import re
import resource
import sys
import threading
import time

from profile_caches import activation, measure, quantizable
from profile_texts import (
    LARGEST_CONFIG,
    Refused,
    count,
    describe_template,
    first_line,
    parse,
    part,
    read_config,
    read_text,
)

SCHEMA = 1
MOST_RANKS = 64


# ---------------------------------------------------------------- limits


class Answer:
    """The one document, written once: by the probe or by the watchdog, whichever is first."""

    def __init__(self):
        self.lock = threading.Lock()
        self.out = os.dup(1)
        # Models print while they load; stdout is for the document.
        os.dup2(2, 1)

    def give(self, document):
        with self.lock:
            data = json.dumps(document, allow_nan=False).encode() + b"\n"
            while data:
                data = data[os.write(self.out, data) :]
            os._exit(0)


def refusal(kind, message):
    return {"error": {"kind": kind, "message": message}}


def used_memory():
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10


def watch(answer, seconds, memory):
    until = time.monotonic() + seconds
    while True:
        time.sleep(0.02)
        if time.monotonic() > until:
            answer.give(refusal("limit", f"describing this model took longer than {seconds:g} s"))
        if used_memory() > memory:
            answer.give(refusal("limit", f"describing this model took more than {memory / 1e9:.1f} GB of memory"))


def limit(answer, seconds, memory):
    threading.Thread(target=watch, args=(answer, seconds, memory), daemon=True).start()
    # The watchdog is a Python thread; if a call does not return to Python, the kernel ends the process.
    limits = [(resource.RLIMIT_CPU, int(seconds * 2) + 2), (resource.RLIMIT_CORE, 0)]
    if sys.platform == "linux" and not os.path.exists("/dev/nvidiactl"):
        limits.append((resource.RLIMIT_DATA, int(memory * 4)))
    for what, value in limits:
        _, hard = resource.getrlimit(what)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(what, (value, hard))


FORBIDDEN = ("socket.connect", "socket.bind", "socket.getaddrinfo", "subprocess.Popen", "os.system", "os.exec",
             "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.remove", "os.rename", "os.rmdir", "os.mkdir",
             "shutil.rmtree", "ctypes.dlopen", "pty.spawn")


def lock_up(folder):
    """From here on Python code only reads files, and runs none from the folder."""
    inside = os.path.join(os.path.realpath(folder), "")

    def hook(event, args):
        if event == "open":
            path, mode, flags = (*args, None, None, None)[:3]
            writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if writes or (isinstance(mode, str) and set(mode) & set("wax+")):
                raise Refused("code", f"something tried to write {path!r}")
            if isinstance(path, str) and path.endswith((".py", ".pyc", ".so", ".pth")):
                if os.path.realpath(path).startswith(inside):
                    raise Refused("code", f"something tried to run {path!r}, which came with the model")
        elif event in FORBIDDEN:
            raise Refused("code", f"something tried {event}, which describing a model never needs")

    sys.addaudithook(hook)


# ---------------------------------------------------------------- the model


def lazy(mx):
    """Nothing is computed from here on; a model that looks at a value sees zeros."""

    def listed(array):
        value = 0
        for n in reversed(array.shape):
            value = [value] * n if not isinstance(value, list) else [value[:] for _ in range(n)]
        return value

    mx.eval = mx.async_eval = lambda *_, **__: None
    mx.array.tolist = listed
    mx.array.item = lambda array: 0


def classes(config):
    from mlx_lm import __version__
    from mlx_lm.utils import _get_classes

    family = config["model_type"]
    none = Refused("family", f"mlx-lm {__version__} has no {family[:80]}")
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,80}", family):
        raise none
    try:
        return _get_classes(config)
    except (ValueError, AttributeError, ImportError):
        raise none from None
    except SystemExit:
        why = f"mlx-lm {__version__} serves {family} with a package of another project, which is not installed"
        raise Refused("family", why) from None


def quantization_of(config):
    """What mlx_lm's load makes of the two keys; without weights there is nothing else to look at."""
    quantization = config.get("quantization")
    if isinstance(quantization, dict):
        return quantization
    legacy = config.get("quantization_config") or part(config, "quantization_config")
    if not isinstance(legacy, dict):
        return None
    method = legacy.get("quant_method")
    if method == "mxfp4":
        return {"group_size": 32, "bits": 4, "mode": "mxfp4"}
    if method == "mxfp8" or (
        method == "fp8" and legacy.get("scale_fmt") == "ue8m0" and legacy.get("weight_block_size") == [32, 32]
    ):
        return {"group_size": 32, "bits": 8, "mode": "mxfp8"}
    if method == "compressed-tensors":
        from mlx_lm.utils import _compressed_tensors_quantization

        return _compressed_tensors_quantization(legacy)
    if method == "modelopt":
        settings = legacy.get("quantization", legacy)
        return {"group_size": settings.get("group_size", 16), "bits": 4, "mode": "nvfp4"}
    if method in ("awq", "gptq"):
        return {"group_size": legacy.get("group_size", 128), "bits": legacy.get("bits", 4)}
    # Any other method (fp8) is dequantised on load.
    return None


def build(config):
    """The model that a config.json describes, its weights of the declared type and quantisation."""
    import mlx.core as mx
    import mlx.nn as nn
    from mlx.utils import tree_map_with_path

    model_class, args_class = classes(config)
    model = model_class(args_class.from_dict(config))
    kept = getattr(model, "cast_predicate", lambda _: True)
    name = part(config, "torch_dtype", "dtype")
    name = name.removeprefix("torch.") if isinstance(name, str) else "bfloat16"
    dtype = {"float16": mx.float16, "float32": mx.float32}.get(name, mx.bfloat16)

    def cast(path, array):
        return array.astype(dtype) if kept(path) and mx.issubdtype(array.dtype, mx.floating) else array

    model.update(tree_map_with_path(cast, model.parameters()))
    quantization = quantization_of(config)
    if quantization is not None:
        group = quantization["group_size"]
        wanted = getattr(model, "quant_predicate", None)

        def predicate(path, module):
            if path in quantization:
                return quantization[path]
            if not hasattr(module, "to_quantized") or module.weight.shape[-1] % group:
                return False
            return wanted(path, module) if wanted is not None else True

        mode = quantization.get("mode", "affine")
        nn.quantize(model, group_size=group, bits=quantization["bits"], mode=mode, class_predicate=predicate)
    model.eval()
    return model


def load(folder, config, has_weights):
    """The model as served. Raises Refused with mlx_lm's own words."""
    from mlx_lm.utils import _decode_tagged_floats, load_model

    config = _decode_tagged_floats(config)
    classes(config)
    try:
        if has_weights:
            from pathlib import Path

            return load_model(Path(folder), lazy=True, trust_remote_code=False)[0]
        return build(config)
    except (Refused, MemoryError):
        raise
    except Exception as error:
        raise Refused("weights" if has_weights else "build", f"mlx_lm cannot load it: {first_line(error)}") from None


# ---------------------------------------------------------------- ranks


class Group:
    """Stands in for a cluster: `shard` and `pipeline` only ask for the two numbers."""

    def __init__(self, rank, size):
        self._rank, self._size = rank, size

    def rank(self):
        return self._rank

    def size(self):
        return self._size


def without_a_cluster(mx):
    """Replaces the exchange between ranks by functions that keep shapes, which is all that counts here."""
    mx.distributed.all_sum = lambda x, **_: x
    mx.distributed.send = lambda x, *_, **__: x
    mx.distributed.recv_like = lambda x, *_, **__: x

    def all_gather(x, group=None, **_):
        return mx.concatenate([x] * (group.size() if group else 1))

    mx.distributed.all_gather = all_gather


def shares(folder, config, has_weights, ranks, mode):
    """What each rank holds, by mlx_lm's own `shard` and `pipeline`."""
    import mlx.core as mx

    without_a_cluster(mx)
    found = []
    for rank in range(ranks):
        model = load(folder, config, has_weights)
        target = model if mode == "tensor" else getattr(model, "model", None)
        divide = getattr(target, "shard" if mode == "tensor" else "pipeline", None)
        if divide is None:
            raise Refused("ranks", f"mlx_lm has no {mode} mode for {config['model_type']}")
        try:
            divide(Group(rank, ranks))
        except Exception as error:
            raise Refused("ranks", f"mlx_lm cannot divide it over {ranks} ranks: {first_line(error)}") from None
        layers = [layer for layer in getattr(target, "pipeline_layers", model.layers) if layer is not None]
        found.append({"layers": len(layers), **measure(model, config)[1]})
    return found


# ---------------------------------------------------------------- the document


def versions():
    import importlib.metadata

    def version(name):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return "unknown"

    return {name: version(name) for name in ("mlx", "mlx-lm", "transformers")}


def batches(model):
    """The server's own rule (`is_batchable` of server.py)."""
    from mlx_lm.models.cache import make_prompt_cache

    return all(hasattr(cache, "merge") for cache in make_prompt_cache(model))


def profile(folder, ranks=0, mode="tensor"):
    config, digest = read_config(folder)
    has_weights = any(n.startswith("model") and n.endswith(".safetensors") for n in os.listdir(folder))
    data = read_text(os.path.join(folder, "tokenizer_config.json"), LARGEST_CONFIG)
    settings = parse("tokenizer_config.json", data) if data is not None else {}
    model = load(folder, config, has_weights)
    trace, found = measure(model, config)
    kind = activation(trace, config)
    hidden = count(part(config, "hidden_size", "n_embd", "d_model", "model_dim", "dim"))
    attention = [slot for entry in found["caches"] for slot in entry["slots"] if "heads" in slot]
    heads = count(part(config, "num_attention_heads", "n_head", "n_heads", "num_heads"))
    wide = [count(part(config, "intermediate_size", "ffn_hidden_size", "ffn_dim", "n_inner", "d_ff")) or 0]
    routed = count(part(config, "moe_intermediate_size"))
    active = count(part(config, "num_experts_per_tok", "moe_topk")) or 1
    wide.append(routed * active if routed else 0)
    document = {
        "schema": SCHEMA,
        "config_sha256": digest,
        "versions": versions(),
        "family": config["model_type"],
        "from": "weights" if has_weights else "config",
        "layers": count(part(config, "num_hidden_layers", "n_layers", "n_layer", "num_layers")) or len(model.layers),
        "hidden": hidden or 0,
        "heads": heads or max((slot["heads"] for slot in attention), default=1),
        "intermediate": max(wide) or 4 * (hidden or 0),
        "vocabulary": trace.vocabulary,
        "context": count(part(config, "max_position_embeddings", "n_positions", "max_seq_len", "model_max_length",
                              "max_sequence_length")),
        "activation": {"dtype": kind, "bytes": 4 if kind == "float32" else 2},
        "batches": batches(model),
        "unquantizable": quantizable(trace),
        "template": describe_template(folder, settings),
        **found,
    }
    if ranks:
        document["mode"], document["shares"] = mode, shares(folder, config, has_weights, ranks, mode)
    return document


def main():
    # Import neither from the working directory nor from the user's packages.
    sys.path = [path for path in sys.path if path]
    sys.dont_write_bytecode = True
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")
    answer = Answer()
    request = json.loads(sys.argv[1])
    folder, ranks, mode = request["folder"], request.get("ranks", 0), request.get("mode", "tensor")
    limit(answer, request.get("seconds", 60), request.get("memory_bytes", 3e9))
    try:
        # Refuse what needs no mlx_lm first: that takes milliseconds.
        read_config(folder)
        if not 0 <= ranks <= MOST_RANKS:
            raise Refused("ranks", f"{ranks} ranks are out of range (up to {MOST_RANKS})")
        import mlx.core as mx

        if sys.platform != "darwin":
            mx.set_default_device(mx.cpu)
        import jinja2.sandbox  # noqa: F401
        import mlx_lm.generate  # noqa: F401
        import mlx_lm.utils

        classes(read_config(folder)[0])
        lazy(mx)
        lock_up(folder)
        document = profile(folder, ranks, mode)
    except Refused as error:
        document = refusal(error.kind, error.message)
    except MemoryError:
        document = refusal("limit", "describing this model took too much memory")
    except RecursionError:
        document = refusal("config", "config.json is nested too deeply")
    except OSError as error:
        document = refusal("config", f"{folder} cannot be read: {error.strerror or error}")
    except Exception as error:
        document = refusal("internal", first_line(error))
    answer.give(document)


if __name__ == "__main__":
    main()
