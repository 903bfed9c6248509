"""One room for kept prompts and for the working set of a prefill: each takes what it needs while it needs it.

Written by mlxctl next to the launcher; changes are overwritten.
"""

import functools
import importlib
import inspect

from launcher_log import warn

FOLLOW = 64  # tokens of an answer between two checks of what may still be kept


class Room:
    """Between requests the room is for what is kept. Before a prompt is processed, as much of that is given up, oldest
    first, as the smallest steps need, and more while the answer grows; steps are as large as what is left allows.

    The spec's table says what steps take: `bytes` of the room, `steps` in tokens, the `least` of them, `concurrency` in
    requests, and `rows` of {tokens, bytes per step}. Everything here runs in the generation thread, which owns the
    caches.
    """

    def __init__(self, table, limit):
        self.table, self.limit = table, limit  # limit: bytes that may be kept between requests
        self.prompts = []  # in flight, no more than there can be requests at once
        self.generated = 0  # upper bound of the tokens since the last of them began
        self.followed = False  # whether the length of answers is known
        self.cache = None
        self.trim_to = None  # mlx_lm's own

    def takes(self, tokens, step):
        """Bytes of the sequences in flight and of a step of `step` tokens that ends at `tokens`."""
        rows, steps = self.table["rows"], self.table["steps"]
        row = next((row for row in rows if row["tokens"] >= tokens), rows[-1])
        column = next((number for number, size in enumerate(steps) if size >= step), len(steps) - 1)
        return row["bytes"][column]

    def step(self, tokens):
        """Tokens of the step to take after `tokens` tokens."""
        least = self.table["least"]
        free = self.table["bytes"] - (self.cache.nbytes if self.cache is not None else 0)
        able = [size for size in self.table["steps"] if size > least and self.takes(tokens + size, size) <= free]
        return max(able, default=least)

    def begin(self, cache, prompt, rest):
        """Makes room for a prompt about to be processed, all but `rest` tokens of which were kept."""
        self.cache = cache
        if cache.max_bytes == 0:
            return  # nothing may be kept now
        self.prompts = [*self.prompts, prompt][-self.table["concurrency"] :]
        self.generated = 0
        if self.followed:
            self.leave(self.takes(len(prompt), min(rest, self.table["least"])))
        else:
            self.leave_all()

    def make_way(self, cache, prompt, size):
        """Makes room for a kept prompt of `size` bytes that is read back from disk. False: it must not be read.

        Until the first step it exists next to the copy that the batch makes of it, as if it were kept.
        """
        if cache.max_bytes == 0 or size > self.limit:
            return False
        self.cache = cache
        self.leave(size + self.takes(len(prompt), 1))
        return True

    def grow(self):
        """Counts one more token, or one more step of a prompt."""
        self.generated += 1
        if self.generated % FOLLOW == 0 and self.prompts:
            self.leave(self.takes(len(self.prompts[-1]) + self.generated + FOLLOW, 1))

    def leave_all(self):
        """Makes room for the longest prompt, whatever the one in flight is."""
        self.leave(self.takes(self.table["rows"][-1]["tokens"], self.table["least"]))

    def leave(self, taken):
        cache = self.cache
        if cache is not None and cache.max_bytes != 0:
            cache.max_bytes = max(1, min(self.limit, self.table["bytes"] - taken))
            self.trim_to(cache, n_bytes=cache.max_bytes)

    def end(self, cache, tokens):
        """A request is over: all of it is kept from now on."""
        self.prompts = [prompt for prompt in self.prompts if prompt[: len(tokens)] != tokens[: len(prompt)]]
        if not self.prompts and cache.max_bytes != 0:
            cache.max_bytes = self.limit

    def follow(self):
        """Has the batches of mlx_lm/generate.py (0.32.2) take steps from here, and counts the tokens they generate."""
        # Not `from mlx_lm import`: the package has a function of that name.
        generate = importlib.import_module("mlx_lm.generate")
        names = ("BatchGenerator", "PromptProcessingBatch")
        batches = [getattr(generate, name, None) for name in names]
        known = [batch and "prefill_step_size" in inspect.signature(batch.__init__).parameters for batch in batches]
        if not all(known):
            warn("the batches of this mlx-lm are not as known; fewer prompts are kept, and steps are the smallest")
            return
        generator, processing = batches

        def step(batches):
            # The smallest step is right until there is a batch, and for a version that keeps it elsewhere.
            tokens = getattr(getattr(batches, "_prompt_batch", None), "tokens", None)
            return self.table["least"] if tokens is None else self.step(max(map(len, tokens), default=0))

        most = max(self.table["steps"])
        generator.prefill_step_size = property(step, lambda batches, given: None)
        # It gets one step at a time from the generator.
        processing.prefill_step_size = property(lambda batch: most, lambda batch, given: None)
        following, alone = generator.next, generate.stream_generate

        @functools.wraps(following)
        def grown_next(batches):
            self.grow()
            return following(batches)

        @functools.wraps(alone)
        def generate_alone(*args, **kwargs):
            # What is not batched (a seed, a draft model, quantised caches) is not followed.
            self.leave_all()
            return alone(*args, **kwargs)

        generator.next, generate.stream_generate = grown_next, generate_alone
        self.followed = True
