"""The link to the supervisor: a Unix socket that reports what only the process itself knows, and takes requests.

docs/architecture.md, "The link", describes the messages. Written by mlxctl next to the launcher; changes are
overwritten.
"""

import faulthandler
import json
import os
import socket
import struct
import threading

from launcher_log import Log, describe
from launcher_memory import give_back, in_use

PROTOCOL = 1
LONGEST_REQUEST = 65536  # bytes of one line
LONGEST_SEND = 1000  # microseconds that a client that does not read may hold up a send


class Link:
    """The Unix socket. It never waits for a client: one that does not read is dropped."""

    def __init__(self, path, generation, log):
        self.path = path
        self.log = log
        # Reentrant: a signal may interrupt the main thread while it holds the lock, and its handler sends too.
        self.lock = threading.RLock()
        self.clients = set()
        self.state = {
            "event": "hello",
            "protocol": PROTOCOL,
            "generation": generation,
            "pid": os.getpid(),
            "port": None,
            "thread": "none",
            "error": None,
            "pace": None,  # percent of the time that the model may work, as last requested
        }
        self.mx = None
        self.prompts = None
        self.store = None
        self.pace = None
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        before = os.umask(0o177)
        try:
            self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.listener.bind(path)
        finally:
            os.umask(before)

    def open(self):
        self.listener.listen(16)
        threading.Thread(target=self._accept, name="link", daemon=True).start()

    def tell(self, event=None, **state):
        """Updates what hello reports and pushes `event`, if given, to every client."""
        with self.lock:
            self.state.update(state)
            for client in tuple(self.clients) if event else ():
                self._send(client, event)

    def tell_store(self, facts):
        """Pushes the state of the prompt store to every client now, and to new ones after hello."""
        with self.lock:
            self.store = {"event": "store", **facts}
            self.tell(self.store)

    def close(self):
        """Removes the socket's file, so that the next run finds the path free."""
        try:
            os.unlink(self.path)
        except OSError:
            pass

    def set_pace(self, percent):
        """May be called before there is anything to pace."""
        self.tell(pace=percent)
        if self.pace is not None:
            self.pace.set(percent)

    def _send(self, client, message):
        line = json.dumps(message).encode() + b"\n"
        try:
            if client.send(line, socket.MSG_DONTWAIT) == len(line):
                return True
        except OSError:
            pass
        self.clients.discard(client)
        try:
            client.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        return False

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                # Most likely out of file descriptors: one may be free for the next connection.
                threading.Event().wait(1)
                continue
            never_wait_to_send(client)
            # Under one lock, so that no event is missed between the greeting and the registration.
            with self.lock:
                self.clients.add(client)
                welcome = self._send(client, self.state) and (not self.store or self._send(client, self.store))
            if welcome:
                threading.Thread(target=self._serve, args=(client,), name="link client", daemon=True).start()
            else:
                client.close()

    def _serve(self, client):
        try:
            with client.makefile("rb") as lines:
                while line := lines.readline(LONGEST_REQUEST):
                    reply = self._answer(line)
                    with self.lock:
                        if not self._send(client, reply):
                            return
        except OSError:
            pass
        finally:
            with self.lock:
                self.clients.discard(client)
            client.close()

    def _answer(self, line):
        try:
            request = json.loads(line)
            op = request["op"]
            if op == "memory":
                return {"reply": "memory", **in_use(self.mx)}
            if op == "trim":
                return {"reply": "trim", "freed": give_back(self.mx)}
            if op == "release":
                return {"reply": "release", "freed": give_back(self.mx, self.prompts, self.state["port"])}
            if op == "forget":
                freed = give_back(self.mx, self.prompts, self.state["port"], forget=True)
                return {"reply": "forget", "freed": freed}
            if op == "pace":
                self.set_pace(request["percent"])
                return {"reply": "pace"}
            if op == "reopen_log":
                Log.reopen(self.log)
                return {"reply": "reopen_log"}
            if op == "stacks":
                faulthandler.dump_traceback(file=2, all_threads=True)
                return {"reply": "stacks"}
            return {"reply": "error", "error": f"no such op: {op}"}
        except Exception as error:
            return {"reply": "error", "error": describe(error)}


def never_wait_to_send(client):
    """Bounds each send to LONGEST_SEND; reads still block.

    macOS ignores MSG_DONTWAIT when sending (xnu, bsd/kern/uipc_socket.c): with 8 KiB unread by the client a send would
    block while holding the lock, and SIGTERM, whose handler sends to the clients, would wait as well.
    """
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", 0, LONGEST_SEND))
