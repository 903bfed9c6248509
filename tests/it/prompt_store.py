"""Tests the launcher's store of kept prompts with mlx_lm's own caches, and with a fault at each of its points.

The argument is the folder of the launcher's files. Prints one line per promise that held; an assertion fails otherwise.
"""

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True
sys.path.insert(0, sys.argv[1])

import mlx.core as mx
import prompt_files
import prompt_identity
import prompt_store
from mlx.utils import tree_flatten
from mlx_lm.models import cache as kinds

KEY = "a" * 64
PROMPT = list(range(1000, 1200))
said, told = [], []


def store(path, key=KEY, limit=1 << 30, spare=0):
    made = prompt_store.Store(path, limit, spare, said.append, told.append)
    return made, made.open(key)


def place():
    return os.path.join(tempfile.mkdtemp(), "prompts")


def filled(cache, tokens=200, width=64):
    cache.update_and_fetch(*(mx.random.normal((1, 2, tokens, width)) for _ in range(2)))
    return cache


def linear():
    cache = kinds.ArraysCache(2)
    cache[0], cache[1] = mx.random.normal((1, 3, 8)), mx.random.normal((1, 4, 8))
    return cache


def write(made, tokens=PROMPT, cache=None, save=kinds.save_prompt_cache, used=None):
    cache = cache or [filled(kinds.KVCache())]
    trimmable = kinds.can_trim_prompt_cache(cache)
    return made.write(tokens, cache, trimmable, used or time.time(), mx, save)


def read(made, tokens=PROMPT):
    entry = made.best([*tokens, 1, 2, 3], 0)
    return entry and made.read(entry, mx, kinds.load_prompt_cache)


def files(path, suffix=""):
    return sorted(name for name in os.listdir(path) if name.endswith(suffix) and name != "lock")


def leave(made):
    os.close(made.held)
    made.held = None


def reopened(path, key=KEY):
    return store(path, key)[0]


def child(*what):
    """Does it in a process of its own and returns its exit code. Not a fork, which would lack MLX's threads."""
    return subprocess.run([sys.executable, __file__, sys.argv[1], *map(str, what)], check=False).returncode


def full(path):
    made, _ = store(path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
    assert not write(made) and "could not be stored" in said[-1]
    assert files(path) == []


def killed(path, point):
    made, _ = store(path)
    rename, seen = os.rename, iter(range(9))

    def torn(file, cache, notes):
        kinds.save_prompt_cache(file, cache, notes)
        if point == "0":
            os.truncate(file, 1000)
        if point in "01":
            os._exit(9)

    def counted(*names):
        rename(*names)
        if next(seen) == int(point) - 2:
            os._exit(9)

    os.rename = counted
    write(made, save=torn)


def killed_reading(path, point):
    made = reopened(path)
    [entry] = made.entries.values()

    def load(file, return_metadata):
        if point == "1":
            os._exit(9)
        loaded = kinds.load_prompt_cache(file, return_metadata)
        if point == "2":
            os._exit(9)
        return loaded

    if point == "0":
        prompt_store.sums = lambda *_: os._exit(9)
    elif point == "3":
        made.tell = lambda facts: os._exit(9)
    made.read(entry, mx, load)


def shared(path):
    assert not store(path)[1] and "another process" in said[-1]


if len(sys.argv) > 2:
    globals()[sys.argv[2]](*sys.argv[3:])
    sys.exit()


# Every kind of cache comes back as it was.
EVERY = {
    "plain": lambda: [filled(kinds.KVCache()), filled(kinds.KVCache())],
    "sliding": lambda: [filled(kinds.RotatingKVCache(64, 4)), filled(kinds.RotatingKVCache(1024))],
    "quantised": lambda: [filled(kinds.KVCache()).to_quantized(64, 8), filled(kinds.QuantizedKVCache(64, 4))],
    "linear": lambda: [linear()],
    "hybrid": lambda: [linear(), filled(kinds.KVCache()), filled(kinds.RotatingKVCache(64))],
    "list": lambda: [kinds.CacheList(filled(kinds.KVCache()), linear())],
    "chunked": lambda: [filled(kinds.ChunkedKVCache(512))],
}
for name, make in EVERY.items():
    path = place()
    made, _ = store(path)
    cache = make()
    assert write(made, cache=cache), (name, said)
    leave(made)
    back = read(reopened(path))
    assert back is not None, (name, said)
    for (_, one), (_, other) in zip(*(tree_flatten([part.state for part in side]) for side in (cache, back)), strict=True):
        same = mx.array_equal(one, other) if isinstance(one, mx.array) else one == other
        assert same, name
    assert kinds.can_trim_prompt_cache(back) == kinds.can_trim_prompt_cache(cache), name
    print("kind", name)

# Only this user can read it.
path = place()
made, _ = store(path)
write(made)
assert os.stat(path).st_mode & 0o777 == 0o700
assert {os.stat(os.path.join(path, name)).st_mode & 0o777 for name in os.listdir(path)} == {0o600}
# Even with any umask of the shell.
before, path = os.umask(0o002), os.path.join(tempfile.mkdtemp(), "prompts", "m")
made, opened = store(path)
os.umask(before)
assert opened and os.stat(os.path.dirname(path)).st_mode & 0o777 == 0o700, said
print("private")

# Matching is mlx_lm's: a cache that can be cut serves every prompt with the same beginning, others only the whole one.
made, _ = store(place())
write(made)
write(made, [*range(5000, 5200)], [linear()])
assert made.best(PROMPT[:150] + [7] * 50, 0).tokens[0] == 1000
assert made.best(PROMPT[:63], 0) is None and made.best(PROMPT, 150) is None, "not worth a file"
assert made.best([*range(5000, 5199), 7, 7], 0) is None and made.best([*range(5000, 5200)], 0) is None
assert made.best([*range(5000, 5200), 7], 0).tokens[0] == 5000
print("matching")

# A longer prompt replaces its beginnings; what is already there is not written again.
write(made, [*PROMPT, *range(100)], [filled(kinds.KVCache(), 300)])
assert sorted(len(entry.tokens) for entry in made.entries.values()) == [200, 300]
before = files(made.path)
assert write(made, PROMPT) and files(made.path) == before
# The newest is written first, and the turn before it, which ends differently, does not replace it.
assert write(made, [*PROMPT, *range(500, 520)]) and files(made.path) == before
print("beginnings")

# Bounded: the oldest are removed, also those of other models; one larger than the bound is not written.
path = place()
one, _ = store(path, "b" * 64)
write(one, used=time.time() - 1000)
size = one.facts()["bytes"]
leave(one)
made, _ = store(path, limit=3 * size + 100_000)
for start in range(4):
    assert write(made, [*range(start * 10_000, start * 10_000 + 200)], used=time.time() - 500 + start)
names = files(path, ".tokens")
assert len(names) == 3 and not any(name.startswith("b") for name in names), names
assert {entry.tokens[0] for entry in made.entries.values()} == {10_000, 20_000, 30_000}
assert not write(made, [*range(9_000, 13_000)], [filled(kinds.KVCache(), 4_000) for _ in range(3)])
assert len(files(path, ".tokens")) == 3 and "larger" in said[-1], said
print("bounded")

# A nearly full disk is left alone, which is reported once.
said.clear()
made, _ = store(place(), spare=1 << 62)
assert not write(made) and not write(made) and files(made.path) == []
assert len(said) == 1 and "short" in said[0], said
print("short disk")

# A disk that fills up in the middle of a file.
assert child("full", place()) == 0
print("full disk")

# Killed at each point of writing: nothing or everything is found, and nothing is left behind.
for point in range(4):
    path = place()
    assert child("killed", path, point) == 9, point
    made = reopened(path)
    assert (read(made) is not None) == (point == 3), point
    assert len(files(path)) == (2 if point == 3 else 0), (point, files(path))
print("killed")

# Killed at each point of reading: the next one reads it.
path = place()
made, _ = store(path)
assert write(made), said
leave(made)
for point in range(4):
    assert child("killed_reading", path, point) == 9, point
    made = reopened(path)
    assert read(made) is not None and made.facts()["damaged"] == 0, point
    leave(made)
print("killed while it reads")

# What the system cannot read is computed, and so is what MLX cannot turn into arrays.
for fail in ("system", "mlx"):
    path = place()
    made, _ = store(path)
    write(made)
    leave(made)
    made = reopened(path)
    [entry] = made.entries.values()
    before = prompt_store.sums

    def failing(*what, **named):
        raise OSError(5, "Input/output error")

    if fail == "system":
        prompt_store.sums = failing
    found = made.read(entry, mx, kinds.load_prompt_cache if fail == "system" else failing)
    prompt_store.sums = before
    assert found is None and made.facts()["damaged"] == 1 and "Input/output error" in said[-1], (fail, said)
    assert files(made.path, ".tokens") == [], files(made.path)
print("unreadable")

# Torn and damaged files cost a recomputation, and one of them is kept for inspection.
def shorten(path):
    os.truncate(path, os.path.getsize(path) - 1)


def flip(path, at=-5000):
    with open(path, "r+b") as file:
        file.seek(at, 2)
        byte = file.read(1)
        file.seek(at, 2)
        file.write(bytes([byte[0] ^ 1]))


# What this process wrote and no one changed is not compared again; what another process wrote is.
path = place()
made, _ = store(path)
write(made)
compared, before = [], prompt_store.sums
prompt_store.sums = lambda *what: compared.append(what) or before(*what)
assert read(made) is not None and compared == []
leave(made)
made = reopened(path)
assert read(made) is not None and len(compared) == 1
assert read(made) is not None and len(compared) == 1
prompt_store.sums = before
print("compared once")

path = place()
for suffix, harm in [
    (".safetensors", shorten),
    (".safetensors", flip),
    (".safetensors", os.unlink),
    (".tokens", shorten),
    (".tokens", lambda file: flip(file, -20)),
    (".tokens", lambda file: open(file, "wb").close()),
    (".tokens", lambda file: open(file, "wb").write(os.urandom(3000))),
]:
    # While the store is open, and before it is.
    for early in (True, False):
        if early and suffix == ".tokens":
            continue
        made, _ = store(path)
        assert write(made), said
        if not early:
            leave(made)
        harm(os.path.join(path, files(path, suffix)[0]))
        if not early:
            made = reopened(path)
        found = read(made)
        assert found is None, (suffix, harm, early)
        assert files(path, ".tokens") == [] and files(path, ".safetensors") == [], files(path)
        assert len(files(path, ".damaged")) <= 2, files(path)
        leave(made)
print("damaged")

# Another file under the name of ours, with a correct checksum of its own, is not what the list says.
path = place()
made, _ = store(path)
write(made)
write(made, [*range(7_000, 7_200)])
first, second = (os.path.join(path, name) for name in files(path, ".safetensors"))
shutil.copy(first, second)
assert sum(read(made, tokens) is not None for tokens in (PROMPT, [*range(7_000, 7_200)])) == 1
print("exchanged")

# What belongs to another model, version or option is never read.
path = place()
made, _ = store(path)
write(made)
leave(made)
assert read(reopened(path, "c" * 64)) is None and len(files(path, ".tokens")) == 1
folder = tempfile.mkdtemp()
for name, text in [("config.json", "{}"), ("tokenizer.json", "{}"), ("model.safetensors", "x" * 1000)]:
    with open(os.path.join(folder, name), "w") as file:
        file.write(text)
model = (folder, None, None)
same = prompt_identity.identity(model, ["--model", folder, "--port", "1", "--temp", "1"])
assert same == prompt_identity.identity(model, ["--model", folder, "--port", "2", "--max-tokens", "9"])
others = [
    prompt_identity.identity(model, ["--model", folder, "--kv-bits", "8"]),
    prompt_identity.identity((folder, folder, None), ["--model", folder]),
]
for name in ("config.json", "tokenizer.json", "model.safetensors"):
    with open(os.path.join(folder, name), "r+") as file:
        file.write("[")
    others.append(prompt_identity.identity(model, ["--model", folder]))
assert len({same, *others}) == 6
# From another version of mlx-lm or MLX, which may lay out arrays or round differently.
import importlib.metadata

now, version = prompt_identity.identity(model, ["--model", folder]), importlib.metadata.version
for package in ("mlx-lm", "mlx"):
    importlib.metadata.version = lambda name, package=package: version(name) + ("1" if name == package else "")
    assert prompt_identity.identity(model, ["--model", folder]) != now, package
    importlib.metadata.version = version
# From another version of this file.
path = place()
made, _ = store(path)
write(made)
leave(made)
prompt_files.FORMAT += 1
assert read(reopened(path)) is None and files(path, ".tokens") == []
prompt_files.FORMAT -= 1
print("foreign")

# A store that others may write, or that is not a folder, is refused and reported; serving continues without it.
for spoil in ("mode", "owner", "link", "parent", "file"):
    said.clear()
    path = place()
    os.mkdir(path)
    if spoil == "mode":
        os.chmod(path, 0o777)
    elif spoil == "owner" and os.geteuid() == 0:
        os.chown(path, 12345, 12345)
    elif spoil == "link":
        os.rename(path, path + "2")
        os.symlink(path + "2", path)
    elif spoil == "parent":
        os.chmod(os.path.dirname(path), 0o777)
    elif spoil == "file":
        os.rmdir(path)
        open(path, "w").close()
    else:
        continue
    made, opened = store(path)
    assert not opened and not write(made) and len(said) == 1 and told[-1]["trouble"] == said[0], (spoil, said)
said.clear()
made, opened = store("/proc/prompts/m")
assert not opened and len(said) == 1, said
print("refused")

# Two processes never share it.
path = place()
made, _ = store(path)
assert child("shared", path) == 0
leave(made)
print("alone")

# What is forgotten is gone.
made, _ = store(path)
write(made)
made.forget()
assert files(path) == [] and read(made) is None and write(made) and read(made) is not None
print("forgotten")

# A class that mlx_lm could not load is not written.
class Strange(kinds.KVCache):
    pass


said.clear()
keeper = prompt_store.Keeper(made, [], mx)
keeper.module = kinds
assert keeper.saveable(EVERY["list"]()) and not keeper.saveable([Strange()])
assert not keeper.saveable([kinds.CacheList(Strange())]) and len(said) == 1, said
print("strange")

# What is read back first gets its place in the room, and is not read if there is none.
import launcher

made, _ = store(place())
write(made)
[entry] = made.entries.values()
keeper = prompt_store.Keeper(made, [], mx)
keeper.identities["m"] = KEY
table = {"bytes": 1_000_000, "concurrency": 1, "least": 512, "steps": [512], "rows": [{"tokens": 1000, "bytes": [300_000]}]}
room = launcher.Room(table, 700_000)
# In the order of the launcher.
keeper.install(kinds)
launcher.leave_a_token()
launcher.keep_prompts_alone(room, keeper)
seen, reads = [], made.read


def seen_read(*what):
    seen.append(lru.nbytes)
    return reads(*what)


made.read = seen_read
lru = kinds.LRUPromptCache(10, room.limit)
others = [[*range(start, start + 200)] for start in (20_000, 30_000)]
for tokens in others:
    lru.insert_cache("m", tokens, [filled(kinds.KVCache())])
assert len(lru) == 2 and lru.nbytes + entry.bytes + 300_000 > table["bytes"]
found, rest = lru.fetch_nearest_cache("m", [*PROMPT, 1, 2, 3])
assert rest == [1, 2, 3] and found[0].offset == 200, rest
assert found[0].keys.shape[2] == 512, "with room for the rest and an answer, so that a batch makes no copy of it"
assert len(seen) == 1 and 0 < seen[0] and seen[0] + entry.bytes + 300_000 <= table["bytes"], seen
assert lru.fetch_nearest_cache("m", [*others[1], 1])[1] == [1], "the newest stayed"
# A prompt that is exactly what the store has leaves one token to compute.
found, rest = lru.fetch_nearest_cache("m", PROMPT)
assert rest == PROMPT[-1:] and found[0].offset == 199, rest
# A sliding cache is kept without what is outside its window, which does not change what follows.
whole = filled(kinds.RotatingKVCache(64))
kept, token = kinds.RotatingKVCache(64), [mx.random.normal((1, 2, 1, 64)) for _ in range(2)]
kept.state = whole.state
alone = kinds.LRUPromptCache(10)
alone.insert_cache("s", PROMPT, [kinds.CacheList(kept)])
assert whole.nbytes == 200 * 2 * 2 * 64 * 4 and alone.nbytes == 64 * 2 * 2 * 64 * 4, (whole.nbytes, alone.nbytes)
for tokens in (token, [mx.random.normal((1, 2, 5, 64)) for _ in range(2)]):
    [[one], other] = (alone.fetch_nearest_cache("s", [*PROMPT, 1])[0], kinds.RotatingKVCache(64))
    other.state = whole.state
    [one, other] = (cache.update_and_fetch(*tokens) for cache in (one.caches[0], other))
    assert all(mx.array_equal(*pair) for pair in zip(one, other)), tokens[0].shape
print("cut to the window")
# Conversations in progress when the last backend ended are in memory before they are needed; others stay on disk.
for recent, used, resumed in ((60, 5, True), (60, 120, False), (0, 5, False), (60, -50, False)):
    resuming, _ = store(place())
    write(resuming, used=time.time() - used)
    keeper.store, keeper.recent, keeper.begun, keeper.noted = resuming, recent, False, []
    cold = kinds.LRUPromptCache(10, room.limit)
    assert cold.fetch_nearest_cache("m", [1, 2, 3])[1] == [1, 2, 3]
    assert len(cold) == resumed and resuming.counts["hits"] == 0, (recent, used)
    if resumed:
        assert cold.fetch_nearest_cache("m", [*PROMPT, 1])[1] == [1] and resuming.counts["hits"] == 0
        keeper.write_all()
        assert abs(time.time() - used - os.stat(resuming._file(next(iter(resuming.entries)) + ".tokens")).st_mtime) < 2
        keeper.begun = False
        small = kinds.LRUPromptCache(10, 1000)
        small.fetch_nearest_cache("m", [1, 2, 3])
        assert len(small) == 0, "larger than may be kept"
    keeper.store = made
print("resumed")
before = len(seen)
lru.max_bytes = 0
assert lru.fetch_nearest_cache("m", [*PROMPT, 1])[0] is None, "while everything is given up"
lru.max_bytes, room.limit = 700_000, entry.bytes - 1
assert lru.fetch_nearest_cache("m", [*PROMPT, 1])[0] is None, "larger than may be kept"
assert len(seen) == before
print("counted")
