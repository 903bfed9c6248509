"""The files of a repository on their way into the cache of huggingface_hub, resumable and checked against their hash.

Partial files are kept here: huggingface_hub deletes its own when it is interrupted, and a shard has gigabytes. What the
hub says is checked before it becomes a path: blobs are hexadecimal, names are plain names.
"""

import fcntl
import hashlib
import os
import re
import threading
import time

from pull_hub import Failed, passing, say, wished, words

from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers

# Texts that mlx-lm and tokenizers read. No .py: nothing downloaded may run. mlx-lm reads no .bin, .pth or .gguf.
TEXTS = (".json", ".jinja", ".txt", ".tiktoken", ".model", ".jsonl")
PARTIAL = ".mlxctl.incomplete"
CHUNK = 8 << 20  # bytes that are hashed at once
# What is not yet written when a connection breaks is lost: one megabyte, not ten.
constants.DOWNLOAD_CHUNK_SIZE = 1 << 20


class Counter:
    """Bytes that have arrived, printed five times a second."""

    def __init__(self, done):
        self.done, self.lock = done, threading.Lock()
        self.moved = time.monotonic()

    def add(self, number):
        with self.lock:
            self.done += number
            self.moved = time.monotonic()

    def tell(self):
        told = None
        while True:
            if told != self.done:
                told = self.done
                say(event="progress", done=told)
            time.sleep(0.2)


class TooLong(Exception):
    """More came than the hub lists."""


class Counting:
    """A file that counts what is written and never grows past `most` bytes. Unbuffered, so that it survives a kill."""

    def __init__(self, file, counter, most):
        self.file, self.counter, self.most = file, counter, most
        self.size = file.seek(0, os.SEEK_END)

    def grown(self, size):
        self.counter.add(size - self.size)
        self.size = size

    def write(self, data):
        if self.size + len(data) > self.most:
            raise TooLong
        view = memoryview(data)
        while view:
            written = self.file.write(view)
            view = view[written:]
            self.grown(self.size + written)
        return len(data)

    def tell(self):
        return self.file.tell()

    def seek(self, *where):
        return self.file.seek(*where)

    def truncate(self):
        size = self.file.truncate()
        self.grown(size)
        return size


def is_hash(text, digits):
    return isinstance(text, str) and re.fullmatch(f"[0-9a-f]{{{digits}}}", text) is not None


class Wanted:
    """A file of the repository, with its place in the cache: blobs are named after their content's hash."""

    def __init__(self, sibling, blobs, folder, url):
        self.name, self.size, self.url = sibling.rfilename, sibling.size, url
        self.sha256 = sibling.lfs.sha256 if sibling.lfs else None
        self.blob_id = self.sha256 or sibling.blob_id
        if type(self.size) is not int or self.size < 0:
            raise Failed("hub", f"the hub lists no size of {self.name}")
        if not is_hash(self.blob_id, 64 if self.sha256 else 40):
            raise Failed("hub", f"the hub lists {self.name} with {self.blob_id!r:.80}, which is not a hash")
        self.blob = os.path.join(blobs, self.blob_id)
        self.partial = self.blob + PARTIAL
        self.pointer = os.path.join(folder, self.name)

    @property
    def weights(self):
        return self.name.endswith(".safetensors")

    def there(self):
        """Bytes of it that need not be fetched."""
        if self.whole():
            return self.size
        partial = size_of(self.partial)
        return partial if partial <= self.size else 0

    def whole(self):
        return self.size in (size_of(self.blob), size_of(self.pointer))

    def link(self):
        """Makes the snapshot's file: a link to the blob, or the blob itself on a disk without links."""
        if not os.path.exists(self.blob):
            return
        fresh = self.pointer + PARTIAL
        try:
            os.unlink(fresh)
        except FileNotFoundError:
            pass
        try:
            os.symlink(os.path.relpath(self.blob, os.path.dirname(self.pointer)), fresh)
        except OSError:
            os.replace(self.blob, fresh)
        os.replace(fresh, self.pointer)

    def digest(self, path):
        digest = hashlib.sha256() if self.sha256 else hashlib.sha1(b"blob %d\0" % self.size)
        with open(path, "rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
        return digest.hexdigest()

    def fetch(self, counter, patience):
        """Fetches what is missing, and checks all of it. `patience`: seconds without a byte after which it fails."""
        if self.whole():
            return
        with open(self.partial, "ab+", buffering=0) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Failed("busy", f"{self.name} is being downloaded by another mlxctl") from None
            if file.seek(0, os.SEEK_END) > self.size:
                file.truncate(0)
            resumed = file.seek(0, os.SEEK_END) > 0
            while True:
                self.transfer(Counting(file, counter, self.size), counter, patience)
                os.fsync(file.fileno())
                if self.digest(self.partial) == self.blob_id:
                    break
                counter.add(-self.size)
                if not resumed:
                    os.unlink(self.partial)
                    raise Failed("damaged", f"{self.name} arrived with another content than the hub lists")
                # The part left by an earlier download may be wrong: fetch all of it once more.
                say(event="damaged", name=self.name)
                resumed = False
                file.truncate(0)
            os.replace(self.partial, self.blob)

    def transfer(self, file, counter, patience):
        """Repeats until the file is complete; as long as bytes arrive, another try is worth it."""
        while file.size < self.size:
            try:
                file.seek(0, os.SEEK_END)
                http_get(self.url, file, resume_size=file.size, headers=build_hf_headers(), expected_size=self.size)
            except TooLong as error:
                why = f"{self.name} is longer than the {self.size} bytes that the hub lists"
                raise Failed("damaged", why) from error
            except Exception as error:
                # huggingface_hub reports a connection that ends too early as an OSError without a number.
                cut = isinstance(error, OSError) and error.errno is None and not isinstance(error, HfHubHTTPError)
                if not (cut or passing(error)) or time.monotonic() - counter.moved > patience:
                    raise
                say(event="waiting", why=words(error))
                time.sleep(min(wished(error) or 2.0, patience))


def size_of(path):
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


def needed(name):
    # Names become paths, and are shown.
    if not isinstance(name, str) or "/" in name or "\\" in name or name.startswith(".") or not name.isprintable():
        return False
    # The names that mlx-lm looks for; files that begin with `consolidated` are of another format.
    text = name.endswith(TEXTS) and not name.startswith("consolidated")
    return text or (name.startswith("model") and name.endswith(".safetensors"))
