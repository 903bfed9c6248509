"""Tests the launcher's conversion of attention masks, which needs no card.

The argument is the folder of the launcher's files. Prints one line per promise that held; an assertion fails otherwise.
"""

import sys

sys.dont_write_bytecode = True
sys.path.insert(0, sys.argv[1])

import card
import mlx.core as mx

assert not card.present(mx) and not card.adds_masks(mx), "there is none here"

attend, given = mx.fast.scaled_dot_product_attention, []


def seen(*arrays, mask=None, **others):
    given.append(mask)
    return attend(*arrays, mask=mask, **others)


mx.fast.scaled_dot_product_attention = seen
card.convert_masks_once(mx)


def both(mask, dtype=mx.bfloat16, rows=16, width=64):
    """The mask that attention gets in the place of `mask`, with which it must give the same."""
    shapes = ((2, 8, rows, width), (2, 2, 48, width), (2, 2, 48, width))
    queries, keys, values = (mx.random.normal(shape).astype(dtype) for shape in shapes)
    expected = attend(queries, keys, values, scale=0.1, mask=mask)
    found = mx.fast.scaled_dot_product_attention(queries, keys, values, scale=0.1, mask=mask)
    assert found.dtype == expected.dtype and mx.array_equal(found, expected)
    return given[-1]


whole = mx.arange(32, 48)[:, None] >= mx.arange(48)
window = whole & (mx.arange(32, 48)[:, None] < mx.arange(48) + 20)
padded = whole & (mx.array([0, 5])[:, None, None, None] <= mx.arange(48))
for mask in (whole, window, padded):
    found = both(mask)
    assert found.shape == mask.shape and found.dtype == mx.bfloat16, "before it is spread over the heads"
print("equal")

for _ in range(3):
    first, second = both(whole), both(window)
    assert both(whole) is first and both(window) is second
assert both(whole, mx.float16) is not first
print("once for all layers")

# What cuDNN does not do: one token, after which the masks of the prompt are forgotten; other widths, other types.
before, last = both(whole), whole[-1:]
assert both(last, rows=1) is last and both(whole) is not before
assert both(whole, width=136) is whole
assert both(whole, width=60) is whole and both(whole, mx.float32) is whole
additive = mx.where(whole, 0.0, -1e4).astype(mx.bfloat16)
assert both(None) is None and both("causal") == "causal" and both(additive) is additive
print("others unchanged")
