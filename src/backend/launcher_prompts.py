"""The prompts that mlx_lm.server keeps: bounded in bytes, counted at what they take, and given up on request.

Patches LRUPromptCache of mlx_lm/models/cache.py (0.32.2) where it looks as expected; elsewhere it warns and leaves it
alone. Written by mlxctl next to the launcher; changes are overwritten.
"""

import functools
import http.client
import inspect
import time
import weakref

from launcher_guard import SECRET_HEADER
from launcher_log import warn

ONE_TOKEN = 20  # seconds that one token may take when kept prompts are given up
STORING = 100  # seconds more if they are written to disk first
LAST_WRITES = 8  # seconds after SIGTERM in which the writing of another kept prompt may begin


class Prompts:
    """The server's prompt caches. `keeper` is that of the store on disk, if there is one."""

    def __init__(self, secret, keeper=None):
        self.secret = secret
        self.caches = weakref.WeakSet()
        self.keeper = keeper

    def install(self, limit):
        """Bounds the caches to `limit` bytes. mlx_lm/server.py passes no bound, so the default of the class changes."""
        from mlx_lm.models.cache import LRUPromptCache

        make = LRUPromptCache.__init__
        defaults = make.__defaults__
        expected = ["self", "max_size", "max_bytes"]
        known = list(inspect.signature(make).parameters) == expected and len(defaults or ()) == 2
        if not known or not isinstance(defaults[1], int):
            warn("the prompt cache of this mlx-lm is not as known; it stays unbounded and is never given up")
            return
        if limit is not None:
            make.__defaults__ = (defaults[0], limit)

        @functools.wraps(make)
        def noted(cache, *args, **kwargs):
            make(cache, *args, **kwargs)
            self.caches.add(cache)

        LRUPromptCache.__init__ = noted

    def release(self, port, forget=False):
        """Has the server complete one token while nothing may be kept.

        For that token its own thread writes what is kept to the store, empties the caches, and drops the last batch,
        which no interface reaches: it stays in memory until the next request takes its place. With `forget` nothing is
        written, and the store is emptied.
        """
        bounds = [(cache, cache.max_bytes) for cache in self.caches]
        if bounds:
            self._one_token(port, bounds, ONE_TOKEN if self.keeper is None else ONE_TOKEN + STORING, not forget)
        if self.keeper is not None and forget:
            self.keeper.forget()

    def _one_token(self, port, bounds, timeout, store):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
        try:
            if self.keeper is not None:
                self.keeper.leaving = store
            for cache, _ in bounds:
                cache.max_bytes = 0
            headers = {"Content-Type": "application/json", SECRET_HEADER: self.secret}
            connection.request("POST", "/v1/completions", '{"prompt": "a", "max_tokens": 1}', headers)
            connection.getresponse().read()
        finally:
            if self.keeper is not None:
                self.keeper.leaving = False
            for cache, bound in bounds:
                cache.max_bytes = bound
            connection.close()

    def store_the_last(self):
        """Writes what is kept to the store. Called at the end of the generation thread, in that thread."""
        if self.keeper is not None:
            self.keeper.write_all(time.monotonic() + LAST_WRITES)


def leave_a_token():
    """Leaves one token to process of a prompt that the cache holds whole.

    Such a prompt comes when a client has an answer continued. Nothing would be left of it, and the generation thread
    dies of the empty rest (mlx-lm 0.32.2).
    """
    from mlx_lm.models import cache

    names = ["LRUPromptCache", "can_trim_prompt_cache", "trim_prompt_cache"]
    fetch = getattr(getattr(cache, "LRUPromptCache", None), "fetch_nearest_cache", None)
    if fetch is None or not all(hasattr(cache, name) for name in names):
        warn("the prompt cache of this mlx-lm is not as known; a continued answer may end the generation thread")
        return

    def fetch_with_rest(self, model, tokens):
        found, rest = fetch(self, model, tokens)
        if found is None or len(rest) > 0 or len(tokens) == 0:
            return found, rest
        if cache.can_trim_prompt_cache(found) and cache.trim_prompt_cache(found, 1) == 1:
            return found, tokens[-1:]
        return None, tokens

    cache.LRUPromptCache.fetch_nearest_cache = fetch_with_rest


def keep_prompts_alone(room, keeper=None):
    """Makes a kept cache the only one of its prompt, counted at what it takes.

    mlx_lm.server (0.32.2) holds the cache that it kept last until the next request, even if it was pushed out since;
    and what it keeps are slices yet to be computed from the arrays of the whole batch, which stay for as long. With
    `room`, prompts also make way for a prefill, and for what `keeper` reads back from disk.
    """
    from mlx_lm.models import cache as caches

    known = getattr(caches, "LRUPromptCache", None)
    insert, fetch = getattr(known, "insert_cache", None), getattr(known, "fetch_nearest_cache", None)
    if insert is None or fetch is None or not hasattr(known, "trim_to") or not hasattr(known, "nbytes"):
        warn("the prompt cache of this mlx-lm is not as known; it may hold more than is promised")
        return
    import mlx.core as mx

    on_cpu = mx.default_device().type == mx.cpu

    sliding = getattr(caches, "RotatingKVCache", None)

    def cut(layer):
        """Drops the rows of a sliding cache beyond its window: a whole prompt step, which is never read again."""
        for part in getattr(layer, "caches", ()):
            cut(part)
        if type(layer) is not sliding or layer.keys is None or layer.keep != 0:
            return
        rows, window = layer.keys.shape[2], layer.max_size
        if rows == layer._idx and rows > window:
            layer.keys, layer.values = (mx.contiguous(part[..., -window:, :]) for part in (layer.keys, layer.values))
            layer._idx = window

    def insert_alone(self, model, tokens, prompt_cache, **kinds):
        if room and kinds.get("cache_type", "assistant") == "assistant":
            room.end(self, tokens)
        kept = list(prompt_cache)
        prompt_cache.clear()
        for layer in kept:
            cut(layer)
        size = sum(layer.nbytes for layer in kept)
        # One that is over the bound would push out all others before it goes itself.
        if size > self.max_bytes > 0:
            return
        insert(self, model, tokens, kept, **kinds)
        if size <= self.max_bytes:
            mx.eval([layer.state for layer in kept])
        if on_cpu:
            # The arrays of the batch are free now, and malloc keeps them until the heap is trimmed.
            mx.clear_cache()

    def fetch_with_room(self, model, tokens):
        found, rest = fetch(self, model, tokens)
        room.begin(self, tokens, len(rest))
        return found, rest

    known.insert_cache = insert_alone
    if room:
        known.fetch_nearest_cache = fetch_with_room
        # The server trims what is kept once a batch takes more than half the bound. The room holds both, and trimming
        # would leave nothing of a conversation whose client ends a turn early.
        room.trim_to = known.trim_to
        known.trim_to = lambda cache, **bounds: None
        if keeper is not None:
            keeper.make_way = room.make_way
        room.follow()
