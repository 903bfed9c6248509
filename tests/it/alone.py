"""What happens to the arrays of one conversation in a batch, before and after the launcher's change.

Prints how many bytes MLX allocated, and whether what a model would read is the same.
"""

import json
import sys

import mlx.core as mx
from mlx_lm.models.cache import BatchKVCache, KVCache

sys.path.insert(0, "")
import serving  # noqa: E402


def conversation(tokens):
    cache = KVCache()
    cache.update_and_fetch(*(mx.random.normal((1, 2, tokens, 64)) for _ in range(2)))
    mx.eval(cache.state)
    return cache


def through(caches, rows):
    """A batch of these, of which some rows are picked, and the bytes that it allocated in addition."""
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    batch = BatchKVCache.merge(caches)
    batch.filter(rows)
    mx.eval(batch.state)
    return batch, mx.get_peak_memory() - before


def read(batch):
    """What the next token attends to."""
    token = mx.ones((batch.keys.shape[0], 2, 1, 64))
    keys, values = batch.update_and_fetch(token, token)
    return [keys, values, batch.offset, batch.left_padding]


long, short = conversation(1000), conversation(300)
ways = {"alone": ([long], [0]), "one of two": ([short, long], [0]), "both": ([short, long], [0, 1])}
kept = mx.array(long.keys)
found = {name: through(*way) for name, way in ways.items()}
assert serving.alone_without_copies()
seen = {"bytes": long.nbytes}
for name, way in ways.items():
    (before, took), (after, takes) = found[name], through(*way)
    same = before._idx == after._idx and all(map(mx.array_equal, read(before), read(after)))
    seen[name] = {"before": took, "after": takes, "same": bool(same)}
# What the prompt cache keeps is unchanged, whatever was written after it.
seen["kept"] = bool(mx.array_equal(long.keys, kept))
print(json.dumps(seen))
