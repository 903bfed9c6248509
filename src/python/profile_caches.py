"""What the caches of a model hold: their shapes at a few lengths, and a rule per array that describes them."""

import json
import math
import re
import time

from profile_texts import Refused, first_line, part

# Lengths in tokens at which every model is tried; the windows of sliding caches add theirs.
LENGTHS = (37, 300, 777)
LONGEST = 1 << 18
# Some models loop over tokens in Python: lengths that would take more than this many seconds are left out.
PATIENCE = 5.0


def weigh(model):
    import mlx.core as mx
    from mlx.utils import tree_flatten

    arrays = [array for _, array in tree_flatten(model.parameters()) if isinstance(array, mx.array)]
    return {"bytes": sum(array.nbytes for array in arrays), "tensors": len(arrays)}


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
        # Not 2: a prompt of one token takes another path through the rotating caches, and leaves a row less.
        further |= {1, 3, 1200}
        skipped = [length for length in sorted(further - set(LENGTHS)) if not self.try_run(length)]
        return skipped

    def try_run(self, length):
        if not self.affordable(length):
            return False
        self.run(length)
        return True


def rows(law, length):
    """Rows of an array after `length` tokens, by its rule. src/memory/cache.rs has the same rules."""
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
    """Rules that could describe an array, most likely first."""
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
    """The rule for one array, and whether it holds at every length tried."""
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
        # `--kv-bits` skips caches inside a list.
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
    """None if `--kv-bits` works, else why it fails in the first request."""
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
    """The type of keys and values, else that of most of the cache, else the declared one."""
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
    """What one model holds: the part of the document that a rank's share has as well."""
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
