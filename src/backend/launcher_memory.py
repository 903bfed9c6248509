"""The memory that MLX and malloc hold: how much is in use, giving it back, and what of it is wired.

Written by mlxctl next to the launcher; changes are overwritten.
"""

import ctypes
import sys
import threading
import time

from launcher_log import warn

SETTLING = 1.0  # seconds to wait at most for the last batch's arrays to be freed after its answer


def in_use(mx):
    """Bytes by MLX's own counters; None before MLX is imported."""
    if mx is None:
        return {"active": None, "cache": None, "peak": None}
    return {"active": mx.get_active_memory(), "cache": mx.get_cache_memory(), "peak": mx.get_peak_memory()}


def give_back(mx, prompts=None, port=None, forget=False):
    """Empties MLX's buffer cache and, with `prompts`, gives up the kept prompts of the server on `port` first.

    Returns by how many bytes MLX holds less than before.
    """
    if mx is None:
        return 0
    before = in_use(mx)
    if prompts and port:
        prompts.release(port, forget)
    mx.clear_cache()
    after = in_use(mx)
    # The generation thread drops the batch only after its client, which is this thread, has the answer.
    deadline = time.monotonic() + SETTLING
    while prompts and time.monotonic() < deadline:
        time.sleep(SETTLING / 20)
        mx.clear_cache()
        seen, after = after, in_use(mx)
        if seen == after:
            break
    shrink_heap()
    return max(0, before["active"] + before["cache"] - after["active"] - after["cache"])


def shrink_heap():
    """Returns freed heap to the system; glibc keeps it (malloc_trim(3)), other allocators return it by themselves."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):
        pass


def shrink_heap_with_cache(mx):
    """Shrinks the heap whenever MLX's cache is cleared, which mlx_lm does after every step of a prefill.

    Only on a Linux CPU, where MLX's buffers come from malloc.
    """
    if sys.platform != "linux" or mx.default_device().type != mx.cpu:
        return
    clear = mx.clear_cache

    def clear_cache():
        clear()
        shrink_heap()

    mx.clear_cache = clear_cache


def limit_wired(mx, rule):
    """Applies `memory.wired` to the wired limits that mlx_lm sets (0.32.2: mlx_lm/server.py when the server starts,
    mlx_lm/generate.py for each batch generator).

    "off": never set. "weights": set once, to the memory in use when the generation thread makes its first generator.
    "default": left to mlx_lm. Callers get the previous limit back, as from MLX.

    Pinning memory under concurrent requests while prompts are evicted has brought down whole Macs ("prepare count
    underflow", mlx 3186, mlx-lm 1666).
    """
    if rule == "default":
        return
    set_limit = getattr(mx, "set_wired_limit", None)
    if set_limit is None:
        warn("this MLX has no mx.set_wired_limit; memory.wired changes nothing")
        return
    pinned = 0

    def set_wired_limit(limit):
        nonlocal pinned
        # The main thread calls this when the server starts, before any weights are in memory.
        loaded = threading.current_thread() is not threading.main_thread()
        if rule == "weights" and loaded and not pinned and (weights := mx.get_active_memory()):
            pinned = min(limit, weights)
            set_limit(pinned)
        return pinned

    mx.set_wired_limit = set_wired_limit
