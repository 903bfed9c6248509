"""Reads the arrays of a stored prompt into a card's memory through locked memory, in a third of the time that MLX takes.

MLX's CUDA build loads into ordinary memory, from which the driver copies to the card for one thread at a time
(mlx/backend/cuda/load.cpp, 0.32.4). Memory that is locked and mapped (cuMemHostRegister, CUDA driver API) is read by the
card itself. Written by mlxctl next to the launcher; changes are overwritten.
"""

import contextlib
import ctypes
import json
import mmap
import os

from card import present
from prompt_files import Unfit

LANE = 2 << 20  # bytes of locked memory per thread; locking more takes longer than it saves
WORTH = 1 << 20  # bytes from which an array is read this way
UNIT = 16  # bytes that a thread of the card copies at once
THREADS = 1 << 14  # of the card
PORTABLE = 1  # CU_MEMHOSTREGISTER_PORTABLE: locked for every context

FETCH = """
    auto from = reinterpret_cast<const uint4*>(at[0]);
    auto to = reinterpret_cast<uint4*>(out);
    auto grid = cooperative_groups::this_grid();
    for (uint64_t unit = grid.thread_rank(); unit < at[1]; unit += grid.size()) to[unit] = from[unit];
"""


def card(mx, say):
    """The card that MLX computes on. None: it is no CUDA card, or does not work this way, which has been reported."""
    if not present(mx):
        return None
    names = {"input_names": ["at"], "output_names": ["out"]}
    try:
        return Card(mx, ctypes.CDLL("libcuda.so.1"), mx.fast.cuda_kernel(name="mlxctl_fetch", source=FETCH, **names))
    except Exception as error:
        say(f"kept prompts are read back as MLX loads files, which takes longer: {error}")
        return None


class Card:
    """`driver` is CUDA's library, `kernel` made from FETCH. Making one compiles that, which takes 2 s the first time, and
    reads a few bytes: what does not work is found before there is anything to read."""

    def __init__(self, mx, driver, kernel):
        self.mx, self.driver, self.kernel = mx, driver, kernel
        with self.locked(mmap.PAGESIZE) as (memory, at):
            memory[:UNIT] = bytes(range(UNIT))
            if self.fetch(at, UNIT).tolist() != memory[:UNIT].cast("I").tolist():
                raise OSError("the card read something else than lies in locked memory")

    @contextlib.contextmanager
    def locked(self, size):
        """`size` bytes that the card can read: a view of them, and their address. OSError: they cannot be locked."""
        memory = mmap.mmap(-1, size)
        at = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        failed = self.driver.cuMemHostRegister_v2(ctypes.c_void_p(at), ctypes.c_size_t(size), PORTABLE)
        if failed:
            raise OSError(f"{size} bytes cannot be locked for the card (CUDA error {failed})")
        try:
            yield memoryview(memory), at
        finally:
            self.driver.cuMemHostUnregister(ctypes.c_void_p(at))

    def fetch(self, at, size):
        """`size` bytes at an address in locked memory, as 32-bit words on the card. `size` is a multiple of UNIT."""
        [found] = self.kernel(
            inputs=[self.mx.array([at, size // UNIT], dtype=self.mx.uint64)],
            output_shapes=[(size // 4,)],
            output_dtypes=[self.mx.uint32],
            grid=(THREADS, 1, 1),
            threadgroup=(256, 1, 1),
        )
        # The memory is about to be written again.
        self.mx.eval(found)
        return found

    @contextlib.contextmanager
    def lanes(self, path, count):
        """A lane for each of `count` threads; none if memory cannot be locked now, as MLX loads without."""
        with contextlib.ExitStack() as stack:
            try:
                memory, at = stack.enter_context(self.locked(count * LANE))
            except OSError:
                yield [None] * count
                return
            file = stack.enter_context(open(path, "rb", buffering=0))
            layout = Layout(file)
            starts = range(0, count * LANE, LANE)
            yield [Lane(self, layout, memory[start : start + LANE], at + start) for start in starts]


class Layout:
    """Where the arrays of a file lie. The format is that of safetensors: the size of a header, the header, the data."""

    def __init__(self, file):
        self.file = file.fileno()
        size = int.from_bytes(file.read(8), "little")
        self.arrays, self.data = json.loads(file.read(size)), 8 + size

    def find(self, name, size):
        """The offset of an array of `size` bytes."""
        first, end = self.arrays[name]["data_offsets"]
        if end - first != size:
            raise Unfit(f"{name} has {end - first} bytes, and {size} were expected")
        return self.data + first


class Lane:
    """One thread's way from a file to the card: `memory` at the address `at`."""

    def __init__(self, card, layout, memory, at):
        self.card, self.layout, self.memory, self.at = card, layout, memory, at

    def fill(self, part, number):
        """Reads what layer `number` of a prompt, just loaded and not evaluated yet, consists of."""
        from mlx.utils import tree_flatten, tree_unflatten

        mx, state = self.card.mx, tree_flatten(part.state)
        for place, (name, value) in enumerate(state):
            if isinstance(value, mx.array) and value.nbytes >= WORTH and value.nbytes % UNIT == 0:
                state[place] = name, self.read(f"{number}.{name}", value)
        part.state = tree_unflatten(state)

    def read(self, name, like):
        """The array `name`, which is `like` this one."""
        mx, pieces = self.card.mx, []
        at = self.layout.find(name, like.nbytes)
        for done in range(0, like.nbytes, LANE):
            size = min(LANE, like.nbytes - done)
            if os.preadv(self.layout.file, [self.memory[:size]], at + done) != size:
                raise Unfit("it ends too early")
            pieces.append(self.card.fetch(self.at, size))
        whole = mx.concatenate(pieces).view(like.dtype).reshape(like.shape)
        mx.eval(whole)
        return whole
