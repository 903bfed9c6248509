"""What MLX's CUDA build would spend more memory on than it has to.

Written by mlxctl next to the launcher; changes are overwritten.
"""

import collections
import functools


def present(mx):
    """Whether MLX computes on a CUDA card."""
    cuda = getattr(mx, "cuda", None)
    return cuda is not None and cuda.is_available() and mx.default_device().type == mx.gpu


def convert_masks_once(mx):
    """Has a mask of booleans converted before attention spreads it over the heads, and once for all layers.

    CUDA's attention takes masks that are added. MLX (0.32.4, mlx/fast.cpp) spreads a mask of booleans over all heads and
    converts the result, so that every layer writes heads × step × context numbers: 5.4 GB with 40 heads and 2,048 tokens
    at the end of 32,768, a dozen times before the first are freed. The numbers that are added are the same.
    """
    attend = mx.fast.scaled_dot_product_attention
    recent = collections.deque(maxlen=2)  # (mask, type, converted): models with sliding layers have two masks a step

    def added(mask, dtype):
        for known, of, converted in recent:
            if known is mask and of == dtype:
                return converted
        converted = mx.where(mask, mx.array(0, dtype), mx.array(-float("inf"), dtype))
        recent.append((mask, dtype, converted))
        return converted

    @functools.wraps(attend)
    def attend_converted(queries, keys, values, *, mask=None, **others):
        if isinstance(mask, mx.array) and mask.dtype == mx.bool_ and queries.dtype == keys.dtype:
            mask = added(mask, queries.dtype)
        return attend(queries, keys, values, mask=mask, **others)

    mx.fast.scaled_dot_product_attention = attend_converted
