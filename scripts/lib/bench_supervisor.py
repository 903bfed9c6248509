#!/usr/bin/env python3
"""The measurements of scripts/bench-supervisor, which prepares what this needs. Standard library only."""

import argparse
import contextlib
import json
import os
import pathlib
import select
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

PATIENCE = 120


def say(text):
    print(f"bench-supervisor: {text}", file=sys.stderr, flush=True)


def read(path):
    with open(path) as file:
        return file.read()


def wait_until(what, condition):
    end = time.monotonic() + PATIENCE
    while not (found := condition()):
        if time.monotonic() > end:
            sys.exit(f"bench-supervisor: waited {PATIENCE} s for {what}")
        time.sleep(0.02)
    return found


def tasks(pid):
    return [int(name) for name in os.listdir(f"/proc/{pid}/task")]


def children(pid):
    found = []
    for task in tasks(pid):
        with contextlib.suppress(OSError):
            found += [int(child) for child in read(f"/proc/{pid}/task/{task}/children").split()]
    return found


def memory(pid):
    """Proportional set size, private memory and anonymous memory, in bytes (proc_pid_smaps_rollup)."""
    fields = {}
    for line in read(f"/proc/{pid}/smaps_rollup").splitlines()[1:]:
        name, value = line.split(":")
        fields[name] = int(value.split()[0]) * 1024
    private = fields["Private_Clean"] + fields["Private_Dirty"]
    return {"pss": fields["Pss"], "private": private, "pss_anon": fields["Pss_Anon"]}


def activity(pid):
    """Nanoseconds on a CPU and number of voluntary sleeps, over all threads."""
    cpu = switches = 0
    for task in tasks(pid):
        cpu += int(read(f"/proc/{pid}/task/{task}/schedstat").split()[0])
        for line in read(f"/proc/{pid}/task/{task}/status").splitlines():
            if line.startswith("voluntary_ctxt_switches"):
                switches += int(line.split()[1])
    return {"cpu_ns": cpu, "wakeups": switches}


def total(dicts):
    return {key: sum(each[key] for each in dicts) for key in dicts[0]}


def idle(pids, seconds):
    """What a supervisor's processes use while nothing happens, scaled to a minute."""
    before = total([activity(pid) for pid in pids])
    began = time.monotonic()
    time.sleep(seconds)
    after = total([activity(pid) for pid in pids])
    scale = 60 / (time.monotonic() - began)
    found = total([memory(pid) for pid in pids])
    found["cpu_ms_minute"] = (after["cpu_ns"] - before["cpu_ns"]) / 1e6 * scale
    found["wakeups_minute"] = (after["wakeups"] - before["wakeups"]) * scale
    found["processes"] = len(pids)
    found["threads"] = sum(len(tasks(pid)) for pid in pids)
    found["descriptors"] = sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids)
    return found


def command_ms(argv, times):
    """Milliseconds from spawning a command to its end; every run must succeed."""
    null = os.open(os.devnull, os.O_RDWR)
    actions = [(os.POSIX_SPAWN_DUP2, null, target) for target in (0, 1, 2)]
    taken = []
    try:
        for _ in range(times):
            began = time.perf_counter()
            # subprocess.run would add most of a millisecond of its own.
            pid = os.posix_spawn(argv[0], argv, os.environ, file_actions=actions)
            code = os.waitpid(pid, 0)[1]
            taken.append((time.perf_counter() - began) * 1000)
            if code != 0:
                sys.exit(f"bench-supervisor: {argv} ended with {os.waitstatus_to_exitcode(code)}")
    finally:
        os.close(null)
    return spread(taken)


def spread(values):
    ordered = sorted(values)
    return {
        "median": statistics.median(ordered),
        "min": ordered[0],
        "p95": ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))],
        "max": ordered[-1],
        "count": len(ordered),
    }


def respawn(parent, child):
    """Kills `child` and waits for another one of `parent`: (ms from SIGKILL to its death, ms from that to the next
    process, the next process). Death is when its pidfd becomes readable: ending a process with much memory takes the
    kernel a while, and no supervisor can know sooner."""
    path = f"/proc/{parent}/task/{parent}/children"
    known = set(read(path).split())
    end = time.monotonic() + PATIENCE
    died = None
    watch = os.pidfd_open(child)
    poll = select.poll()
    poll.register(watch, select.POLLIN)
    with open(path, "rb", buffering=0) as listing:
        began = time.perf_counter()
        os.kill(child, signal.SIGKILL)
        while True:
            if died is None and poll.poll(0):
                died = time.perf_counter()
            new = [pid for pid in os.pread(listing.fileno(), 4096, 0).decode().split() if pid not in known]
            if new:
                now = time.perf_counter()
                os.close(watch)
                died = died or now
                return (died - began) * 1000, (now - died) * 1000, int(new[0])
            if time.monotonic() > end:
                sys.exit("bench-supervisor: a killed child did not come back")
            # A tight loop would take a core from the supervisor that has to react.
            time.sleep(0.00005)


def respawns(found, taken):
    """Adds the times of kills, each as `respawn` returns it."""
    found["death_ms"] = spread([death for death, _, _ in taken])
    found["respawn_ms"] = spread([next_one for _, next_one, _ in taken])
    found["kill_to_spawn_ms"] = spread([death + next_one for death, next_one, _ in taken])


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def running(argv, log, **more):
    """A supervisor for the duration of the block; SIGTERM ends it with everything it started."""
    with open(log, "ab") as out:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, **more)
    try:
        yield process
    finally:
        process.send_signal(more_signal(argv))
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def more_signal(argv):
    """runsvdir ends its runsv, and they their children, on SIGHUP (runsvdir(8))."""
    return signal.SIGHUP if argv[0].endswith("runsvdir") else signal.SIGTERM


REGISTRY = """\
[paths]
root = "{root}"
venv = "{venv}"
[network]
host = "127.0.0.1"
[memory]
reserve = [{{ name = "OS", size = "1GB" }}, {{ name = "game", size = "1GB", while_running = ["NoSuchGame"] }}]
{models}"""

MODEL = """\
[[model]]
name = "{name}"
repo = "builtin:tiny"
port = {port}
start = "always"
size = "500MB"
restart = {{ stable_after = "500ms" }}
"""


def ours(folder, options):
    """Two real backends, both ready, every listener open."""
    models = [MODEL.format(name=name, port=free_port()) for name in ("first", "second")]
    root = folder / "ours"
    root.mkdir()
    config = root / "models.toml"
    venv = os.environ["MLXCTL_TEST_VENV"]
    config.write_text(REGISTRY.format(root=root, venv=venv, models="".join(models)))
    mlxctl = [str(options.binary), "--config", str(config)]
    say("ours: the environment and the model")
    subprocess.run([*mlxctl, "setup"], check=True, stdout=sys.stderr)

    def status():
        asked = subprocess.run([*mlxctl, "status", "--json"], capture_output=True)
        return json.loads(asked.stdout) if asked.returncode == 0 else None

    def both_ready():
        found = status()
        return found and all(model["state"] == "ready" for model in found["models"]) and found

    with running([*mlxctl, "serve"], root / "serve.log") as supervisor:
        wait_until("two ready models", both_ready)
        time.sleep(options.settle)
        say(f"ours: {options.idle} s of idleness")
        found = idle([supervisor.pid], options.idle)
        found["status_ms"] = command_ms([*mlxctl, "status"], options.commands)
        found["version_ms"] = command_ms([*mlxctl, "--version"], options.commands)
        say(f"ours: {options.kills} kills")
        taken = []
        for _ in range(options.kills):
            victim = wait_until("two ready models", both_ready)["models"][0]["pid"]
            time.sleep(0.7)
            taken.append(respawn(supervisor.pid, victim))
        respawns(found, taken)
        wait_until("two ready models", both_ready)
        time.sleep(options.settle)
        found["after_kills"] = idle([supervisor.pid], 1)
    found["binary_bytes"] = options.binary.stat().st_size
    return found


def supervisord(folder, options, count):
    tool = options.tools / "venv/bin/supervisord"
    if not tool.exists():
        return None
    root = folder / f"supervisord-{count}"
    root.mkdir()
    programs = "".join(
        f"[program:p{n}]\ncommand=/bin/sleep 100000\nautorestart=true\nstartsecs=0\n" for n in range(count)
    )
    config = root / "supervisord.conf"
    config.write_text(
        f"[supervisord]\nnodaemon=true\nlogfile={root}/log\npidfile={root}/pid\nchildlogdir={root}\n"
        f"[unix_http_server]\nfile={root}/sock\n"
        "[rpcinterface:supervisor]\n"
        "supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface\n"
        f"[supervisorctl]\nserverurl=unix://{root}/sock\n{programs}"
    )
    with running([str(tool), "-c", str(config)], root / "out") as supervisor:
        wait_until("supervisord's children", lambda: len(children(supervisor.pid)) == count)
        ctl = [str(tool.with_name("supervisorctl")), "-c", str(config), "status"]
        return others([supervisor.pid], [supervisor.pid], ctl, options)


def runit(folder, options, count):
    tool = options.tools / "runit/usr/bin/runsvdir"
    if not tool.exists():
        return None
    root = folder / f"runit-{count}"
    services = []
    for n in range(count):
        service = root / f"p{n}"
        service.mkdir(parents=True)
        (service / "run").write_text("#!/bin/sh\nexec /bin/sleep 100000\n")
        (service / "run").chmod(0o755)
        services.append(str(service))
    # runsvdir starts runsv and sv by name.
    env = {**os.environ, "PATH": f"{tool.parent}:{os.environ['PATH']}"}
    with running([str(tool), str(root)], folder / f"runit-{count}.log", env=env) as supervisor:
        wait_until("runsv", lambda: len(children(supervisor.pid)) == count)
        leaves = children(supervisor.pid)
        wait_until("runit's children", lambda: all(children(leaf) for leaf in leaves))
        status = [str(tool.with_name("sv")), "status", *services]
        return others([supervisor.pid, *leaves], leaves, status, options)


def others(processes, parents, status, options):
    time.sleep(options.settle)
    say(f"{pathlib.Path(status[0]).name}: {options.idle} s of idleness")
    found = idle(processes, options.idle)
    found["status_ms"] = command_ms(status, options.commands)
    taken = []
    victim = children(parents[0])[0]
    for _ in range(options.kills):
        # More than a second, because runsv waits before a start that comes sooner (runsv(8)).
        time.sleep(1.2)
        taken.append(respawn(parents[0], victim))
        victim = taken[-1][2]
    respawns(found, taken)
    return found


ROWS = [
    ("PSS", "MB", lambda found: found["pss"] / 1e6),
    ("private memory", "MB", lambda found: found["private"] / 1e6),
    ("CPU, idle minute", "ms", lambda found: found["cpu_ms_minute"]),
    ("wake-ups, idle minute", "", lambda found: found["wakeups_minute"]),
    ("status command, median", "ms", lambda found: found["status_ms"]["median"]),
    ("death to next process, median", "ms", lambda found: found["respawn_ms"]["median"]),
    ("kill -9 to next process, median", "ms", lambda found: found["kill_to_spawn_ms"]["median"]),
    ("kill -9 to next process, slowest", "ms", lambda found: found["kill_to_spawn_ms"]["max"]),
    ("kill -9 to death, median", "ms", lambda found: found["death_ms"]["median"]),
    ("processes", "", lambda found: found["processes"]),
    ("threads", "", lambda found: found["threads"]),
]


def number(value):
    if isinstance(value, int):
        return str(value)
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def table(results):
    columns = [(name, found) for name, found in results.items() if found]
    lines = [["", *(name for name, _ in columns)]]
    for label, unit, value in ROWS:
        lines.append([f"{label} [{unit}]" if unit else label, *(number(value(found)) for _, found in columns)])
    mine = columns[0][1]
    for name, found in columns[1:]:
        ratios = [
            f"{label} {value(mine) / value(found):.3g}x"
            for label, _, value in ROWS[:7]
            if value(found)
        ]
        lines.append([f"ours / {name}: " + ", ".join(ratios)])
    width = max(len(line[0]) for line in lines if len(line) > 1)
    widths = [max(12, len(name) + 2) for name, _ in columns]
    for line in lines:
        cells = [cell.rjust(size) for cell, size in zip(line[1:], widths)]
        print((line[0].ljust(width) + "".join(cells)).rstrip() if cells else line[0])


def main():
    parser = argparse.ArgumentParser(prog="bench-supervisor")
    parser.add_argument("--binary", type=pathlib.Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--tools", type=pathlib.Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--ours", action="store_true")
    options = parser.parse_args()
    options.binary, options.tools = options.binary.resolve(), options.tools.resolve()
    options.idle = 15 if options.quick else 60
    options.kills = 5 if options.quick else 20
    options.commands = 50
    options.settle = 3
    # Short, because Unix sockets are below it.
    folder = pathlib.Path(tempfile.mkdtemp(prefix="mlxbench"))
    try:
        results = {"mlxctl (2)": ours(folder, options)}
        if not options.ours:
            for count in (1, 2):
                results[f"supervisord ({count})"] = supervisord(folder, options, count)
                results[f"runit ({count})"] = runit(folder, options, count)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    table(results)
    floor = command_ms(["/bin/true"], options.commands)
    print(f"for comparison: /bin/true takes {number(floor['median'])} ms")
    if options.json:
        options.json.write_text(json.dumps({"idle_seconds": options.idle, "true_ms": floor, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
