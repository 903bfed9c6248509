"""Runs mlx.launch inside a conductor, changed so that it can stay up for weeks.

    python mlx_launch.py <arguments of mlx.launch ...>

Written by mlxctl; changes are overwritten. It stands on public interfaces only: the standard library and the entry
point that the mlx package installs as `mlx.launch`.
"""

import os
import select
import signal
import sys
import threading
from importlib.metadata import entry_points

POLL = 0.02  # seconds


def wait_for_something_to_read():
    """Keeps mlx.launch from spinning.

    Its loops also select ranks that can be written to, which is always true, so they never sleep and keep a core busy
    while the group is up. Here they wait for something to read first, and write up to POLL later.
    """
    real = select.select

    def patient(reading, writing, exceptional, timeout=None):
        if not reading or not writing or timeout == 0:
            return real(reading, writing, exceptional, timeout)
        readable, _, broken = real(reading, [], exceptional, POLL if timeout is None else min(POLL, timeout))
        _, writable, _ = real([], writing, [], 0)
        return readable, writable, broken

    select.select = patient


def end_with_the_conductor(conductor):
    """Ends this process when the conductor is gone.

    Left behind, it would keep the ranks up: it holds their standard input, and they end with it.
    """

    def watch():
        while os.getppid() == conductor:
            threading.Event().wait(0.2)
        os._exit(1)

    threading.Thread(target=watch, name="conductor watch", daemon=True).start()


def main():
    # The supervisor's signal reaches the whole process group. The ranks' goodbyes pass through here, so this ends by
    # itself, after them. A handler, not SIG_IGN: the ranks would inherit that.
    signal.signal(signal.SIGTERM, lambda *_: None)
    end_with_the_conductor(os.getppid())
    wait_for_something_to_read()
    found = list(entry_points(group="console_scripts", name="mlx.launch"))
    if not found:
        sys.exit("this mlx has no mlx.launch")
    sys.argv[0] = "mlx.launch"
    found[0].load()()


if __name__ == "__main__":
    main()
