"""Brings a model's files from the hub into its cache. Started by mlxctl, with a request in JSON as its argument.

Prints an event in JSON a line. Goes on past `plan` and `described` only when it reads a line, so that mlxctl can
refuse; the end of stdin ends it at once, whatever it does.

huggingface_hub does what knows the hub: addresses, tokens, requests, the cache's layout. Only partial files are kept by
this script: huggingface_hub throws its own away when it is interrupted, and a shard has gigabytes.

What the hub says is checked before it becomes a path: commits and blobs are hexadecimal, names are plain names. The hub
may be another one (HF_ENDPOINT), or something on the way that answers in its place.
"""

import errno
import fcntl
import hashlib
import json
import logging
import os
import queue
import re
import signal
import sys
import threading
import time
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from email.utils import parsedate_to_datetime

# What they print is for a person at a terminal, and here is none.
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

from huggingface_hub import HfApi, constants, get_token, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.file_download import http_get, repo_folder_name
from huggingface_hub.utils import build_hf_headers

# Files at once: a connection seldom fills the line, and more only compete for the disk.
WORKERS = 4
# Texts that mlx-lm and tokenizers read. No .py: nothing here shall run. No .bin, .pth, .gguf: mlx-lm reads none.
TEXTS = (".json", ".jinja", ".txt", ".tiktoken", ".model", ".jsonl")
PARTIAL = ".mlxctl.incomplete"
CHUNK = 8 << 20
# What is not yet written when a connection is cut is lost: a megabyte, not ten.
constants.DOWNLOAD_CHUNK_SIZE = 1 << 20

request = json.loads(sys.argv[1])
repo, patience = request["repo"], request["patience_seconds"]
printing = threading.Lock()


def say(**event):
    with printing:
        print(json.dumps(event), flush=True)


class Failed(Exception):
    """What mlxctl explains: a kind, and the telling words."""

    def __init__(self, kind, why):
        super().__init__(why)
        self.kind, self.why = kind, why


answers = queue.SimpleQueue()


def listen():
    for line in sys.stdin:
        answers.put(line)
    # Whoever wanted the files is gone.
    os._exit(3)


class Counter:
    """Bytes that are there, told five times a second."""

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
    """A file that tells the counter what becomes of it, and never grows past `most` bytes. Unbuffered: what was written is
    there after a kill."""

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
    """A file of the repository, with its place in the cache: blobs are named after what is in them."""

    def __init__(self, sibling, blobs, folder):
        self.name, self.size = sibling.rfilename, sibling.size
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
        """Makes the file of the snapshot: a link to the blob, or the blob itself where the disk knows no links."""
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

    def fetch(self, counter):
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
                self.transfer(Counting(file, counter, self.size), counter)
                os.fsync(file.fileno())
                if self.digest(self.partial) == self.blob_id:
                    break
                counter.add(-self.size)
                if not resumed:
                    os.unlink(self.partial)
                    raise Failed("damaged", f"{self.name} arrived with another content than the hub lists")
                # What an earlier download left may be what is wrong: once more, all of it.
                say(event="damaged", name=self.name)
                resumed = False
                file.truncate(0)
            os.replace(self.partial, self.blob)

    def transfer(self, file, counter):
        """Until all of it is there. Whatever moves bytes is worth another try."""
        url = hf_hub_url(repo, self.name, revision=commit)
        while file.size < self.size:
            try:
                file.seek(0, os.SEEK_END)
                http_get(url, file, resume_size=file.size, headers=build_hf_headers(), expected_size=self.size)
            except TooLong as error:
                why = f"{self.name} is longer than the {self.size} bytes that the hub lists"
                raise Failed("damaged", why) from error
            except Exception as error:
                # A clean end that came too early is told as an OSError without a number.
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


def wished(error):
    """Seconds that the hub asks to wait (RFC 9110, 10.2.3, and the `t` of its RateLimit header); None: it says nothing."""
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    wish = headers.get("Retry-After", "")
    if wish.isdecimal():
        return float(wish)
    try:
        return max(0.0, parsedate_to_datetime(wish).timestamp() - time.time())
    except (TypeError, ValueError):
        pass
    found = re.search(r"(?:^|[;,\s])t=(\d+)", headers.get("RateLimit", ""))
    return float(found[1]) if found else None


def asked(question):
    """The answer to the first question. A hub that is busy is asked again when it says so; whatever else is wrong is told
    at once, to whoever has just typed the command."""
    until = time.monotonic() + patience
    while True:
        try:
            return question()
        except HfHubHTTPError as error:
            status = error.response.status_code if error.response is not None else 0
            wait = wished(error) or 2.0
            if status != 429 and not (status == 503 and wished(error) is not None):
                raise
            if time.monotonic() + wait > until:
                why = f"{words(error)}; it asks to wait {wait:.0f} s, longer than --timeout"
                raise Failed("hub", why) from error
            say(event="waiting", why=f"{words(error)}; waiting {wait:.0f} s as it asks")
            time.sleep(wait)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            # No JSON, or other JSON than a listing.
            raise Failed("portal", f"{constants.ENDPOINT} did not answer with a listing: {words(error)}") from error


def network(error):
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"TransportError", "RequestException", "ConnectionError", "TimeoutError"})


def passing(error):
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code if error.response is not None else 0
        return status in (408, 429) or status >= 500
    return network(error)


def words(error):
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def kind(error):
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, OfflineModeIsEnabled):
        return "offline"
    if isinstance(error, GatedRepoError):
        return "gated"
    if isinstance(error, RepositoryNotFoundError):
        return "not_found"
    if status in (401, 403):
        return "unauthorized"
    # RFC 6585, section 6.
    if status == 511:
        return "portal"
    if status is not None:
        return "not_found" if status == 404 else "hub"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "disk_full"
    if network(error) or any(map(network, (error.__cause__, error.__context__))):
        return "network"
    return "io" if isinstance(error, OSError) and error.errno is not None else "unknown"


def needed(name):
    # Names become paths, and are shown.
    if not isinstance(name, str) or "/" in name or "\\" in name or name.startswith(".") or not name.isprintable():
        return False
    # The very names that mlx-lm looks for; those beside `consolidated*` are of another format.
    text = name.endswith(TEXTS) and not name.startswith("consolidated")
    return text or (name.startswith("model") and name.endswith(".safetensors"))


def in_parallel(act, items):
    pool = ThreadPoolExecutor(WORKERS)
    tasks = [pool.submit(act, item) for item in items]
    # The first failure counts; what else is under way ends with the process and keeps what it has.
    for task in wait(tasks, return_when=FIRST_EXCEPTION).done:
        task.result()


def license_of(info):
    card = info.card_data.to_dict() if info.card_data else {}
    name = card.get("license_name") or card.get("license")
    tags = [tag.removeprefix("license:") for tag in info.tags or [] if tag.startswith("license:")]
    return name if isinstance(name, str) else next(iter(tags), None)


def go_on():
    answers.get()


def pull():
    global commit
    info = asked(lambda: HfApi().model_info(repo, files_metadata=True))
    commit = info.sha
    if not (is_hash(commit, 40) or is_hash(commit, 64)):
        raise Failed("portal", f"{constants.ENDPOINT} names the commit {commit!r:.80}, which is not a hash")
    storage = os.path.join(constants.HF_HUB_CACHE, repo_folder_name(repo_id=repo, repo_type="model"))
    blobs, folder = os.path.join(storage, "blobs"), os.path.join(storage, "snapshots", commit)
    siblings = [sibling for sibling in info.siblings or [] if needed(sibling.rfilename)]
    if any(sibling.size is None or not (sibling.lfs or sibling.blob_id) for sibling in siblings):
        raise Failed("hub", "the hub tells no sizes of the files")
    files = [Wanted(sibling, blobs, folder) for sibling in siblings]
    files.sort(key=lambda file: (file.weights, file.name))
    there = sum(file.there() for file in files)
    say(
        event="plan",
        cache=constants.HF_HUB_CACHE,
        endpoint=constants.ENDPOINT,
        commit=commit,
        license=license_of(info),
        files=[file.name for file in files],
        bytes=sum(file.size for file in files),
        there=there,
    )
    go_on()
    os.makedirs(blobs, exist_ok=True)
    os.makedirs(folder, exist_ok=True)
    counter = Counter(there)
    threading.Thread(target=counter.tell, daemon=True).start()

    def bring(file):
        if request["verify"] and file.whole():
            path = file.blob if size_of(file.blob) == file.size else file.pointer
            if file.digest(path) != file.blob_id:
                os.unlink(path)
                counter.add(-file.size)
                say(event="damaged", name=file.name)
        file.fetch(counter)
        file.link()

    in_parallel(bring, [file for file in files if not file.weights])
    say(event="described", folder=folder)
    go_on()
    in_parallel(bring, [file for file in files if file.weights])
    # Only now: whoever looks for the model offline finds a whole one.
    refs = os.path.join(storage, "refs")
    os.makedirs(refs, exist_ok=True)
    with open(os.path.join(refs, "main.mlxctl"), "w") as file:
        file.write(commit)
    os.replace(file.name, os.path.join(refs, "main"))
    say(event="progress", done=counter.done)
    say(event="done", folder=folder)


signal.signal(signal.SIGINT, signal.SIG_IGN)
logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)
threading.Thread(target=listen, daemon=True).start()
commit, code = "main", 0
try:
    pull()
except Failed as error:
    say(event="failed", kind=error.kind, why=error.why, token=False)
    code = 1
except Exception as error:
    say(event="failed", kind=kind(error), why=words(error), token=get_token() is not None)
    code = 1
# Not sys.exit: it would wait for the threads that still download.
os._exit(code)
