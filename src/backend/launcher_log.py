"""stdout and stderr, which are the backend's log, and how an error reads there and on the link.

Written by mlxctl next to the launcher; changes are overwritten.
"""

import io
import os
import sys

LONGEST_ERROR = 4000  # characters of an error that is passed on


class Log(io.RawIOBase):
    """stdout or stderr. What cannot be written is dropped: a full disk costs log lines, never an answer."""

    def __init__(self, descriptor):
        self.descriptor = descriptor

    def writable(self):
        return True

    def fileno(self):
        return self.descriptor

    def write(self, data):
        rest = memoryview(data).cast("B")
        length = len(rest)
        try:
            while rest:
                rest = rest[os.write(self.descriptor, rest) :]
        except OSError:
            pass
        return length

    @staticmethod
    def install():
        # Line-buffered: a line is one write, so it never spans two files when the log is reopened.
        sys.stdout, sys.stderr = (
            io.TextIOWrapper(Log(descriptor), "utf-8", "backslashreplace", line_buffering=True)
            for descriptor in (1, 2)
        )

    @staticmethod
    def reopen(path):
        """Continues in a new file after the old one was renamed."""
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
        try:
            for descriptor in (1, 2):
                os.dup2(file, descriptor)
        finally:
            os.close(file)


def describe(error):
    text = str(error).strip()
    name = type(error).__name__
    return (f"{name}: {text}" if text else name)[:LONGEST_ERROR]


def warn(text):
    # Not logging.warning: without a handler it would configure logging before mlx_lm does.
    print(f"mlxctl: warning: {text}", file=sys.stderr, flush=True)
