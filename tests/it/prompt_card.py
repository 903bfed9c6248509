"""Tests what brings stored prompts into a card's memory, with the card's own work done by the CPU.

The argument is the folder of the launcher's files. Prints one line per promise that held; an assertion fails otherwise.
"""

import ctypes
import os
import sys
import tempfile
import time

sys.dont_write_bytecode = True
sys.path.insert(0, sys.argv[1])

import mlx.core as mx
import prompt_card
import prompt_store
from mlx.utils import tree_flatten
from mlx_lm.models import cache as kinds

PROMPT = list(range(1000, 1200))
said = []


class Driver:
    """CUDA's, without a card: notes what is locked. `failure` is the code of the next attempt to lock."""

    def __init__(self):
        self.failure, self.locked = 0, {}

    def cuMemHostRegister_v2(self, at, size, flags):
        self.locked.update({} if self.failure else {at.value: size.value})
        return self.failure

    def cuMemHostUnregister(self, at):
        del self.locked[at.value]
        return 0


driver, fetched = Driver(), []


def kernel(inputs, output_shapes, output_dtypes, grid, threadgroup):
    """What FETCH does. A card that reads memory that is not locked stops the process."""
    at, units = inputs[0].tolist()
    assert any(first <= at and at + units * 16 <= first + size for first, size in driver.locked.items())
    found = mx.array(memoryview(ctypes.string_at(at, units * 16)).cast("I"))
    assert [found.shape] == output_shapes and [found.dtype] == output_dtypes
    fetched.append(units * 16)
    return [found]


def filled(cache, tokens=200, width=64):
    cache.update_and_fetch(*(mx.random.normal((1, 2, tokens, width)) for _ in range(2)))
    return cache


def linear():
    cache = kinds.ArraysCache(2)
    cache[1] = mx.random.normal((1, 4, 1024))
    return cache


def stored(cache, card):
    """A store that has `cache` and has not compared it with its checksums."""
    path = os.path.join(tempfile.mkdtemp(), "prompts")
    made = prompt_store.Store(path, 1 << 30, 0, said.append)
    assert made.open("a" * 64) and made.write(PROMPT, cache, True, time.time(), mx, kinds.save_prompt_cache), said
    made.sound.clear()
    made.card = card
    return made


def read(made):
    [entry] = made.entries.values()
    fetched.clear()
    back = made.read(entry, mx, kinds.load_prompt_cache)
    assert driver.locked == {}, "nothing stays locked"
    return back


def same(one, other):
    sides = [tree_flatten([part.state for part in side]) for side in (one, other)]
    return all(
        mx.array_equal(left, right) if isinstance(left, mx.array) else left == right
        for (_, left), (_, right) in zip(*sides, strict=True)
    )


# Small enough that these arrays count, and that one takes several pieces.
prompt_card.WORTH, prompt_card.LANE = 1 << 10, 1 << 12
card = prompt_card.Card(mx, driver, kernel)
assert driver.locked == {}

EVERY = {
    "plain": [filled(kinds.KVCache()) for _ in range(prompt_store.READERS + 1)],
    "sliding": [filled(kinds.RotatingKVCache(64, 4)), filled(kinds.RotatingKVCache(1024))],
    "quantised": [filled(kinds.KVCache()).to_quantized(64, 8)],
    "hybrid": [linear(), filled(kinds.KVCache())],
    "list": [kinds.CacheList(filled(kinds.KVCache()), linear())],
    "odd": [filled(kinds.KVCache(), 203, 3)],
}
for name, cache in EVERY.items():
    back = read(stored(cache, card))
    assert back is not None and same(cache, back), (name, said)
    worth = [value.nbytes for _, value in tree_flatten([part.state for part in cache]) if isinstance(value, mx.array)]
    # Arrays that a thread of the card could not copy whole are left to MLX.
    assert sum(fetched) == sum(size for size in worth if size >= 1 << 10 and size % 16 == 0), name
    assert max(fetched, default=0) <= prompt_card.LANE, name
    print("kind", name)

# Without memory to lock, MLX reads.
made = stored(EVERY["plain"], card)
driver.failure = 2
assert same(read(made), EVERY["plain"]) and fetched == []
driver.failure = 0
assert same(read(made), EVERY["plain"]) and fetched != []
print("no memory to lock")

# A card that does not read what lies there is not used.
try:
    prompt_card.Card(mx, driver, lambda **_: [mx.zeros(4, mx.uint32)])
    raise SystemExit("it was used")
except OSError:
    assert driver.locked == {}
assert prompt_card.card(mx, said.append) is None and said == [], "there is none here"
print("unfit card")

# A layout that is wrong about an array, although the checksums are right, costs a recomputation.
for wrong in ({"data_offsets": [1 << 40, (1 << 40) + 200 * 512]}, {"data_offsets": [0, 16]}, {}):
    made, load = stored(EVERY["plain"], card), prompt_card.json.loads
    prompt_card.json.loads = lambda text: {**load(text), "3.1": wrong}
    assert read(made) is None and made.counts["damaged"] == 1 and "set aside" in said.pop(), wrong
    prompt_card.json.loads = load
print("wrong layout")
