"""Puts a prompt store behind mlx_lm's prompt cache: a fetch reads from it, a release and the end write to it.

Wraps LRUPromptCache of mlx_lm/models/cache.py (0.32.2). Everything here runs in the thread that generates, which owns
the arrays. Written by mlxctl next to the launcher; changes are overwritten.
"""

import time

import prompt_card
from prompt_identity import identity

ANSWER = 256  # tokens of an answer that there is room for behind a prompt that is read back


class Keeper:
    """`arguments` are the server's. A prompt used in the last `recent` seconds is in memory again at the start."""

    def __init__(self, store, arguments, mx, recent=0):
        self.store, self.arguments, self.mx, self.recent = store, arguments, mx, recent
        self.noted = []  # (cache, model, tokens, when), newest last
        self.leaving = False  # kept prompts are about to be given up
        self.identities = {}
        self.unsaveable = False
        self.begun = False  # the first request has come: the supervisor's own, before the backend is ready
        # Whether so many bytes may be read for a prompt of this cache; it gives up first what they take the place of.
        self.make_way = lambda cache, tokens, size: True

    def install(self, module):
        """`module`: mlx_lm.models.cache, whose LRUPromptCache is as known."""
        self.module, lru = module, module.LRUPromptCache
        self.make, self.fetch, self.insert = lru.__init__, lru.fetch_nearest_cache, lru.insert_cache
        keeper = self

        def fetch_nearest_cache(cache, model, tokens):
            if keeper.leaving:
                keeper.write_all()
            try:
                return keeper.better(cache, model, tokens)
            except Exception as error:
                keeper.store.report("read", f"kept prompts could not be read back: {error}")
                return keeper.fetch(cache, model, tokens)

        def insert_cache(cache, model, tokens, prompt_cache, **more):
            if keeper.leaving:
                keeper.write(model, tokens, prompt_cache, time.time())
            keeper.insert(cache, model, tokens, prompt_cache, **more)
            keeper.note(cache, model, tokens, prompt_cache)

        lru.fetch_nearest_cache, lru.insert_cache = fetch_nearest_cache, insert_cache

    def note(self, cache, model, tokens, prompt_cache):
        """Notes what mlx_lm keeps, as far as it can be known from outside."""
        whole = self.module.can_trim_prompt_cache(prompt_cache)
        self.noted = [
            other
            for other in self.noted
            if other[1] != model or not (other[2] == tokens or (whole and tokens[: len(other[2])] == other[2]))
        ]
        self.noted.append((cache, model, tokens, time.time()))
        del self.noted[: -2 * max(cache.max_size, 1)]

    def better(self, cache, model, tokens):
        """What memory has, or what the store has if that spares more of the prompt."""
        if not self.open(model):
            return self.fetch(cache, model, tokens)
        if not self.begun:
            self.begun = True
            self.store.card = prompt_card.card(self.mx, self.store.say)
            self.resume(cache, model)
        found, rest = self.fetch(cache, model, tokens)
        while entry := self.store.best(tokens, len(tokens) - len(rest)):
            # Dropped before way is made; otherwise it would be in memory without being counted.
            del found
            if not self.make_way(cache, tokens, entry.bytes):
                return self.fetch(cache, model, tokens)
            # If it becomes the batch itself, this takes the place of the copy that way was made for.
            more = max(0, len(tokens) - len(entry.tokens)) + ANSWER
            read = self.store.read(entry, self.mx, self.module.load_prompt_cache, more)
            if read is not None:
                self.store.hit(entry)
                # A prompt cache of mlx_lm's does the cutting, so that it is cut as mlx_lm cuts.
                alone = self.module.LRUPromptCache.__new__(self.module.LRUPromptCache)
                self.make(alone, 2, 1 << 62)
                self.insert(alone, model, entry.tokens.tolist(), read)
                return self.fetch(alone, model, tokens)
            found, rest = self.fetch(cache, model, tokens)
        return found, rest

    def resume(self, cache, model):
        """Reads back a conversation that was under way when the last backend ended, before a client asks for it."""
        last = self.store.last(self.recent)
        if last is None or last[0].bytes > cache.max_bytes:
            return
        entry, used = last
        read = self.store.read(entry, self.mx, self.module.load_prompt_cache)
        if read is not None:
            cache.insert_cache(model, entry.tokens.tolist(), read)
            # Its time of last use stays what it was, as if nothing had ended.
            self.noted = [(*noted[:3], used) for noted in self.noted]

    def open(self, model):
        if model not in self.identities:
            try:
                self.identities[model] = identity(model, self.arguments)
            except Exception as error:
                self.identities[model] = None
                self.store.report("open", f"kept prompts cannot be stored: {error}")
        key = self.identities[model]
        if key is None or (self.store.held is None and "open" in self.store.said):
            return False
        return self.store.open(key)

    def write_all(self, until=None):
        """Writes what is kept, newest first; none is begun after `until` (of time.monotonic)."""
        noted, self.noted = self.noted, []
        for cache, model, tokens, used in reversed(noted):
            if until is not None and time.monotonic() >= until:
                break
            found, rest = self.fetch(cache, model, tokens)
            # Anything but the whole means that it was given up meanwhile.
            if found is not None and len(rest) == 0:
                self.write(model, tokens, found, used)
            del found

    def forget(self):
        """Deletes what is on disk. What memory kept was given up before."""
        self.noted = []
        return self.store.forget()

    def write(self, model, tokens, cache, used):
        if not self.saveable(cache) or not self.open(model):
            return
        trimmable = self.module.can_trim_prompt_cache(cache)
        self.store.write(tokens, cache, trimmable, used, self.mx, self.module.save_prompt_cache)

    def saveable(self, cache):
        """Whether mlx_lm can load again what it would save: it looks classes up by name, in mlx_lm.models.cache."""
        parts = list(cache)
        while parts:
            part = parts.pop()
            if getattr(self.module, type(part).__name__, None) is not type(part):
                if not self.unsaveable:
                    self.unsaveable = True
                    name = type(part).__name__
                    self.store.say(f"kept prompts of this model cannot be stored: mlx_lm loads no {name}")
                return False
            parts.extend(getattr(part, "caches", ()))
        return True
