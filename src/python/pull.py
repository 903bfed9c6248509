"""Downloads a model's files from the hub into its cache. Started by mlxctl, with a request in JSON as its argument.

    {"repo": "org/name", "patience_seconds": 60, "verify": false}

Prints one event in JSON per line. After `plan` and after `described` it continues only when it reads a line, so that
mlxctl can refuse; the end of stdin ends it at once.

huggingface_hub does what needs to know the hub: addresses, tokens, requests, the cache's layout. Transfer and checks
are in pull_files.py, errors and patience in pull_hub.py. The hub may be another one (HF_ENDPOINT), or something in
between that answers in its place, so nothing that it says is trusted.
"""

import json
import logging
import os
import queue
import signal
import sys
import threading
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

# First: it sets what huggingface_hub reads when it is imported.
from pull_hub import Failed, asked, kind, say, words
from pull_files import Counter, Wanted, is_hash, needed, size_of

from huggingface_hub import HfApi, constants, get_token, hf_hub_url
from huggingface_hub.file_download import repo_folder_name

# Files at once: one connection seldom fills the line, and more would only compete for the disk.
WORKERS = 4

request = json.loads(sys.argv[1])
repo, patience = request["repo"], request["patience_seconds"]
answers = queue.SimpleQueue()


def listen():
    for line in sys.stdin:
        answers.put(line)
    # mlxctl is gone, or no longer wants the files.
    os._exit(3)


def go_on():
    answers.get()


def in_parallel(act, items):
    pool = ThreadPoolExecutor(WORKERS)
    tasks = [pool.submit(act, item) for item in items]
    # The first failure counts; the other transfers end with the process and keep what they have.
    for task in wait(tasks, return_when=FIRST_EXCEPTION).done:
        task.result()


def license_of(info):
    card = info.card_data.to_dict() if info.card_data else {}
    name = card.get("license_name") or card.get("license")
    tags = [tag.removeprefix("license:") for tag in info.tags or [] if tag.startswith("license:")]
    return name if isinstance(name, str) else next(iter(tags), None)


def pull():
    info = asked(lambda: HfApi().model_info(repo, files_metadata=True), patience)
    commit = info.sha
    if not (is_hash(commit, 40) or is_hash(commit, 64)):
        raise Failed("portal", f"{constants.ENDPOINT} names the commit {commit!r:.80}, which is not a hash")
    storage = os.path.join(constants.HF_HUB_CACHE, repo_folder_name(repo_id=repo, repo_type="model"))
    blobs, folder = os.path.join(storage, "blobs"), os.path.join(storage, "snapshots", commit)
    siblings = [sibling for sibling in info.siblings or [] if needed(sibling.rfilename)]
    if any(sibling.size is None or not (sibling.lfs or sibling.blob_id) for sibling in siblings):
        raise Failed("hub", "the hub tells no sizes of the files")
    urls = [hf_hub_url(repo, sibling.rfilename, revision=commit) for sibling in siblings]
    files = [Wanted(sibling, blobs, folder, url) for sibling, url in zip(siblings, urls)]
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
        file.fetch(counter, patience)
        file.link()

    in_parallel(bring, [file for file in files if not file.weights])
    say(event="described", folder=folder)
    go_on()
    in_parallel(bring, [file for file in files if file.weights])
    # Last, so that an offline lookup of the model finds a complete one.
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
code = 0
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
