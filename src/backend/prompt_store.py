"""Kept prompts on disk: written before they are given up, read back when a prompt begins like one of them.

Arrays are evaluated and written in the thread that generates, because MLX's streams belong to threads. What other
threads read is evaluated before it is handed over. Written by mlxctl next to the launcher; changes are overwritten.
"""

import array
import concurrent.futures
import contextlib
import os
import shutil
import stat
import threading
import time
import zlib

import prompt_files
from prompt_files import DAMAGED, Entry, Unfit, common_prefix, unchanged
from prompt_keeper import Keeper

LEAST = 64  # tokens that are worth a file
MOST = 128  # entries that are known at once
READERS = 8  # threads that read one file; on a card 8 take 7 % less time than 4, and 16 are no faster
PIECE = 16 << 20  # bytes that share a checksum


def spare_of(total):
    """Bytes that a disk of this size keeps free."""
    return max(5_000_000_000, total // 20)


class Store:
    """The entries of one folder.

    `limit` and `spare` are bytes: those that the folder may take, and those that stay free on its disk (None: a rule).
    `say` gets each kind of trouble once, `tell` the facts whenever they change.
    """

    def __init__(self, path, limit, spare=None, say=print, tell=lambda facts: None):
        self.path, self.limit, self.spare, self.say, self.tell = path, limit, spare, say, tell
        self.card = None  # reads arrays in MLX's place, if it is one that can
        self.lock = threading.RLock()
        self.entries = {}  # by name; the newest last
        self.key = None
        self.held = None  # the lock file, while this process holds the folder
        self.sound = {}  # name → stat of what this process has compared with its checksums
        self.said = set()
        self.counts = dict.fromkeys(
            ("hits", "read_tokens", "read_bytes", "written", "written_bytes", "damaged"), 0
        )
        self.trouble = None  # what last went wrong

    # Opening

    def open(self, key):
        """Reads the entries of `key`. False: the store is not used, and the reason has been reported."""
        with self.lock:
            if self.key == key and self.held is not None:
                return True
            try:
                prompt_files.secure(self.path)
                if self.held is None:
                    self.held = prompt_files.take(self.path)
                self.key, self.entries = key, {}
                self._scan()
                self._changed()
                return True
            except (OSError, Unfit) as error:
                self.report("open", f"kept prompts cannot be stored: {error}")
                self.entries = {}
                return False

    def _file(self, name):
        return os.path.join(self.path, name)

    def _scan(self):
        known = []
        for stem, files in prompt_files.ours(self.path).items():
            if {"safetensors", "tokens"} <= files.keys():
                if stem.startswith(self.key[:16]):
                    known.append((files["tokens"].st_mtime_ns, stem))
            elif not any(suffix.endswith(DAMAGED) for suffix in files):
                prompt_files.remove(self.path, stem, files)
        known.sort()
        for _, stem in known[-MOST:]:
            try:
                self.entries[stem] = prompt_files.read_entry(self.path, stem, self.key)
            except (OSError, ValueError, KeyError, TypeError, Unfit) as error:
                self._set_aside(stem, error)

    # Reading

    def best(self, tokens, held):
        """The entry that spares the most of a prompt of which `held` tokens are in memory; None: none is worth it."""
        with self.lock:
            best, most = None, held + LEAST - 1
            if not self.entries or len(tokens) <= most:
                return None
            wanted = array.array("q", tokens)
            for entry in self.entries.values():
                shared = common_prefix(entry.tokens, wanted)
                if entry.trimmable:
                    shared = min(shared, len(wanted) - 1)
                elif shared < len(entry.tokens) or shared == len(wanted):
                    # It cannot be cut, nor be left one token short of the prompt.
                    continue
                if shared > most:
                    best, most = entry, shared
            return best

    def last(self, recent):
        """The entry that was used last, and when; None: not within the last `recent` seconds."""
        with self.lock:
            entry = next(reversed(self.entries.values()), None)
            if entry is None:
                return None
            try:
                used = os.stat(self._file(entry.name + ".tokens")).st_mtime
            except OSError:
                return None
            # A time in the future means that the clock was set back.
            return (entry, used) if 0 <= time.time() - used <= recent else None

    def read(self, entry, mx, load, more=0):
        """The cache, evaluated, with room for `more` further tokens; None: it was damaged, and is set aside."""
        began = time.monotonic()
        path = self._file(entry.name + ".safetensors")
        try:
            with self._verified(path, entry):
                cache = self._load(path, entry, mx, load, more)
        except Exception as error:
            self._set_aside(entry.name, error)
            return None
        with self.lock:
            self.counts["read_bytes"] += entry.bytes
            self._changed()
        took = time.monotonic() - began
        print(f"mlxctl: {len(entry.tokens)} tokens read back, {entry.bytes / 1e6:.0f} MB in {took:.2f} s", flush=True)
        return cache

    def _load(self, path, entry, mx, load, more):
        """By several threads, a share of the layers each: MLX reads files in the thread that evaluates. What they hand
        over is whole, and belongs to no stream of theirs."""
        unaided = contextlib.nullcontext([None] * READERS)

        def widen(part):
            """mlx_lm makes room for the next tokens by a copy of all there are, before the first of them is computed.
            Here it is made while other threads wait for the disk."""
            if type(part).__name__ != "KVCache" or not more:
                return
            step = type(part).step
            wanted = -(-(part.offset + more) // step) * step - part.keys.shape[2]
            if wanted > 0:
                part.keys, part.values = (
                    mx.pad(held, [(0, 0), (0, 0), (0, wanted), (0, 0)]) for held in (part.keys, part.values)
                )

        def share(number, lane):
            cache, notes = load(path, return_metadata=True)
            if notes.get("mlxctl") != entry.name or [type(part).__name__ for part in cache] != entry.classes:
                raise Unfit("it holds something else")
            # One at a time: the first place of what was widened is the next one's.
            for layer in range(number, len(cache), READERS):
                if lane is not None:
                    lane.fill(cache[layer], layer)
                widen(cache[layer])
                mx.eval(cache[layer].state)
            return cache[number::READERS]

        cache = [None] * len(entry.classes)
        with (
            self.card.lanes(path, READERS) if self.card else unaided as lanes,
            concurrent.futures.ThreadPoolExecutor(READERS) as pool,
        ):
            for number, layers in enumerate(pool.map(share, range(READERS), lanes)):
                cache[number::READERS] = layers
        return cache

    def hit(self, entry):
        """Counts a request that began with what was read."""
        with self.lock:
            if entry.name in self.entries:
                self.entries[entry.name] = self.entries.pop(entry.name)
                prompt_files.touch(self.path, entry.name, time.time())
            self.counts["hits"] += 1
            self.counts["read_tokens"] += len(entry.tokens)
            self._changed()

    @contextlib.contextmanager
    def _verified(self, path, entry):
        """Compares checksums: of the first piece, which says where everything lies, before; of the rest meanwhile."""
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            found = os.fstat(file)
            if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
                raise Unfit("it is not a file of ours")
            if found.st_size != entry.bytes:
                raise Unfit("it is torn")
            if self.sound.get(entry.name) == unchanged(found):
                yield
                return
            head = min(entry.bytes, PIECE)
            if sums(file, 0, head) != entry.sums[:1]:
                raise Unfit("its checksum is wrong")
            with summing(file, head, entry.bytes) as rest:
                yield
                if list(rest) != entry.sums[1:]:
                    raise Unfit("its checksum is wrong")
            self.sound[entry.name] = unchanged(found)
        finally:
            os.close(file)

    # Writing

    def write(self, tokens, cache, trimmable, used, mx, save):
        """Whether this prompt is in the store now. A failure is reported and leaves no file behind."""
        with self.lock:
            if len(tokens) < LEAST or self.key is None or self.held is None:
                return False
            tokens = array.array("q", tokens)
            for entry in self.entries.values():
                if entry.tokens == tokens or (
                    entry.trimmable and common_prefix(entry.tokens, tokens) > len(tokens) - LEAST
                ):
                    # What is missing is not worth another file.
                    prompt_files.touch(self.path, entry.name, used)
                    return True
            stem = f"{self.key[:16]}-{os.urandom(8).hex()}"
            part = self._file(stem + ".part.safetensors")
            began = time.monotonic()
            try:
                size = sum(part.nbytes for part in cache) + (1 << 16)
                if not self._make_room(size):
                    return False
                # MLX opens an existing file and leaves its mode alone.
                os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o600))
                save(part, cache, {"mlxctl": stem})
                entry = self._finish(stem, part, tokens, cache, trimmable, size)
            except Exception as error:
                self.report("write", f"a kept prompt of {len(tokens)} tokens could not be stored: {error}")
                prompt_files.remove(self.path, stem, ("part.safetensors", "safetensors", "part.tokens", "tokens"))
                return False
            if trimmable:
                # It replaces its own beginnings, as in mlx_lm's cache. Turns of a conversation are beginnings but for
                # the end of an answer, which the next prompt renders differently.
                for older in list(self.entries.values()):
                    if older.trimmable and common_prefix(older.tokens, tokens) > len(older.tokens) - LEAST:
                        self._drop(older.name)
            self.entries[stem] = entry
            prompt_files.touch(self.path, stem, used, new=True)
            self.counts["written"] += 1
            self.counts["written_bytes"] += entry.bytes
            while len(self.entries) > MOST:
                self._drop(next(iter(self.entries)))
            self._changed()
            took = time.monotonic() - began
            print(f"mlxctl: {len(tokens)} tokens stored, {entry.bytes / 1e6:.0f} MB in {took:.2f} s", flush=True)
            return True

    def _finish(self, stem, part, tokens, cache, trimmable, least):
        file = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            size = os.fstat(file).st_size
            if size < least - (1 << 16):
                raise Unfit(f"only {size} bytes of it were written")
            checks = sums(file, 0, size)
            found = os.fstat(file)
        finally:
            os.close(file)
        classes = [type(part).__name__ for part in cache]
        entry = Entry(stem, tokens, size, trimmable, classes, checks)
        renamed = prompt_files.finish_entry(self.path, entry, self.key)
        if (renamed.st_ino, renamed.st_mtime_ns) == (found.st_ino, found.st_mtime_ns):
            self.sound[stem] = unchanged(renamed)
        return entry

    def _make_room(self, size):
        """Drops the oldest, of any model, until `size` more bytes fit the bound. False: it may not be written."""
        if size > self.limit:
            self.report("large", f"a kept prompt of {size} bytes is larger than the store may be ({self.limit})")
            return False
        files = prompt_files.ours(self.path)
        used = sum(found.st_size for suffixes in files.values() for found in suffixes.values())
        for stem in prompt_files.oldest_first(files):
            if used + size <= self.limit:
                break
            used -= sum(found.st_size for found in files[stem].values())
            self._drop(stem)
        disk = shutil.disk_usage(self.path)
        spare = spare_of(disk.total) if self.spare is None else self.spare
        if disk.free - size < spare:
            short = f"the disk of {self.path} is short ({disk.free} bytes free)"
            self.report("short", f"{short}: kept prompts are not stored")
            return False
        return True

    # Forgetting and reporting

    def forget(self):
        """Deletes everything and returns how many bytes. OSError if a file cannot be deleted."""
        with self.lock:
            self.entries = {}
            if not os.path.isdir(self.path):
                return 0
            freed = 0
            for stem, files in prompt_files.ours(self.path).items():
                for suffix, found in files.items():
                    os.unlink(self._file(f"{stem}.{suffix}"))
                    freed += found.st_size
            self._changed()
            return freed

    def facts(self):
        """Entries and bytes of this model, counters since the start, and what last went wrong."""
        size = sum(entry.bytes for entry in self.entries.values())
        return {"entries": len(self.entries), "bytes": size, **self.counts, "trouble": self.trouble}

    def _changed(self):
        self.tell(self.facts())

    def _drop(self, stem):
        self.entries.pop(stem, None)
        self.sound.pop(stem, None)
        prompt_files.remove(self.path, stem, ("tokens", "safetensors", f"tokens.{DAMAGED}", f"safetensors.{DAMAGED}"))

    def _set_aside(self, stem, error):
        with self.lock:
            self.entries.pop(stem, None)
            self.counts["damaged"] += 1
            self.report(None, f"a stored prompt is set aside, and computed again: {error} ({stem})")
            prompt_files.set_aside(self.path, stem)

    def report(self, kind, text):
        """`kind` None: said every time."""
        self.trouble = text[:1000]
        # A disk that stays full is reported once, not at every trim.
        if kind is None or kind not in self.said:
            self.said.add(kind)
            self.say(text)
        self._changed()


@contextlib.contextmanager
def summing(file, at, end):
    """CRC-32 of each piece, by as many threads as help: zlib releases the interpreter. They work in the background, and
    are done with the file afterwards."""

    def one(at):
        check, rest = 0, min(PIECE, end - at)
        # One buffer for the whole piece: fresh memory costs as much as reading.
        buffer = memoryview(bytearray(min(rest, 1 << 20)))
        while rest:
            found = os.preadv(file, [buffer[:rest]], at)
            if not found:
                raise Unfit("it ends too early")
            check = zlib.crc32(buffer[:found], check)
            at, rest = at + found, rest - found
        return check

    with concurrent.futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        yield pool.map(one, range(at, end, PIECE))


def sums(file, at, end):
    with summing(file, at, end) as found:
        return list(found)


def install(spec, arguments, mx, say, tell):
    """A keeper for the store of `spec` (path, bytes, spare, recent); None if this mlx_lm is not as known."""
    import inspect

    from mlx_lm.models import cache

    lru = getattr(cache, "LRUPromptCache", None)
    known = {
        "__init__": ["self", "max_size", "max_bytes"],
        "fetch_nearest_cache": ["self", "model", "tokens"],
        "insert_cache": ["self", "model", "tokens", "prompt_cache", "cache_type"],
    }
    names = ("save_prompt_cache", "load_prompt_cache", "can_trim_prompt_cache")
    if any(
        list(inspect.signature(getattr(lru, name, len)).parameters) != expected for name, expected in known.items()
    ) or not all(hasattr(cache, name) for name in names):
        say("the prompt cache of this mlx-lm is not as known; kept prompts are not stored")
        return None
    store = Store(spec["path"], spec["bytes"], spec.get("spare"), say, tell)
    keeper = Keeper(store, arguments, mx, spec.get("recent", 0))
    keeper.install(cache)
    return keeper
