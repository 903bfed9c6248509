"""Says what a model takes: the cache profile, one JSON document. Started by mlxctl, with a request in JSON as argument.

    {"folder": "...", "seconds": 60, "memory_bytes": 3e9, "ranks": 0, "mode": "tensor" | "pipeline"}

The folder holds a model, or only its config.json. The model is built by mlx_lm and called twice for each of a few
lengths (all tokens but one, then one, as a server does); the shapes of the arrays that its caches then hold are the
answer. MLX is lazy: nothing is computed, and no weight is read. What the caches hold is described by a rule per
array, which is checked against further lengths.

The folder is not trusted. Nothing in it is run; there is no network, no other process, and no file is written.
Whatever is wrong ends in {"error": {"kind", "message"}} within the limits. `kind` is one of config, family, build,
weights, code, limit, internal.
"""

import hashlib
import json
import math
import os
import re
import resource
import sys
import threading
import time

SCHEMA = 1
LARGEST_CONFIG = 16 << 20
LARGEST_TEMPLATE = 2 << 20
MOST_TEMPLATES = 16
LARGEST_TOKENIZER = 128 << 20
DEEPEST = 64
MOST_LAYERS = 4096
LARGEST_NUMBER = 1 << 48
MOST_RANKS = 64
# Lengths that every model is tried with; the windows of sliding caches add theirs.
LENGTHS = (37, 300, 777)
LONGEST = 1 << 18
# Some models loop over tokens in Python: a length that would take longer than this is left out.
PATIENCE = 5.0
LAYER_COUNTS = re.compile(r"(^|_)(n|num|number)_?(of_)?(hidden_|decoder_|transformer_)?(layers?|blocks)$")
THINKING = (("<think>", "</think>"), ("<longcat_think>", "</longcat_think>"), ("<|think:start|>", "<|think:end|>"))


class Refused(Exception):
    """What the document says instead: a kind and one sentence."""

    def __init__(self, kind, message):
        super().__init__(message)
        self.kind, self.message = kind, message


# ---------------------------------------------------------------- limits


class Answer:
    """The one document, written once, whoever comes first: the probe or the watchdog."""

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
    # The watchdog is a thread of Python; where a call does not return to Python, the kernel ends the process.
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
    """From here on Python code reads files and does nothing else, and runs none from the folder."""
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


# ---------------------------------------------------------------- the folder's texts


def read_text(path, largest):
    try:
        with open(path, "rb") as file:
            data = file.read(largest + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Refused("config", f"{os.path.basename(path)} cannot be read: {error.strerror}") from None
    if len(data) > largest:
        raise Refused("config", f"{os.path.basename(path)} is larger than {largest >> 20} MiB")
    return data


def parse(name, data):
    try:
        return json.loads(data)
    except RecursionError:
        raise Refused("config", f"{name} is nested more than {DEEPEST} levels deep") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise Refused("config", f"{name} is not valid JSON: {error}") from None


def check_bounds(config):
    """Refuses numbers, nesting and counts that no model has, before anything is built from them."""
    if not isinstance(config, dict):
        raise Refused("config", "config.json is not a JSON object")
    pending = [(config, "", 1)]
    while pending:
        value, at, depth = pending.pop()
        if depth > DEEPEST:
            raise Refused("config", f"config.json is nested more than {DEEPEST} levels deep")
        if isinstance(value, dict):
            pending.extend((inner, str(key), depth + 1) for key, inner in value.items())
        elif isinstance(value, list):
            pending.extend((inner, at, depth + 1) for inner in value)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            if LAYER_COUNTS.search(at.lower()) and not 0 <= value <= MOST_LAYERS:
                raise Refused("config", f"{at}: {value} is out of range (0 to {MOST_LAYERS})")
            if isinstance(value, int) and abs(value) > LARGEST_NUMBER:
                raise Refused("config", f"{at}: {value} is out of range (up to {LARGEST_NUMBER})")


def read_config(folder):
    data = read_text(os.path.join(folder, "config.json"), LARGEST_CONFIG)
    if data is None:
        raise Refused("config", "there is no config.json")
    config = parse("config.json", data)
    check_bounds(config)
    for name in ("generation_config.json", "hf_quant_config.json"):
        beside = read_text(os.path.join(folder, name), LARGEST_CONFIG)
        if beside is not None and name.startswith("hf_"):
            check_bounds(parse(name, beside))
        elif beside is not None:
            # mlx_lm passes over one that is damaged, but not over one that is too deep.
            try:
                json.loads(beside)
            except RecursionError:
                raise Refused("config", f"{name} is nested too deeply") from None
            except ValueError:
                pass
    if config.get("model_file") is not None:
        raise Refused("code", "config.json names a `model_file`: the model brings code of its own, which is never run")
    family = config.get("model_type")
    if not isinstance(family, str):
        raise Refused("config", "model_type is missing" if family is None else "model_type is not a string")
    return config, hashlib.sha256(data).hexdigest()


def part(config, *keys):
    """The first of `keys` that is there, in the text model's configuration or in the whole one."""
    text = next((config[k] for k in ("text_config", "llm_config", "language_config") if isinstance(config.get(k), dict)), {})
    for place in (text, config):
        for key in keys:
            if place.get(key) is not None:
                return place[key]
    return None


def count(value):
    if isinstance(value, list):
        value = max((n for n in value if isinstance(n, int)), default=None)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


# ---------------------------------------------------------------- template and tokens


def undeclared(source):
    """The variables that a chat template reads. It is parsed, never run: constants are not folded either."""
    import jinja2
    import jinja2.ext
    import jinja2.meta
    import jinja2.sandbox

    class Generation(jinja2.ext.Extension):
        """`{% generation %}`, as transformers has it."""

        tags = {"generation"}

        def parse(self, parser):
            line = next(parser.stream).lineno
            body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
            return jinja2.nodes.Scope(body, lineno=line)

    class Tracking(jinja2.meta.TrackingCodeGenerator):
        def __init__(self, environment):
            super().__init__(environment)
            self.optimizer = None

    # One that needs the context keeps the compiler from evaluating constants.
    finalize = jinja2.pass_context(lambda context, value: value)
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols], finalize=finalize
    )
    environment.filters["tojson"] = environment.filters["tojson"]
    environment.globals.update(raise_exception=None, strftime_now=None)
    tracking = Tracking(environment)
    tracking.visit(environment.parse(source))
    return sorted(tracking.undeclared_identifiers)


def template_sources(folder, settings):
    """Chat templates by file, as transformers looks for them."""
    files = ["chat_template.jinja"]
    more = os.path.join(folder, "additional_chat_templates")
    if os.path.isdir(more):
        files += sorted(f"additional_chat_templates/{n}" for n in os.listdir(more) if n.endswith(".jinja"))[:MOST_TEMPLATES]
    texts = [(name, read_text(os.path.join(folder, name), LARGEST_TEMPLATE)) for name in files]
    found = [(name, text.decode("utf-8", "replace")) for name, text in texts if text is not None]
    if found:
        return found
    beside = read_text(os.path.join(folder, "chat_template.json"), LARGEST_TEMPLATE)
    places = [("chat_template.json", parse("chat_template.json", beside))] if beside else []
    for name, place in [*places, ("tokenizer_config.json", settings)]:
        found = place.get("chat_template") if isinstance(place, dict) else None
        if isinstance(found, str):
            return [(name, found)]
        if isinstance(found, list):
            return [(name, t["template"]) for t in found if isinstance(t, dict) and isinstance(t.get("template"), str)]
    return []


def describe_template(folder, settings):
    sources = template_sources(folder, settings)
    if not sources:
        return None
    if sum(len(source) for _, source in sources) > LARGEST_TEMPLATE:
        return {"file": sources[0][0], "error": f"it is longer than {LARGEST_TEMPLATE >> 20} MiB"}
    try:
        names = set().union(*(undeclared(source) for _, source in sources))
    except RecursionError:
        return {"file": sources[0][0], "error": "it is nested too deeply"}
    except Refused:
        raise
    except Exception as error:
        return {"file": sources[0][0], "error": first_line(error)}
    return {"file": sources[0][0], "variables": sorted(names)}


def added_tokens(folder, settings):
    """The tokens that a tokenizer adds to its vocabulary: markers of thinking are always among them."""
    listed = settings.get("added_tokens_decoder") if isinstance(settings, dict) else None
    found = set()
    if isinstance(listed, dict):
        found = {token.get("content") for token in listed.values() if isinstance(token, dict)}
    data = read_text(os.path.join(folder, "tokenizer.json"), LARGEST_TOKENIZER)
    if data is not None:
        tokenizer = parse("tokenizer.json", data)
        added = tokenizer.get("added_tokens") if isinstance(tokenizer, dict) else None
        found |= {token.get("content") for token in added or [] if isinstance(token, dict)}
        model = tokenizer.get("model") if isinstance(tokenizer, dict) else None
        words = model.get("vocab") if isinstance(model, dict) else None
        if isinstance(words, dict):
            found |= {word for pair in THINKING for word in pair if word in words}
    return found


def thinking(tokens):
    """As mlx_lm finds out (`_infer_thinking` of tokenizer_utils.py)."""
    for start, end in THINKING:
        if start in tokens and end in tokens:
            return [start, end]
    if {"<|channel>", "<channel|>"} <= tokens:
        return ["<|channel>thought", "<channel|>"]
    if {"<|open|>", "<|close|>", "<|sep|>", "<|end_of_msg|>"} <= tokens:
        return ["<|open|>think<|sep|>", "<|close|>think<|sep|>"]
    return None


def first_line(error):
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


# ---------------------------------------------------------------- the model


def lazy(mx):
    """Nothing is computed from here on: a model that looks at a value sees zeros."""

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
    """What mlx_lm's load makes of the two keys, where no weights are there to look at."""
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
    """The model of a config.json, with weights of the type and quantisation that it declares."""
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
    """The model as served. Errors are mlx_lm's own words."""
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


def weigh(model):
    import mlx.core as mx
    from mlx.utils import tree_flatten

    arrays = [array for _, array in tree_flatten(model.parameters()) if isinstance(array, mx.array)]
    return {"bytes": sum(array.nbytes for array in arrays), "tensors": len(arrays)}


# ---------------------------------------------------------------- caches


class Slot:
    """One array of one cache: its shape at each length that was tried."""

    def __init__(self, name):
        self.name, self.seen = name, {}


def arrays_of(value, name):
    import mlx.core as mx

    if isinstance(value, mx.array):
        yield name, value
    elif isinstance(value, (list, tuple)):
        for n, inner in enumerate(value):
            yield from arrays_of(inner, f"{name}.{n}")
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from arrays_of(inner, f"{name}.{key}")


def leaves(caches, at=()):
    for n, cache in enumerate(caches):
        inner = getattr(cache, "caches", None)
        if isinstance(inner, (list, tuple)):
            yield from leaves(inner, (*at, n))
        elif cache is not None:
            yield (*at, n), cache


def snapshot(caches):
    """Class, whole-number attributes and arrays of each cache, by its place."""
    taken, seen = {}, set()
    for place, cache in leaves(caches):
        numbers = {name: n for name, n in vars(cache).items() if type(n) is int and n > 0}
        step = getattr(type(cache), "step", None)
        arrays = []
        for key, value in vars(cache).items():
            for name, array in arrays_of(value, key):
                # A layer may hold the arrays of another one.
                if id(array) not in seen:
                    seen.add(id(array))
                    arrays.append((name.removeprefix("cache."), tuple(array.shape), str(array.dtype).split(".")[-1],
                                   array.nbytes))
        taken[place] = (type(cache).__name__, numbers, step if isinstance(step, int) else 1, arrays)
    return taken


class Trace:
    """The caches of a model at several lengths."""

    def __init__(self, model):
        self.model, self.at, self.vocabulary, self.seconds = model, {}, None, {}

    def call(self, caches, tokens):
        import mlx.core as mx

        out = self.model(mx.zeros((1, tokens), mx.int32), cache=caches)
        return getattr(out, "logits", out)

    def run(self, length):
        from mlx_lm.models.cache import make_prompt_cache

        started = time.monotonic()
        caches = make_prompt_cache(self.model)
        if length > 1:
            self.call(caches, length - 1)
        out = self.call(caches, 1)
        self.vocabulary = out.shape[-1]
        self.at[length] = snapshot(caches)
        del caches, out
        self.seconds[length] = time.monotonic() - started

    def affordable(self, length):
        longest = max(self.seconds)
        return self.seconds[longest] * length / longest < PATIENCE

    def windows(self):
        found = set()
        for name, numbers, _, _ in self.at[LENGTHS[-1]].values():
            if name in ("KVCache", "ArraysCache"):
                continue
            found |= {n for key, n in numbers.items() if re.search("max_size|chunk|window", key)}
        return sorted(n for n in found if n + 2 < LONGEST)[:4]

    def everything(self):
        for length in LENGTHS:
            self.run(length)
        further = {length for window in self.windows() for length in (window, window + 1, window + 2, window + 400)}
        # Not 2: a prompt of a single token takes another way through the rotating caches, which is a row shorter.
        further |= {1, 3, 1200}
        skipped = [length for length in sorted(further - set(LENGTHS)) if not self.try_run(length)]
        return skipped

    def try_run(self, length):
        if not self.affordable(length):
            return False
        self.run(length)
        return True


def rows(law, length):
    """Rows of an array after `length` tokens. The rules; src/memory/profile.rs has the same."""
    kind, step, window = law["law"], law.get("step", 1), law.get("window")
    grown = -(-length // step) * step
    if kind == "fixed":
        return 1
    if kind in ("stepped", "bound"):
        return grown
    if kind == "rotating":
        return min(length + step - 1, window)
    if kind == "window":
        return min(length, window)
    if kind == "chunked":
        return window + step if length - 1 > window or (length > window and window % step == 0) else grown
    if kind == "quotient":
        return length // step
    if kind == "remainder":
        return length % step
    raise ValueError(kind)


def candidates(name, numbers, step, seen):
    """Rules that could describe an array, the likeliest first."""
    windows = sorted({n for key, n in numbers.items() if re.search("max_size|chunk|window", key)})
    if name == "ChunkedKVCache":
        for window in windows:
            yield {"law": "chunked", "step": step, "window": window}
    for window in windows if name not in ("KVCache", "ArraysCache") else ():
        yield {"law": "rotating", "step": step, "window": window}
        yield {"law": "window", "window": window}
    yield {"law": "fixed"}
    yield {"law": "stepped", "step": step}
    if step != 1:
        yield {"law": "stepped", "step": 1}
    for axis in range(max(map(len, seen.values()), default=0)):
        sizes = {length: shape[axis] for length, shape in seen.items() if axis < len(shape)}
        for divisor in range(2, 513):
            for kind in ("quotient", "remainder"):
                law = {"law": kind, "step": divisor}
                if all(rows(law, length) == n for length, n in sizes.items()):
                    yield law
        if sizes and (largest := max(sizes.values())) and all(n == min(k, largest) for k, n in sizes.items()):
            yield {"law": "window", "window": largest}


def fit(name, numbers, step, shapes, sizes):
    """The rule for one array, and whether it holds at every length that was tried."""
    for law in candidates(name, numbers, step, shapes):
        per_row = {
            (size / count if count else (0 if size == 0 else None))
            for length, size in sizes.items()
            for count in [rows(law, length)]
            if not (count == 0 and size == 0)
        }
        if len(per_row) == 1 and None not in per_row and (each := per_row.pop()) == int(each):
            return {**law, "bytes": int(each)}, True
    worst = max(-(-size // (-(-length // 256) * 256)) for length, size in sizes.items())
    return {"law": "bound", "step": 256, "bytes": worst}, False


KINDS = {"KVCache": "full", "ConcatenateKVCache": "full", "RotatingKVCache": "rotating", "ChunkedKVCache": "chunked",
         "QuantizedKVCache": "quantized", "ArraysCache": "recurrent"}


def describe_caches(trace, latent):
    """One entry per kind of cache, with the number of layers that have it, and whether every rule held."""
    lengths = sorted(trace.at)
    entries, exact = {}, True
    for place, (name, numbers, step, _) in trace.at[LENGTHS[-1]].items():
        names = {n for length in lengths for n, *_ in trace.at[length][place][3]}
        slots = []
        for slot in sorted(names):
            shapes, sizes, dtype = {}, {}, None
            for length in lengths:
                found = next((a for a in trace.at[length][place][3] if a[0] == slot), None)
                sizes[length] = found[3] if found else 0
                if found:
                    shapes[length], dtype = found[1], found[2]
            law, right = fit(name, numbers, step, shapes, sizes)
            exact &= right
            shape = shapes[max(shapes)]
            element = max(sizes.values()) // max(1, math.prod(shapes[max(sizes, key=sizes.get)]))
            more = {"heads": shape[1], "width": shape[3]} if len(shape) == 4 and law["law"] != "fixed" else {}
            slots.append({"name": slot, "dtype": dtype, "element": element, **more, **law})
        kind = KINDS.get(name, "other") if slots else "none"
        if kind == "full" and any(slot.get("heads") == 1 and slot["width"] == latent for slot in slots):
            kind = "compressed"
        # `--kv-bits` passes over what lies in a list of caches.
        entry = {"kind": kind, "class": name, "nested": len(place) > 1, "slots": slots}
        key = json.dumps(entry, sort_keys=True)
        entries.setdefault(key, {**entry, "count": 0})["count"] += 1
    return list(entries.values()), exact


def bytes_at(document, length):
    """Bytes of all caches of one sequence of `length` tokens."""
    return sum(
        entry["count"] * slot["bytes"] * rows(slot, length)
        for entry in document["caches"]
        for slot in entry["slots"]
    )


def quantizable(trace):
    """Whether `--kv-bits` works: null, or why it fails in the first request."""
    from mlx_lm.generate import maybe_quantize_kv_cache
    from mlx_lm.models.cache import make_prompt_cache

    try:
        caches = make_prompt_cache(trace.model)
        trace.call(caches, 36)
        maybe_quantize_kv_cache(caches, quantized_kv_start=0, kv_group_size=64, kv_bits=8)
        trace.call(caches, 1)
    except Exception as error:
        return first_line(error)
    return None


def activation(trace, config):
    """The type of keys and values, else that of most of what is kept, else the declared one."""
    sizes = {}
    for *_, arrays in trace.at[LENGTHS[-1]].values():
        for name, _, dtype, size in arrays:
            weight = size * (1000 if name in ("keys", "values") else 1)
            sizes[dtype] = sizes.get(dtype, 0) + weight
    floats = {name: size for name, size in sizes.items() if name in ("bfloat16", "float16", "float32")}
    if floats and any(name in ("keys", "values") for *_, arrays in trace.at[LENGTHS[-1]].values() for name, *_ in arrays):
        return max(floats, key=floats.get)
    declared = part(config, "torch_dtype", "dtype")
    declared = declared.removeprefix("torch.") if isinstance(declared, str) else "bfloat16"
    return declared if declared in ("bfloat16", "float16", "float32") else "bfloat16"


def measure(model, config):
    """What one model keeps: of the whole document the part that a share of a model has too."""
    trace = Trace(model)
    try:
        skipped = trace.everything()
    except (Refused, MemoryError):
        raise
    except Exception as error:
        raise Refused("build", f"mlx_lm cannot run it: {first_line(error)}") from None
    caches, exact = describe_caches(trace, part(config, "kv_lora_rank"))
    found = {"weights": weigh(model), "caches": caches, "exact": exact, "checked": sorted(trace.at)}
    if skipped:
        found["unchecked"] = skipped
    wrong = [length for length, taken in trace.at.items() if bytes_at(found, length) != total(taken)]
    found["exact"] = exact and not wrong
    return trace, found


def total(taken):
    return sum(size for *_, arrays in taken.values() for *_, size in arrays)


# ---------------------------------------------------------------- ranks


class Group:
    """Of a cluster that is not there: `shard` and `pipeline` only ask for the two numbers."""

    def __init__(self, rank, size):
        self._rank, self._size = rank, size

    def rank(self):
        return self._rank

    def size(self):
        return self._size


def without_a_cluster(mx):
    """The exchange between ranks keeps shapes, which is all that counts here."""
    mx.distributed.all_sum = lambda x, **_: x
    mx.distributed.send = lambda x, *_, **__: x
    mx.distributed.recv_like = lambda x, *_, **__: x

    def all_gather(x, group=None, **_):
        return mx.concatenate([x] * (group.size() if group else 1))

    mx.distributed.all_gather = all_gather


def shares(folder, config, has_weights, ranks, mode):
    """What each rank keeps, by mlx_lm's own `shard` and `pipeline`."""
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
        "thinking": thinking(added_tokens(folder, settings)),
        **found,
    }
    if ranks:
        document["mode"], document["shares"] = mode, shares(folder, config, has_weights, ranks, mode)
    return document


def main():
    # Neither the caller's folder nor its user's packages are places to import from.
    sys.path = [path for path in sys.path if path]
    sys.dont_write_bytecode = True
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")
    answer = Answer()
    request = json.loads(sys.argv[1])
    folder, ranks, mode = request["folder"], request.get("ranks", 0), request.get("mode", "tensor")
    limit(answer, request.get("seconds", 60), request.get("memory_bytes", 3e9))
    try:
        # What can be refused without mlx_lm is, in milliseconds.
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
