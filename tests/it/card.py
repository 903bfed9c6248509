"""Tests the launcher's conversion of attention masks, which needs no card.

The argument is the folder of the launcher's files. Prints one line per promise that held; an assertion fails otherwise.
"""

import sys

sys.dont_write_bytecode = True
sys.path.insert(0, sys.argv[1])

import card
import mlx.core as mx

assert not card.present(mx), "there is none here"

attend, given = mx.fast.scaled_dot_product_attention, []


def seen(*arrays, mask=None, **others):
    given.append(mask)
    return attend(*arrays, mask=mask, **others)


mx.fast.scaled_dot_product_attention = seen
card.convert_masks_once(mx)


def both(mask, dtype=mx.bfloat16):
    """What attention gives with `mask`, as MLX does it and after the conversion, which must be the same."""
    shapes = ((2, 8, 16, 64), (2, 2, 48, 64), (2, 2, 48, 64))
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

additive = mx.where(whole, 0.0, -1e4).astype(mx.bfloat16)
assert both(None) is None and both("causal") == "causal" and both(additive) is additive
print("others unchanged")
