"""Kept prompts on disk: written before they are given up, read back when a prompt begins like one of them.

Written by mlxctl next to the launcher; changes are overwritten. An entry is two files in one folder: what
mlx_lm's `save_prompt_cache` writes, and `.tokens`, which names the prompt. The second is renamed into place last, so an
entry without it is a write that was cut off. Nothing is synced: what a power cut damages, a checksum finds, and the
prompt is computed again.

Arrays are evaluated and written in the thread that generates: MLX's streams belong to threads. What other threads read is
evaluated before it is handed over.
"""

import array
import collections
import concurrent.futures
import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import stat
import sys
import threading
import time
import zlib

FORMAT = 1
LEAST = 64  # tokens that are worth a file
MOST = 128  # entries that are known at once
READERS = 8  # threads that read one file; on a card 8 take 7 % less time than 4, and 16 are no faster
ANSWER = 256  # tokens that there is room for behind a prompt that is read back
PIECE = 16 << 20  # bytes that share a checksum
LONGEST_HEAD = 1 << 20  # bytes of the first line of a .tokens file
DAMAGED = "damaged"  # suffix of what is set aside: one entry at most
# Options of the server that change nothing in a KV cache; any other one is part of what it belongs to.
INDIFFERENT = {
    "--host",
    "--port",
    "--max-tokens",
    "--temp",
    "--top-p",
    "--top-k",
    "--min-p",
    "--prompt-cache-size",
    "--prompt-cache-bytes",
    "--decode-concurrency",
    "--prompt-concurrency",
    "--prefill-step-size",
    "--num-draft-tokens",
    "--log-level",
    "--allowed-origins",
}


class Unfit(Exception):
    """A file that is not what it should be."""


Entry = collections.namedtuple("Entry", "name tokens bytes trimmable classes sums")


def spare_of(total):
    """Bytes that a disk of this size keeps free."""
    return max(5_000_000_000, total // 20)


def unchanged(found):
    """Equal as long as nobody writes to a file: its ctime cannot be set."""
    return found.st_dev, found.st_ino, found.st_size, found.st_ctime_ns


def common_prefix(one, other):
    """How many tokens two arrays share from their beginnings."""
    length = min(len(one), len(other))
    if one[:length] == other[:length]:
        return length
    low, high = 0, length
    while high - low > 1:
        middle = (low + high) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle
    return low


def secure(path):
    """Makes the folder, or says why it must not be used: whoever writes there decides what the model has read."""
    # One by one: of those above the last, makedirs leaves the mode to the umask, which may let a group write.
    for folder in (os.path.dirname(os.path.abspath(path)), path):
        os.makedirs(folder, mode=0o700, exist_ok=True)
    for folder, own in ((path, True), (os.path.dirname(os.path.abspath(path)), False)):
        found = os.lstat(folder) if own else os.stat(folder)
        if not stat.S_ISDIR(found.st_mode):
            raise Unfit(f"{folder} is not a folder")
        if found.st_uid not in ((os.geteuid(),) if own else (os.geteuid(), 0)):
            raise Unfit(f"{folder} belongs to another user (uid {found.st_uid})")
        shared = found.st_mode & 0o022 and (own or not found.st_mode & stat.S_ISVTX)
        if shared:
            raise Unfit(f"other users may write {folder} (mode {found.st_mode & 0o777:o})")
    os.chmod(path, 0o700)


def identity(model_key, arguments):
    """A hash of everything that a KV cache depends on but the prompt: weights, tokenizer, template, options, versions."""
    from importlib.metadata import version

    options, skip = [], False
    for argument in arguments:
        if argument.startswith("--"):
            skip = argument.split("=")[0] in INDIFFERENT
        if not skip:
            options.append(argument)
    whole = hashlib.sha256()
    # Two versions of MLX may lay arrays out or round differently.
    head = [FORMAT, version("mlx-lm"), version("mlx"), sys.byteorder, options, [str(part) for part in model_key]]
    whole.update(json.dumps(head).encode())
    for part in model_key:
        if part is not None:
            whole.update(_folder(_local(str(part))))
    return whole.hexdigest()


def _local(model):
    if os.path.isdir(model):
        return model
    from huggingface_hub import try_to_load_from_cache

    for name in ("config.json", "adapter_config.json"):
        found = try_to_load_from_cache(model, name)
        if isinstance(found, str):
            return os.path.dirname(found)
    raise Unfit(f"the files of {model} cannot be found")


def _folder(folder):
    """Weights are too large to be read whole: size, time and samples stand for them. The rest is read."""
    lines = []
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if not os.path.isfile(path):
            continue
        found = os.stat(path)
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            if found.st_size <= 64 << 20 and not name.endswith(".safetensors"):
                digest.update(file.read())
                lines.append((name, digest.hexdigest()))
                continue
            for at in (0, found.st_size // 3, found.st_size // 3 * 2, max(0, found.st_size - 65536)):
                file.seek(at)
                digest.update(file.read(65536))
        lines.append((name, digest.hexdigest(), found.st_size, found.st_mtime_ns))
    return json.dumps(lines).encode()


class Store:
    """The entries of one folder. `say` is told of what goes wrong, once a kind; `tell` of the facts when they change."""

    def __init__(self, path, limit, spare=None, say=print, tell=lambda facts: None):
        self.path, self.limit, self.spare, self.say, self.tell = path, limit, spare, say, tell
        self.lock = threading.RLock()
        self.entries = {}  # the newest last
        self.key = None
        self.held = None  # the lock file, while the folder is ours
        self.sound = {}  # what this process has compared with its checksums, as it was then
        self.said = set()
        self.counts = dict.fromkeys(
            ("hits", "read_tokens", "read_bytes", "written", "written_bytes", "damaged"), 0
        )
        self.trouble = None  # what last went wrong

    # What is there

    def open(self, key):
        """Reads what belongs to `key`. False: the store is not used, and why has been said."""
        with self.lock:
            if self.key == key and self.held is not None:
                return True
            try:
                secure(self.path)
                self._take()
                self.key, self.entries = key, {}
                self._scan()
                self._changed()
                return True
            except (OSError, Unfit) as error:
                self._trouble("open", f"kept prompts cannot be stored: {error}")
                self.entries = {}
                return False

    def _take(self):
        if self.held is None:
            held = os.open(self._file("lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(held)
                raise Unfit(f"another process uses {self.path}") from None
            self.held = held

    def _file(self, name):
        return os.path.join(self.path, name)

    def _ours(self):
        """All names that this store gives, whatever they belong to: stem → {suffix: stat}."""
        found = collections.defaultdict(dict)
        for item in os.scandir(self.path):
            stem, _, suffix = item.name.partition(".")
            if suffix and len(stem) == 33 and item.is_file(follow_symlinks=False):
                found[stem][suffix] = item.stat(follow_symlinks=False)
        return found

    def _scan(self):
        known = []
        for stem, files in self._ours().items():
            if {"safetensors", "tokens"} <= files.keys():
                if stem.startswith(self.key[:16]):
                    known.append((files["tokens"].st_mtime_ns, stem))
            elif not any(suffix.endswith(DAMAGED) for suffix in files):
                self._remove(stem, files)
        known.sort()
        for _, stem in known[-MOST:]:
            try:
                self.entries[stem] = self._parse(stem)
            except (OSError, ValueError, KeyError, TypeError, Unfit) as error:
                self._set_aside(stem, error)

    def _parse(self, stem):
        with open(os.open(self._file(stem + ".tokens"), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
            text = file.read()
        head, _, rest = text[:LONGEST_HEAD].partition(b"\n")
        if len(text) < 5 or zlib.crc32(text[:-4]) != int.from_bytes(text[-4:], "little"):
            raise Unfit("its list of tokens is damaged")
        head = json.loads(head)
        if head["format"] != FORMAT or head["identity"] != self.key:
            raise Unfit("it belongs to another model")
        del rest
        tokens = array.array("q", text[text.index(b"\n") + 1 : -4])
        if len(tokens) != head["tokens"]:
            raise Unfit("its list of tokens is torn")
        if os.lstat(self._file(stem + ".safetensors")).st_size != head["bytes"]:
            raise Unfit("it is torn")
        return Entry(stem, tokens, head["bytes"], head["trimmable"], head["classes"], head["sums"])

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
        """What was used last, and when; None: not within so many seconds."""
        with self.lock:
            entry = next(reversed(self.entries.values()), None)
            if entry is None:
                return None
            try:
                used = os.stat(self._file(entry.name + ".tokens")).st_mtime
            except OSError:
                return None
            # A time that is still to come is one that a clock was set back from.
            return (entry, used) if 0 <= time.time() - used <= recent else None

    def read(self, entry, mx, load, more=0):
        """The cache, evaluated, with room for so many `more` tokens; None: it was damaged, and is set aside."""
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

        def share(number):
            cache, notes = load(path, return_metadata=True)
            if notes.get("mlxctl") != entry.name or [type(part).__name__ for part in cache] != entry.classes:
                raise Unfit("it holds something else")
            # One at a time: the first place of what was widened is the next one's.
            for part in cache[number::READERS]:
                widen(part)
                mx.eval(part.state)
            return cache[number::READERS]

        cache = [None] * len(entry.classes)
        with concurrent.futures.ThreadPoolExecutor(READERS) as pool:
            for number, layers in enumerate(pool.map(share, range(READERS))):
                cache[number::READERS] = layers
        return cache

    def hit(self, entry):
        """A request began with what was read."""
        with self.lock:
            if entry.name in self.entries:
                self.entries[entry.name] = self.entries.pop(entry.name)
                self._touch(entry.name, time.time())
            self.counts["hits"] += 1
            self.counts["read_tokens"] += len(entry.tokens)
            self._changed()

    @contextlib.contextmanager
    def _verified(self, path, entry):
        """Compares its checksums: of the first piece, which says where everything lies, before, of the rest meanwhile."""
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
        """Whether this prompt is in the store now. Whatever fails is said, and nothing of it stays."""
        with self.lock:
            if len(tokens) < LEAST or self.key is None or self.held is None:
                return False
            tokens = array.array("q", tokens)
            for entry in self.entries.values():
                if entry.tokens == tokens or (
                    entry.trimmable and common_prefix(entry.tokens, tokens) > len(tokens) - LEAST
                ):
                    # All but so little of it is there that another file is not worth it.
                    self._touch(entry.name, used)
                    return True
            stem = f"{self.key[:16]}-{os.urandom(8).hex()}"
            part = self._file(stem + ".part.safetensors")
            began = time.monotonic()
            try:
                size = sum(part.nbytes for part in cache) + (1 << 16)
                if not self._make_room(size):
                    return False
                # MLX opens a file that is there, and leaves its mode as it is.
                os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o600))
                save(part, cache, {"mlxctl": stem})
                entry = self._finish(stem, part, tokens, cache, trimmable, size)
            except Exception as error:
                self._trouble("write", f"a kept prompt of {len(tokens)} tokens could not be stored: {error}")
                self._remove(stem, ("part.safetensors", "safetensors", "part.tokens", "tokens"))
                return False
            if trimmable:
                # It holds all that its beginnings hold, as in mlx_lm's own cache; but for the end of an answer, which the
                # next prompt puts differently, the turns of a conversation are beginnings.
                for older in list(self.entries.values()):
                    if older.trimmable and common_prefix(older.tokens, tokens) > len(older.tokens) - LEAST:
                        self._drop(older.name)
            self.entries[stem] = entry
            self._touch(stem, used, new=True)
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
        head = {
            "format": FORMAT,
            "identity": self.key,
            "tokens": len(tokens),
            "bytes": size,
            "trimmable": trimmable,
            "classes": classes,
            "sums": checks,
        }
        text = json.dumps(head).encode() + b"\n" + tokens.tobytes()
        text += zlib.crc32(text).to_bytes(4, "little")
        beside = self._file(stem + ".part.tokens")
        with open(os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o600), "wb") as out:
            out.write(text)
        os.rename(part, self._file(stem + ".safetensors"))
        os.rename(beside, self._file(stem + ".tokens"))
        renamed = os.lstat(self._file(stem + ".safetensors"))
        if (renamed.st_ino, renamed.st_mtime_ns) == (found.st_ino, found.st_mtime_ns):
            self.sound[stem] = unchanged(renamed)
        return Entry(stem, tokens, size, trimmable, classes, checks)

    def _make_room(self, size):
        """Oldest out, whatever it belongs to, until `size` more bytes keep the bound; never into a disk's last bytes."""
        if size > self.limit:
            self._trouble("large", f"a kept prompt of {size} bytes is larger than the store may be ({self.limit})")
            return False
        files = self._ours()
        used = sum(found.st_size for suffixes in files.values() for found in suffixes.values())
        # What is set aside goes first, then what was not used for longest.
        def age(stem):
            aside = any(suffix.endswith(DAMAGED) for suffix in files[stem])
            # The time of the list of tokens is that of its last use.
            used_at = files[stem].get("tokens")
            return (not aside, used_at.st_mtime_ns if used_at else 0)

        for stem in sorted(files, key=age):
            if used + size <= self.limit:
                break
            used -= sum(found.st_size for found in files[stem].values())
            self._drop(stem)
        disk = shutil.disk_usage(self.path)
        spare = spare_of(disk.total) if self.spare is None else self.spare
        if disk.free - size < spare:
            self._trouble("short", f"the disk of {self.path} is short ({disk.free} bytes free): kept prompts are not stored")
            return False
        return True

    # Going

    def forget(self):
        """Deletes everything. Files that cannot be deleted are an error."""
        with self.lock:
            self.entries = {}
            if not os.path.isdir(self.path):
                return 0
            freed = 0
            for stem, files in self._ours().items():
                for suffix, found in files.items():
                    os.unlink(self._file(f"{stem}.{suffix}"))
                    freed += found.st_size
            self._changed()
            return freed

    def facts(self):
        """Entries and bytes of this model, and counters since the start."""
        size = sum(entry.bytes for entry in self.entries.values())
        return {"entries": len(self.entries), "bytes": size, **self.counts, "trouble": self.trouble}

    def _changed(self):
        self.tell(self.facts())

    def _touch(self, stem, when, new=False):
        """Notes the last use; of what was there before, only a later one."""
        try:
            if not new and os.stat(self._file(stem + ".tokens")).st_mtime > when:
                return
            os.utime(self._file(stem + ".tokens"), (when, when), follow_symlinks=False)
        except OSError:
            pass

    def _drop(self, stem):
        self.entries.pop(stem, None)
        self.sound.pop(stem, None)
        self._remove(stem, ("tokens", "safetensors", f"tokens.{DAMAGED}", f"safetensors.{DAMAGED}"))

    def _remove(self, stem, suffixes):
        for suffix in suffixes:
            try:
                os.unlink(self._file(f"{stem}.{suffix}"))
            except OSError:
                pass

    def _set_aside(self, stem, error):
        """Kept for whoever wants to know what happened: the last one, under a name that is never read."""
        with self.lock:
            self.entries.pop(stem, None)
            self.counts["damaged"] += 1
            self._trouble(None, f"a stored prompt is set aside, and computed again: {error} ({stem})")
            try:
                for other, files in self._ours().items():
                    self._remove(other, [suffix for suffix in files if suffix.endswith(DAMAGED)])
                for suffix in ("tokens", "safetensors"):
                    path = self._file(f"{stem}.{suffix}")
                    if os.path.lexists(path):
                        os.rename(path, f"{path}.{DAMAGED}")
            except OSError:
                self._remove(stem, ("tokens", "safetensors"))

    def _trouble(self, kind, text):
        self.trouble = text[:1000]
        # A disk that stays full is said once, not at every trim.
        if kind is None or kind not in self.said:
            self.said.add(kind)
            self.say(text)
        self._changed()


@contextlib.contextmanager
def summing(file, at, end):
    """CRC-32 of each piece, by as many threads as help: zlib lets go of the interpreter. They are at it meanwhile, and
    through with the file afterwards."""

    def one(at):
        check, rest = 0, min(PIECE, end - at)
        # One buffer for all of it: fresh memory costs as much as the reading.
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


class Keeper:
    """Puts the store behind mlx_lm's prompt cache: its `fetch_nearest_cache` reads, a release and the end write."""

    def __init__(self, store, arguments, mx, recent=0):
        self.store, self.arguments, self.mx, self.recent = store, arguments, mx, recent
        self.noted = []  # (cache, model, tokens, when), the newest last
        self.leaving = False  # kept prompts are about to be given up
        self.identities = {}
        self.unsaveable = False
        self.begun = False  # the first request has come: the supervisor's own, before the backend is ready
        # Whether so many bytes may be read for a prompt of this cache; what they take the place of is given up first.
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
                keeper.store._trouble("read", f"kept prompts could not be read back: {error}")
                return keeper.fetch(cache, model, tokens)

        def insert_cache(cache, model, tokens, prompt_cache, **more):
            if keeper.leaving:
                keeper.write(model, tokens, prompt_cache, time.time())
            keeper.insert(cache, model, tokens, prompt_cache, **more)
            keeper.note(cache, model, tokens, prompt_cache)

        lru.fetch_nearest_cache, lru.insert_cache = fetch_nearest_cache, insert_cache

    def note(self, cache, model, tokens, prompt_cache):
        """What mlx_lm keeps, as far as it can be known from outside."""
        whole = self.module.can_trim_prompt_cache(prompt_cache)
        self.noted = [
            other
            for other in self.noted
            if other[1] != model or not (other[2] == tokens or (whole and tokens[: len(other[2])] == other[2]))
        ]
        self.noted.append((cache, model, tokens, time.time()))
        del self.noted[: -2 * max(cache.max_size, 1)]

    def better(self, cache, model, tokens):
        """What memory has, or what the store has where that spares more."""
        if not self.open(model):
            return self.fetch(cache, model, tokens)
        if not self.begun:
            self.begun = True
            self.resume(cache, model)
        found, rest = self.fetch(cache, model, tokens)
        while entry := self.store.best(tokens, len(tokens) - len(rest)):
            # Given up before way is made, or it would be there without being counted.
            del found
            if not self.make_way(cache, tokens, entry.bytes):
                return self.fetch(cache, model, tokens)
            # Where it becomes the batch itself, this takes the place of the copy that way was made for.
            more = max(0, len(tokens) - len(entry.tokens)) + ANSWER
            read = self.store.read(entry, self.mx, self.module.load_prompt_cache, more)
            if read is not None:
                self.store.hit(entry)
                # One of mlx_lm's own caches does the cutting, so that it is done as mlx_lm does it.
                alone = self.module.LRUPromptCache.__new__(self.module.LRUPromptCache)
                self.make(alone, 2, 1 << 62)
                self.insert(alone, model, entry.tokens.tolist(), read)
                return self.fetch(alone, model, tokens)
            found, rest = self.fetch(cache, model, tokens)
        return found, rest

    def resume(self, cache, model):
        """A conversation that was going on when the last backend ended is in memory again before anybody asks."""
        last = self.store.last(self.recent)
        if last is None or last[0].bytes > cache.max_bytes:
            return
        entry, used = last
        read = self.store.read(entry, self.mx, self.module.load_prompt_cache)
        if read is not None:
            cache.insert_cache(model, entry.tokens.tolist(), read)
            # It goes by when it was used, as if nothing had ended.
            self.noted = [(*noted[:3], used) for noted in self.noted]

    def open(self, model):
        if model not in self.identities:
            try:
                self.identities[model] = identity(model, self.arguments)
            except Exception as error:
                self.identities[model] = None
                self.store._trouble("open", f"kept prompts cannot be stored: {error}")
        key = self.identities[model]
        if key is None or (self.store.held is None and "open" in self.store.said):
            return False
        return self.store.open(key)

    def write_all(self, until=None):
        """Writes what is kept, the newest first; none is begun after `until` (of time.monotonic)."""
        noted, self.noted = self.noted, []
        for cache, model, tokens, used in reversed(noted):
            if until is not None and time.monotonic() >= until:
                break
            found, rest = self.fetch(cache, model, tokens)
            # Anything else than the whole means that it was given up meanwhile.
            if found is not None and len(rest) == 0:
                self.write(model, tokens, found, used)
            del found

    def forget(self):
        """Deletes what is on disk. What memory still kept was given up before."""
        self.noted = []
        return self.store.forget()

    def write(self, model, tokens, cache, used):
        if not self.saveable(cache) or not self.open(model):
            return
        trimmable = self.module.can_trim_prompt_cache(cache)
        self.store.write(tokens, cache, trimmable, used, self.mx, self.module.save_prompt_cache)

    def saveable(self, cache):
        """Whether mlx_lm can load again what it would save: it looks classes up by name, in one module."""
        parts = list(cache)
        while parts:
            part = parts.pop()
            if getattr(self.module, type(part).__name__, None) is not type(part):
                if not self.unsaveable:
                    self.unsaveable = True
                    self.store.say(f"kept prompts of this model cannot be stored: mlx_lm loads no {type(part).__name__}")
                return False
            parts.extend(getattr(part, "caches", ()))
        return True


def install(spec, arguments, mx, say, tell):
    """The keeper, where the launcher's file asks for one and mlx_lm is as known; else None."""
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
