"""The folder of a prompt store: who may use it, what its files are called, how an entry's list of tokens is written.

An entry is two files: NAME.safetensors, which mlx_lm's `save_prompt_cache` writes, and NAME.tokens, which names the
prompt. The second is renamed into place last, so a file without it is a write that was cut off. Nothing is synced: a
checksum finds what a power cut damages, and the prompt is computed again.

Written by mlxctl next to the launcher; changes are overwritten.
"""

import array
import collections
import fcntl
import json
import os
import stat
import zlib

FORMAT = 1
LONGEST_HEAD = 1 << 20  # bytes of the first line of a .tokens file
DAMAGED = "damaged"  # suffix of what is set aside: one entry at most


class Unfit(Exception):
    """A file or folder that is not what it should be."""


# `name` is what both files' names begin with, `sums` a CRC-32 per piece of the first.
Entry = collections.namedtuple("Entry", "name tokens bytes trimmable classes sums")


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


def unchanged(found):
    """Equal as long as the file is not written to: its ctime cannot be set."""
    return found.st_dev, found.st_ino, found.st_size, found.st_ctime_ns


def secure(path):
    """Makes the folder. Raises Unfit if others may write to it: whoever does decides what the model has read."""
    # One by one: makedirs leaves the mode of all but the last to the umask, which may let a group write.
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


def take(folder):
    """The folder's lock file, locked. Raises Unfit while another process holds it."""
    held = os.open(os.path.join(folder, "lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(held)
        raise Unfit(f"another process uses {folder}") from None
    return held


def ours(folder):
    """All files with a name that a store gives, of any model: name → {suffix: stat}."""
    found = collections.defaultdict(dict)
    for item in os.scandir(folder):
        stem, _, suffix = item.name.partition(".")
        if suffix and len(stem) == 33 and item.is_file(follow_symlinks=False):
            found[stem][suffix] = item.stat(follow_symlinks=False)
    return found


def oldest_first(files):
    """The names in `files`, as from `ours`: what is set aside, then what was not used for longest."""

    def age(stem):
        aside = any(suffix.endswith(DAMAGED) for suffix in files[stem])
        # The list of tokens has the time of the last use.
        used_at = files[stem].get("tokens")
        return (not aside, used_at.st_mtime_ns if used_at else 0)

    return sorted(files, key=age)


def touch(folder, stem, when, new=False):
    """Notes the last use: of a new entry any, of another one only a later one."""
    path = os.path.join(folder, stem + ".tokens")
    try:
        if not new and os.stat(path).st_mtime > when:
            return
        os.utime(path, (when, when), follow_symlinks=False)
    except OSError:
        pass


def remove(folder, stem, suffixes):
    for suffix in suffixes:
        try:
            os.unlink(os.path.join(folder, f"{stem}.{suffix}"))
        except OSError:
            pass


def set_aside(folder, stem):
    """Renames an entry so that it is never read again. Only the last one is kept, for whoever investigates."""
    try:
        for other, files in ours(folder).items():
            remove(folder, other, [suffix for suffix in files if suffix.endswith(DAMAGED)])
        for suffix in ("tokens", "safetensors"):
            path = os.path.join(folder, f"{stem}.{suffix}")
            if os.path.lexists(path):
                os.rename(path, f"{path}.{DAMAGED}")
    except OSError:
        remove(folder, stem, ("tokens", "safetensors"))


def read_entry(folder, stem, key):
    """The entry of a .tokens file. Raises Unfit if it is damaged, or of another `key`."""
    path = os.path.join(folder, stem)
    with open(os.open(path + ".tokens", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
        text = file.read()
    head = text[:LONGEST_HEAD].partition(b"\n")[0]
    if len(text) < 5 or zlib.crc32(text[:-4]) != int.from_bytes(text[-4:], "little"):
        raise Unfit("its list of tokens is damaged")
    head = json.loads(head)
    if head["format"] != FORMAT or head["identity"] != key:
        raise Unfit("it belongs to another model")
    tokens = array.array("q", text[text.index(b"\n") + 1 : -4])
    if len(tokens) != head["tokens"]:
        raise Unfit("its list of tokens is torn")
    if os.lstat(path + ".safetensors").st_size != head["bytes"]:
        raise Unfit("it is torn")
    return Entry(stem, tokens, head["bytes"], head["trimmable"], head["classes"], head["sums"])


def finish_entry(folder, entry, key):
    """Writes the list of tokens of an entry whose cache is in NAME.part.safetensors, and renames both into place.

    Returns the stat of the renamed cache.
    """
    path = os.path.join(folder, entry.name)
    head = {
        "format": FORMAT,
        "identity": key,
        "tokens": len(entry.tokens),
        "bytes": entry.bytes,
        "trimmable": entry.trimmable,
        "classes": entry.classes,
        "sums": entry.sums,
    }
    text = json.dumps(head).encode() + b"\n" + entry.tokens.tobytes()
    text += zlib.crc32(text).to_bytes(4, "little")
    part = os.open(path + ".part.tokens", os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o600)
    with open(part, "wb") as out:
        out.write(text)
    os.rename(path + ".part.safetensors", path + ".safetensors")
    os.rename(path + ".part.tokens", path + ".tokens")
    return os.lstat(path + ".safetensors")
