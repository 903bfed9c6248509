"""Lets go of the GPU for part of the time, so that another program that draws with it has that part to itself.

Written by mlxctl next to the launcher; changes are overwritten.
"""

import functools
import importlib
import inspect
import threading
import time


def rest(worked, percent):
    """Seconds of rest after `worked` seconds of work, so that work is `percent` of both together."""
    return worked * (100 - percent) / percent


class Pace:
    """Puts a rest after each step of the generation (a token of every answer under way, or a piece of a prompt).

    MLX computes the next token while the last one is handed out, and would continue into the rest: a paced step ends
    when nothing is left to compute. Its rest comes before the next step, so that no token waits for it. Only the time
    in which the GPU has something to do is work; what Python does before and after it counts as rest. A change, or the
    end, of the pace takes effect at once, even in the middle of a rest.
    """

    def __init__(self, synchronize, clock=time.monotonic):
        self.synchronize, self.clock = synchronize, clock
        # Reentrant: a signal may interrupt the main thread while it holds the lock.
        self.changed = threading.Condition(threading.RLock())
        self.percent = None  # of the time that the model works; None: all of it
        self.worked, self.ended = 0.0, 0.0  # the last step's work, seconds, and its end
        self.made = 0.0  # seconds that Python took in it before the GPU had something to do
        self.thread = None  # the thread that is in a step
        self.alone_in_it = False  # whether that step is of an answer that is not batched
        self.begun = 0.0
        self.given = None  # when the step under way gave the GPU something to do

    def set(self, percent):
        with self.changed:
            self.percent = percent
            self.changed.notify_all()

    def wait(self):
        """Waits out the last step's rest, less what Python will take in the next step: about as long as in that one."""
        with self.changed:
            while self.percent is not None:
                left = self.ended + rest(self.worked, self.percent) - self.made - self.clock()
                if left <= 0:
                    break
                self.changed.wait(left)

    def begin(self):
        self.wait()
        self.thread, self.given, self.begun = threading.get_ident(), None, self.clock()

    def end(self):
        if self.percent is not None:
            self.synchronize()
        self.ended = self.clock()
        # Without a pace the end of a step is not waited for, and its rest is not made up for later.
        paced = self.percent is not None and self.given is not None
        self.worked = self.ended - self.given if paced else 0.0
        self.made = self.given - self.begun if paced else 0.0
        self.thread = None

    def gives(self):
        """The GPU gets something to do. Nothing is left over from the previous step."""
        if self.thread == threading.get_ident() and self.given is None:
            self.given = self.clock()

    def between(self):
        """A piece of a prompt was computed, and another one follows within the same step."""
        if self.percent is not None and self.alone_in_it and self.thread == threading.get_ident():
            self.end()
            self.begin()

    def step(self, work, *args):
        self.begin()
        try:
            return work(*args)
        finally:
            self.end()

    def alone(self, tokens):
        """The tokens of an answer that is not batched. Its first step has all pieces of its prompt."""
        try:
            while True:
                self.alone_in_it = True
                try:
                    token = self.step(next, tokens)
                except StopIteration:
                    return
                finally:
                    self.alone_in_it = False
                yield token
        finally:
            tokens.close()

    def install(self, mx):
        """Paces both ways of generating in mlx_lm/generate.py (0.32.2). False: they are not as known."""
        # Not `from mlx_lm import`: the package has a function of that name.
        generate = importlib.import_module("mlx_lm.generate")
        following = getattr(getattr(generate, "BatchGenerator", None), "next", None)
        single = getattr(generate, "stream_generate", None)
        if following is None or not inspect.isgeneratorfunction(inspect.unwrap(single)):
            return False

        @functools.wraps(following)
        def paced_next(batches):
            return self.step(following, batches)

        @functools.wraps(single)
        def paced_alone(*args, **kwargs):
            return self.alone(single(*args, **kwargs))

        generate.BatchGenerator.next, generate.stream_generate = paced_next, paced_alone
        # mlx_lm clears the cache after each piece of a prompt.
        mx.clear_cache = followed_by(mx.clear_cache, self.between)
        mx.eval, mx.async_eval = (preceded_by(self.gives, work) for work in (mx.eval, mx.async_eval))
        return True


def preceded_by(note, work):
    @functools.wraps(work)
    def noted(*args, **kwargs):
        note()
        return work(*args, **kwargs)

    return noted


def followed_by(work, note):
    @functools.wraps(work)
    def noted(*args, **kwargs):
        found = work(*args, **kwargs)
        note()
        return found

    return noted
