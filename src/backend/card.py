"""What MLX's CUDA build would spend more memory on than it has to.

Written by mlxctl next to the launcher; changes are overwritten.
"""

import collections
import functools
import os


def present(mx):
    """Whether MLX computes on a CUDA card."""
    cuda = getattr(mx, "cuda", None)
    return cuda is not None and cuda.is_available() and mx.default_device().type == mx.gpu


def adds_masks(mx):
    """Whether attention is cuDNN's, which takes masks that are added: on Ampere and later, unless it is turned off."""
    on = os.environ.get("MLX_CUDA_USE_CUDNN_SDPA", "1") != "0"
    return present(mx) and on and mx.device_info().get("compute_capability_major", 0) >= 8


def convert_masks_once(mx):
    """Has a mask of booleans converted before attention spreads it over the heads, and once for all layers.

    MLX (0.32.4, mlx/fast.cpp) spreads a mask of booleans over all heads and converts the result for cuDNN, so that every
    layer writes heads × step × context numbers: 5.4 GB with 40 heads and 2,048 tokens at the end of 32,768, a dozen times
    before the first are freed. The numbers that are added are the same. Where MLX uses another kernel, which treats a row
    without any key differently, it gets the mask as it is.
    """
    attend = mx.fast.scaled_dot_product_attention
    recent = collections.deque(maxlen=2)  # (mask, type, converted): models with sliding layers have two masks a step

    def by_cudnn(queries, keys, values):
        """As in supports_sdpa_cudnn of mlx/backend/cuda/scaled_dot_product_attention.cpp, for a mask that is an array."""
        widths = (queries.shape[-1], values.shape[-1])
        half = queries.dtype in (mx.float16, mx.bfloat16) and queries.dtype == keys.dtype == values.dtype
        return half and queries.shape[2] > 1 and all(width <= 128 and width % 8 == 0 for width in widths)

    def added(mask, dtype):
        for known, of, converted in recent:
            if known is mask and of == dtype:
                return converted
        converted = mx.where(mask, mx.array(0, dtype), mx.array(-float("inf"), dtype))
        recent.append((mask, dtype, converted))
        return converted

    @functools.wraps(attend)
    def attend_converted(queries, keys, values, *, mask=None, **others):
        if not by_cudnn(queries, keys, values):
            # A token of an answer: the prompt's masks are not needed any more.
            recent.clear()
        elif isinstance(mask, mx.array) and mask.dtype == mx.bool_:
            mask = added(mask, queries.dtype)
        return attend(queries, keys, values, mask=mask, **others)

    mx.fast.scaled_dot_product_attention = attend_converted
