"""A supervisor for a script: a registry in a folder, `mlxctl serve`, and an end that leaves nothing behind.
Standard library only."""

import argparse
import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PATIENCE = 120.0


def say(text):
    print(f"{pathlib.Path(sys.argv[0]).name}: {text}", file=sys.stderr, flush=True)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def options(document):
    """A parser with the options that every script of this kind has."""
    parser = argparse.ArgumentParser(description=document, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mlxctl", type=pathlib.Path, default=os.environ.get("MLXCTL", ROOT / "target/release/mlxctl"))
    parser.add_argument("--venv", type=pathlib.Path, default=os.environ.get("MLXCTL_TEST_VENV", ROOT / "target/test-venv"))
    return parser


def parsed(parser):
    found = parser.parse_args()
    found.mlxctl, found.venv = pathlib.Path(found.mlxctl).absolute(), pathlib.Path(found.venv).absolute()
    for file in (found.mlxctl, found.venv / "bin/python"):
        if not file.exists():
            sys.exit(f"{file} is not there")
    return found


def own_environment(name, packages):
    """The interpreter of an environment below target/ with packages from PyPI, created once for each list of them."""
    folder = ROOT / "target" / name
    stamp = folder / "made-from"
    if not stamp.exists() or stamp.read_text() != " ".join(packages):
        say(f"installing {' '.join(packages)} into {folder.relative_to(ROOT)} (once)")
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        pip = [folder / "bin/python", "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        subprocess.run([*pip, *packages], check=True)
        stamp.write_text(" ".join(packages))
    return folder / "bin/python"


class Instance:
    """`models`: lines of TOML after [paths] and [network]. Processes that it spawns end with the instance."""

    def __init__(self, options, folder):
        self.options, self.folder, self.children = options, folder, []
        self.config = folder / "models.toml"

    def write(self, models):
        paths = f'[paths]\nroot = "{self.folder}/r"\nvenv = "{self.options.venv}"\n[network]\nhost = "127.0.0.1"\n'
        self.config.write_text(paths + models)

    def tiny_model(self):
        """The folder of the built-in tiny model, made here."""
        folder = self.folder / "tiny"
        if not folder.exists():
            say("making the tiny model")
            command = [self.options.venv / "bin/python", ROOT / "src/python/tiny_model.py", folder]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"the tiny model cannot be made:\n{done.stderr[-3000:]}")
        return folder

    def log(self, name):
        return self.folder / f"{name}.log"

    def last_words(self, name):
        return self.log(name).read_text()[-3000:] if self.log(name).exists() else ""

    def spawn(self, name, command, **more):
        with open(self.log(name), "w") as log:
            child = subprocess.Popen(list(map(str, command)), stdout=log, stderr=log, stdin=subprocess.DEVNULL, **more)
        self.children.append((name, child))
        return child

    def serve(self):
        self.spawn("supervisor", [self.options.mlxctl, "--config", self.config, "serve"])
        self.wait("the supervisor is up", lambda: self.status() is not None)

    def mlxctl(self, *args):
        command = [self.options.mlxctl, "--config", self.config, *args]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"mlxctl {' '.join(args)}: exit {done.returncode}\n{done.stderr}{self.last_words('supervisor')}")
        return done.stdout

    def status(self):
        command = [self.options.mlxctl, "--config", self.config, "status", "--json"]
        done = subprocess.run(command, capture_output=True, text=True)
        return json.loads(done.stdout) if done.returncode == 0 else None

    def ready(self, *names):
        def all_ready():
            found = {model["name"]: model["state"] for model in (self.status() or {"models": []})["models"]}
            return all(found.get(name) == "ready" for name in names)

        self.wait(f"{', '.join(names)} ready", all_ready)

    def wait(self, what, found):
        began = time.monotonic()
        while not found():
            for name, child in self.children:
                if child.poll() is not None:
                    sys.exit(f"{name} ended:\n{self.last_words(name)}")
            if time.monotonic() - began > PATIENCE:
                sys.exit(f"not within {PATIENCE:.0f} s: {what}")
            time.sleep(0.1)

    def end(self):
        for _, child in reversed(self.children):
            child.terminate()
        for _, child in self.children:
            try:
                child.wait(60)
            except subprocess.TimeoutExpired:
                child.kill()


@contextlib.contextmanager
def instance(options):
    """An instance for the duration of the block, which also ends it on a signal."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    # Short, because Unix sockets are below it.
    with tempfile.TemporaryDirectory(prefix="mlx") as folder:
        made = Instance(options, pathlib.Path(folder))
        try:
            yield made
        finally:
            made.end()
