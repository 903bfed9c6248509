"""Whether the server works: that it listens, and that its generation thread lives.

Patches threading, socketserver and logging of the standard library, on which mlx_lm/server.py stands. Written by mlxctl
next to the launcher; changes are overwritten.
"""

import logging
import socket
import socketserver
import threading

from launcher_log import LONGEST_ERROR, describe, warn


class Watch:
    """Reports on the link when the server listens, and when its listener or its generation thread ends.

    mlx_lm.server (0.32.2) starts the generation thread from the main thread, not as a daemon, and then listens; the
    threads of requests are daemons. So it is the last non-daemon thread that was started before listening. Its end is
    reported once that is certain, that is, after `listening`.
    """

    def __init__(self, link):
        self.link = link
        self.generation = None
        self.listening = threading.Event()
        self.ending = False
        self.error = None
        # What that thread does last when the server was told to end: arrays belong to the thread that made them.
        self.last = None

    def install(self):
        self._remember_errors()
        self._watch_threads()
        self._watch_listening()

    def _remember_errors(self):
        make_record = logging.getLogRecordFactory()

        def factory(*args, **kwargs):
            record = make_record(*args, **kwargs)
            if record.levelno >= logging.ERROR and threading.current_thread() is self.generation:
                text = record.getMessage()
                if record.exc_info and record.exc_info[0]:
                    text += f" ({record.exc_info[0].__name__})"
                self.error = text[:LONGEST_ERROR]
            return record

        # Not a handler: with one in place mlx_lm's own logging.basicConfig would do nothing.
        logging.setLogRecordFactory(factory)
        excepthook = threading.excepthook

        def remember(args):
            if args.thread is self.generation:
                self.error = describe(args.exc_value or args.exc_type())
            excepthook(args)

        threading.excepthook = remember

    def _watch_threads(self):
        start = threading.Thread.start

        def noted(thread):
            candidate = threading.current_thread() is threading.main_thread() and not thread.daemon
            if not candidate or self.listening.is_set():
                return start(thread)
            self.generation = thread
            self.error = None
            self.link.tell(thread="alive")
            run = thread.run

            def run_to_the_last():
                run()
                if self.ending and self.last is not None:
                    self.last()

            thread.run = run_to_the_last
            start(thread)
            threading.Thread(target=self._join, args=(thread,), name="generation watch", daemon=True).start()

        threading.Thread.start = noted

    def _join(self, thread):
        self.listening.wait()
        thread.join()
        if thread is self.generation and not self.ending:
            error = self.error or "the generation thread ended and logged nothing"
            self.link.tell({"event": "thread_died", "error": error}, thread="dead", error=error)

    def _watch_listening(self):
        activate = socketserver.TCPServer.server_activate

        def server_activate(server):
            activate(server)
            if self.listening.is_set():
                return
            if self.generation is None:
                warn("this mlx-lm starts no generation thread that can be watched")
            port = server.server_address[1]
            tell_closing(server.socket, self._closed)
            self.link.tell({"event": "listening", "port": port}, port=port)
            self.listening.set()

        socketserver.TCPServer.server_activate = server_activate
        # The kernel queues a burst of connections instead of refusing it (the default is 5).
        socketserver.TCPServer.request_queue_size = 128
        # http.server asks the resolver for its own name before it listens: seconds when DNS is slow or away.
        socket.getfqdn = lambda name="": name or "localhost"

    def _closed(self):
        if not self.ending:
            self.link.tell({"event": "listener_closed"})


def tell_closing(listener, told):
    """Calls `told` when this socket stops listening; the server's loop would not notice."""

    class Listener(type(listener)):
        __slots__ = ()

        def close(self):
            super().close()
            told()

        def shutdown(self, how):
            super().shutdown(how)
            told()

        def detach(self):
            descriptor = super().detach()
            told()
            return descriptor

    try:
        listener.__class__ = Listener
    except TypeError:
        warn("this Python's sockets cannot be watched; a listener that is lost is found by the next check")
