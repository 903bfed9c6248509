"""What the operating system or the driver charges a process, for the memory benchmarks."""

import ctypes
import shutil
import subprocess
import sys
import threading
import time

HERTZ = 20


def linux(pid):
    """Anonymous, shared and swapped memory, as mlxctl counts it: what cannot be dropped and read again."""
    wanted = {"RssAnon:", "RssShmem:", "VmSwap:"}
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return sum(int(line.split()[1]) * 1024 for line in file if line.split()[0] in wanted)


def darwin(pid):
    # struct rusage_info_v0 of <libproc.h>: 16 bytes of UUID, seven counters, then ri_phys_footprint.
    buffer = (ctypes.c_uint64 * 16)()
    if ctypes.CDLL("/usr/lib/libproc.dylib").proc_pid_rusage(pid, 0, ctypes.byref(buffer)) != 0:
        raise OSError("proc_pid_rusage")
    return buffer[9]


class Card:
    """All memory in use on the first NVIDIA card, from one long-lived nvidia-smi."""

    def __init__(self):
        query = ["nvidia-smi", "-i", "0", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "-lms", "50"]
        self.process = subprocess.Popen(query, stdout=subprocess.PIPE, text=True)
        self.used = int(self.process.stdout.readline()) << 20
        threading.Thread(target=self._follow, daemon=True).start()
        time.sleep(0.5)
        self.base = self.used

    def _follow(self):
        for line in self.process.stdout:
            if line.strip().isdigit():
                self.used = int(line) << 20

    def __call__(self, _pid):
        return self.used - self.base

    def close(self):
        self.process.terminate()


def of_this_machine(platform=None):
    """The footprint of a process here, and the platform's name as `mlxctl estimate --platform` takes it."""
    if sys.platform == "darwin":
        return darwin, platform or "metal"
    if platform != "cpu" and shutil.which("nvidia-smi"):
        return Card(), "cuda"
    return linux, "cpu"


class Sampler:
    """The highest footprint since the last `reset`."""

    def __init__(self, footprint, *pids):
        # A card's count includes all of its users.
        self.footprint, self.pids = footprint, pids[:1] if isinstance(footprint, Card) else pids
        self.stop = threading.Event()
        self.reset()
        self.count, self.started = 0, time.monotonic()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def reset(self):
        self.highest = 0

    def now(self):
        return sum(self.footprint(pid) for pid in self.pids)

    def _run(self):
        while not self.stop.wait(1 / HERTZ):
            try:
                self.highest = max(self.highest, self.now())
                self.count += 1
            except OSError:
                return

    def close(self):
        """The rate of sampling, per second."""
        self.stop.set()
        self.thread.join()
        return self.count / (time.monotonic() - self.started)


def gb(count):
    return "-" if count is None else f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def share(estimated, measured):
    return "-" if not measured else f"{(estimated / measured - 1) * 100:+.1f} %"


def show(lines, left):
    """A table; the columns numbered in `left` are left-aligned."""
    widths = [max(len(line[n]) for line in lines) for n in range(len(lines[0]))]
    for line in lines:
        cells = [cell.ljust(w) if n in left else cell.rjust(w) for n, (cell, w) in enumerate(zip(line, widths))]
        print("  ".join(cells).rstrip())
