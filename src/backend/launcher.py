"""Starts mlx_lm.server inside a backend and tells, on a Unix socket, what only the inside knows.

    python launcher.py <spec.json> <arguments of mlx_lm.server ...>

Written by mlxctl, with the two files beside it; changes are overwritten. It stands on public interfaces: the standard
library, mlx.core and runpy. What it changes of mlx_lm it changes only where that looks as expected.
"""

import ctypes
import faulthandler
import functools
import gc
import hmac
import http.client
import http.server
import importlib
import importlib.util
import inspect
import io
import json
import logging
import os
import queue
import runpy
import signal
import socket
import socketserver
import struct
import sys
import threading
import time
import traceback
import weakref

PROTOCOL = 1
SECRET_HEADER = "x-mlxctl-secret"
DEFAULT_MODEL = "default_model"  # what mlx_lm.server calls the model that it was started with
# What mlx.launch and mpirun tell a rank.
RANK_VARIABLES = ("MLX_RANK", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK")
LONGEST_REQUEST = 65536  # bytes of one line on the link
LONGEST_ERROR = 4000  # characters of an error that is told
LONGEST_SEND = 1000  # microseconds that a client who does not read may hold up a send
LOOK = 0.25  # seconds between two looks at a client
PROOF_TIME = 5.0  # seconds in which a connection has to show the secret
UNPROVEN = 256  # connections that have not shown it, at once
QUIET = 10.0  # seconds that a stream is silent, at most, while tokens come
FOLLOW = 64  # tokens of an answer between two looks at what is kept
ONE_TOKEN = 20  # seconds that one token may take when kept prompts are given up
STORING = 100  # seconds more, where they are written to disk before
SETTLING = 1.0  # seconds at most until what a batch held is free, after its answer
LAST_WRITES = 8  # seconds after SIGTERM in which another kept prompt may be begun


class Log(io.RawIOBase):
    """stdout and stderr. What cannot be written is lost: a full disk costs lines of the log, never an answer."""

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
        # By lines, so that a line is one write and never lies in two files.
        sys.stdout, sys.stderr = (
            io.TextIOWrapper(Log(descriptor), "utf-8", "backslashreplace", line_buffering=True)
            for descriptor in (1, 2)
        )

    @staticmethod
    def reopen(path):
        """Goes on in a new file, after the old one was moved away."""
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
        try:
            for descriptor in (1, 2):
                os.dup2(file, descriptor)
        finally:
            os.close(file)


class Link:
    """The Unix socket. Nothing here waits for a client: whoever does not read is dropped."""

    def __init__(self, path, generation, log):
        self.path = path
        self.log = log
        # Reentrant, for a signal may interrupt the main thread while it holds it.
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
            "pace": None,  # percent of the time that the model may work, as it was last asked for
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
        """Changes what hello says and pushes `event`, if there is one, to every client."""
        with self.lock:
            self.state.update(state)
            for client in tuple(self.clients) if event else ():
                self._send(client, event)

    def tell_store(self, facts):
        """What the store of kept prompts holds: to every client now, and to each that comes."""
        with self.lock:
            self.store = {"event": "store", **facts}
            self.tell(self.store)

    def close(self):
        """Takes the socket's file away, so that the next run finds the place free."""
        try:
            os.unlink(self.path)
        except OSError:
            pass

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
                # Out of file descriptors, most likely: the next connection may find one.
                threading.Event().wait(1)
                continue
            never_wait_to_send(client)
            # Greeting and registering are one step, so that no event falls between them.
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
                return {"reply": "memory", **self._memory()}
            if op == "trim":
                return {"reply": "trim", "freed": self._give_back()}
            if op == "release":
                return {"reply": "release", "freed": self._give_back(self.prompts)}
            if op == "forget":
                freed = self._give_back(self.prompts, forget=True)
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

    def set_pace(self, percent):
        """May come before there is anything to pace."""
        self.tell(pace=percent)
        if self.pace is not None:
            self.pace.set(percent)

    def _give_back(self, prompts=None, forget=False):
        """Bytes that MLX holds less than before."""
        if self.mx is None:
            return 0
        before = self._memory()
        if prompts and self.state["port"]:
            prompts.release(self.state["port"], forget)
        self.mx.clear_cache()
        after = self._memory()
        # The generation thread lets go of the batch only after its client, this one, has the answer.
        deadline = time.monotonic() + SETTLING
        while prompts and time.monotonic() < deadline:
            time.sleep(SETTLING / 20)
            self.mx.clear_cache()
            seen, after = after, self._memory()
            if seen == after:
                break
        shrink_heap()
        return max(0, before["active"] + before["cache"] - after["active"] - after["cache"])

    def _memory(self):
        mx = self.mx
        if mx is None:
            return {"active": None, "cache": None, "peak": None}
        return {"active": mx.get_active_memory(), "cache": mx.get_cache_memory(), "peak": mx.get_peak_memory()}


def never_wait_to_send(client):
    """macOS ignores MSG_DONTWAIT when sending (xnu, bsd/kern/uipc_socket.c): with 8 KiB unread by the client a send would
    block, the lock with it, and SIGTERM, whose handler tells the clients, would be waiting too. Reads go on blocking.
    """
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", 0, LONGEST_SEND))


def describe(error):
    text = str(error).strip()
    name = type(error).__name__
    return (f"{name}: {text}" if text else name)[:LONGEST_ERROR]


def warn(text):
    # Not logging.warning: without a handler it would configure logging before mlx_lm does.
    print(f"mlxctl: warning: {text}", file=sys.stderr, flush=True)


class Unproven:
    """Connections that have not shown the secret yet. Any user of this machine can open one and each takes a thread, so
    they get little time, and the oldest one ends where there are too many. The gate shows the secret at once."""

    def __init__(self):
        self.changed = threading.Condition()
        self.deadlines = {}  # by socket, the oldest first

    def install(self):
        verify, shutdown = socketserver.TCPServer.verify_request, socketserver.TCPServer.shutdown_request

        def verify_request(server, request, address):
            self.add(request)
            return verify(server, request, address)

        def shutdown_request(server, request):
            self.remove(request)
            shutdown(server, request)

        socketserver.TCPServer.verify_request = verify_request
        socketserver.TCPServer.shutdown_request = shutdown_request
        threading.Thread(target=self._end_late_ones, name="unproven", daemon=True).start()

    def add(self, connection):
        with self.changed:
            self.deadlines[connection] = time.monotonic() + PROOF_TIME
            if len(self.deadlines) > UNPROVEN:
                self._end(next(iter(self.deadlines)))
            elif len(self.deadlines) == 1:
                self.changed.notify()

    def remove(self, connection):
        with self.changed:
            self.deadlines.pop(connection, None)

    def _end(self, connection):
        del self.deadlines[connection]
        try:
            # Its thread, which waits for a line, then reads the end.
            connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def _end_late_ones(self):
        with self.changed:
            while True:
                now = time.monotonic()
                oldest = next(iter(self.deadlines), None)
                if oldest is None:
                    self.changed.wait()
                elif self.deadlines[oldest] <= now:
                    self._end(oldest)
                else:
                    self.changed.wait(self.deadlines[oldest] - now)


def beside(name):
    """A file of the launcher's own folder, as a module. By its path: PYTHONSAFEPATH keeps Python from looking for modules
    there. That folder holds no compiled files."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), f"{name}.py")
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        spec.loader.exec_module(module)
        return module
    finally:
        sys.dont_write_bytecode = before


def guard_requests(secret):
    """Answers 403 to every request without the secret."""
    expected = secret.encode()
    original = http.server.BaseHTTPRequestHandler.parse_request
    unproven = Unproven()
    unproven.install()

    def parse_request(self):
        if not original(self):
            return False
        given = str(self.headers.get(SECRET_HEADER, "")).encode("utf-8", "replace")
        if hmac.compare_digest(given, expected):
            unproven.remove(self.connection)
            return True
        self.close_connection = True
        body = b'{"error": "not for you"}'
        self.send_response_only(403)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        return False

    http.server.BaseHTTPRequestHandler.parse_request = parse_request
    log_request = http.server.BaseHTTPRequestHandler.log_request

    def quieter(self, *args, **kwargs):
        # A line a probe would be most of the log of a model that idles for weeks.
        if getattr(self, "path", None) != "/health":
            log_request(self, *args, **kwargs)

    http.server.BaseHTTPRequestHandler.log_request = quieter


def answer_by_name(name):
    """Answers call the model what the registry calls it. mlx_lm.server repeats what the request calls it, from an
    attribute of its handler: the gate's requests call it default_model. When an answer begins, the model is chosen."""
    original = http.server.BaseHTTPRequestHandler.send_response

    def send_response(self, *args, **kwargs):
        if getattr(self, "requested_model", None) == DEFAULT_MODEL:
            self.requested_model = name
        original(self, *args, **kwargs)

    http.server.BaseHTTPRequestHandler.send_response = send_response


class Refused(BaseException):
    """Passes through mlx_lm.server's `except Exception`, which would make a 404 of it."""

    def __init__(self, why):
        self.why = why
        super().__init__(str(why))


class Answer:
    """One answer under way. It stands in for `wfile` meanwhile, and looks after the client between two tokens.

    mlx_lm.server notices that a client has left when a write fails: never in a plain answer, and in a stream not while
    there are tokens without text (of a tool call, of half a character). It would compute for nobody, and say nothing
    that tells it from a server that hangs. Its request threads take each token from a queue.Queue; there it is looked
    to. An exception there ends the generation, as that of a failed write does.
    """

    here = threading.local()
    serving = None  # the module beside, once it is there

    def __init__(self, handler):
        self.handler, self.wire = handler, handler.wfile
        # From the head on an exception stops the generation; before, nobody would.
        self.begun = self.stream = self.sent = self.came = False
        self.context, self.tokens = None, 0
        self.looked = self.spoke = time.monotonic()

    def __getattr__(self, name):
        return getattr(self.wire, name)

    def write(self, data):
        self.spoke, self.sent, self.came = time.monotonic(), True, False
        if self.stream and data == b"data: [DONE]\n\n" and self.context is not None:
            # A comment, which clients skip and the gate counts by.
            prompt, cached, answer = self.usage()
            self.wire.write(f": usage {prompt} {cached} {answer}\n\n".encode())
        return self.wire.write(data)

    def took(self, item):
        """Sees what the generation says to this request: first its context, then a token a time, or why there is none."""
        self.came = True
        if self.serving is None:
            return
        if isinstance(item, self.serving.TooLong):
            raise Refused(item)
        if hasattr(item, "prompt_cache_count"):
            self.context = item
        elif hasattr(item, "finish_reason"):
            self.tokens += 1

    def usage(self):
        """Tokens of the prompt, of those the ones that were cached, and of the answer."""
        return len(self.context.prompt), max(0, self.context.prompt_cache_count), self.tokens

    def refuse(self, body):
        """The server would answer 404 with a text."""
        text = json.dumps(body).encode()
        head = f"HTTP/1.0 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n"
        self.write(head.encode() + text)

    def look(self):
        now = time.monotonic()
        if not self.begun or now - self.looked < LOOK:
            return
        self.looked = now
        if self._client_left():
            raise ConnectionAbortedError("the client has left")
        # Only if something came: a generation that hangs is not to look alive.
        if self.stream and self.came and now - self.spoke >= QUIET:
            self.write(b": keepalive\n\n")

    def _client_left(self):
        try:
            return not self.handler.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def fail(self, error):
        """Says that there will be no answer, where mlx_lm.server would only close the connection."""
        text = describe(error)
        if self.stream and self.sent:
            event = {"error": {"message": text, "type": "server_error", "code": "model_server_error"}}
            self.write(f"data: {json.dumps(event)}\n\ndata: [DONE]\n\n".encode())
        elif not self.sent:
            body = json.dumps({"error": text}).encode()
            head = f"HTTP/1.0 500 Error\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            self.write(head.encode() + body)

    @classmethod
    def install(cls):
        handler = http.server.BaseHTTPRequestHandler
        handle, send_response, send_header = handler.handle_one_request, handler.send_response, handler.send_header
        get = queue.Queue.get

        def handle_one_request(self):
            answer = cls.here.answer = self.wfile = cls(self)
            try:
                handle(self)
            except ConnectionError:
                self.close_connection = True
            except Refused as refused:
                self.close_connection = True
                try:
                    answer.refuse(refused.why.body())
                except OSError:
                    pass
            except Exception as error:
                self.close_connection = True
                traceback.print_exc()
                try:
                    answer.fail(error)
                except OSError:
                    pass
            finally:
                cls.here.answer, self.wfile = None, answer.wire

        def noted_response(self, *args, **kwargs):
            send_response(self, *args, **kwargs)
            self.wfile.begun = True

        def noted_header(self, keyword, value):
            send_header(self, keyword, value)
            if keyword.lower() == "content-type" and value.startswith("text/event-stream"):
                self.wfile.stream = True

        def attended_get(self, block=True, timeout=None):
            answer = getattr(cls.here, "answer", None)
            if answer is None:
                return get(self, block, timeout)
            answer.look()
            item = get(self, block, timeout)
            answer.took(item)
            return item

        handler.handle_one_request = handle_one_request
        handler.send_response, handler.send_header = noted_response, noted_header
        queue.Queue.get = attended_get


class Watch:
    """Watches for the two things that make a server: it listens, and its generation thread lives.

    mlx_lm starts the generation thread from the main thread, not as a daemon, and then listens; the threads of
    requests are daemons. So the last thread of that kind that was started before listening is the one. Its end is
    told once it is known to be the one, that is, after `listening`.
    """

    def __init__(self, link):
        self.link = link
        self.generation = None
        self.listening = threading.Event()
        self.ending = False
        self.error = None
        # What that thread does last, when the server was told to end: arrays belong to the thread that made them.
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
        # A burst of connections is queued by the kernel, not refused (the default is 5).
        socketserver.TCPServer.request_queue_size = 128
        # http.server asks the resolver for its own name before it listens: seconds where DNS is slow or away.
        socket.getfqdn = lambda name="": name or "localhost"

    def _closed(self):
        if not self.ending:
            self.link.tell({"event": "listener_closed"})


def tell_closing(listener, told):
    """Calls `told` when this socket no longer listens. Without it the server's loop goes on as if nothing had been."""

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


def stay_alone():
    """mlx_lm.server asks MLX whether it is one of several, and MLX then loads any MPI that is installed, which ends a
    process that nobody started as a rank when it finds no way to start its daemon. MLX takes the library's name from
    this variable; one that does not exist counts as no MPI."""
    if not any(name in os.environ for name in RANK_VARIABLES):
        os.environ.setdefault("MLX_MPI_LIBNAME", "none")


def shrink_heap():
    """glibc keeps what small arrays leave behind (malloc_trim(3)); other systems' allocators need no telling."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):
        pass


def shrink_heap_with_cache(mx):
    """On a CPU, MLX's buffers come from malloc: where mlx_lm has MLX give freed ones back, which it does after every
    step of a prefill, the heap follows."""
    if sys.platform != "linux" or mx.default_device().type != mx.cpu:
        return
    clear = mx.clear_cache

    def clear_cache():
        clear()
        shrink_heap()

    mx.clear_cache = clear_cache


def limit_wired(mx, rule):
    """mlx_lm sets the wired limit when the server starts and for each batch generator; what is pinned under concurrent
    requests while prompts are evicted has brought down whole Macs ("prepare count underflow", mlx 3186, mlx-lm 1666).

    "off": never set. "weights": set once, to what is in memory when the generation thread makes its first generator.
    "default": as mlx_lm likes. Whoever sets it is told the limit of before, as by MLX.
    """
    if rule == "default":
        return
    set_limit = getattr(mx, "set_wired_limit", None)
    if set_limit is None:
        warn("this MLX has no mx.set_wired_limit; memory.wired changes nothing")
        return
    pinned = 0

    def set_wired_limit(limit):
        nonlocal pinned
        # The main thread asks when the server starts, before any weights are in memory.
        loaded = threading.current_thread() is not threading.main_thread()
        if rule == "weights" and loaded and not pinned and (weights := mx.get_active_memory()):
            pinned = min(limit, weights)
            set_limit(pinned)
        return pinned

    mx.set_wired_limit = set_wired_limit


class Prompts:
    """The server's caches of prompts: bounded in bytes, and given up when asked."""

    def __init__(self, secret, keeper=None):
        self.secret = secret
        self.caches = weakref.WeakSet()
        self.keeper = keeper

    def install(self, limit):
        """mlx_lm.server makes its prompt cache without a byte bound; the default of its class is the one way in."""
        from mlx_lm.models.cache import LRUPromptCache

        make = LRUPromptCache.__init__
        defaults = make.__defaults__
        expected = ["self", "max_size", "max_bytes"]
        if list(inspect.signature(make).parameters) != expected or len(defaults or ()) != 2 or not isinstance(defaults[1], int):
            warn("the prompt cache of this mlx-lm is not as known; it stays unbounded and is never given up")
            return
        if limit is not None:
            make.__defaults__ = (defaults[0], limit)

        @functools.wraps(make)
        def noted(cache, *args, **kwargs):
            make(cache, *args, **kwargs)
            self.caches.add(cache)

        LRUPromptCache.__init__ = noted

    def release(self, port, forget=False):
        """Has the server complete one token while nothing may be kept.

        Its own thread writes what is kept to the store and empties the caches then, and lets go of the last batch,
        which no interface reaches: the batch stays in memory until the next request takes its place. With `forget`
        nothing is written, and the store is emptied.
        """
        bounds = [(cache, cache.max_bytes) for cache in self.caches]
        if bounds:
            self._one_token(port, bounds, ONE_TOKEN if self.keeper is None else ONE_TOKEN + STORING, not forget)
        if self.keeper is not None and forget:
            self.keeper.forget()

    def _one_token(self, port, bounds, timeout, store):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
        try:
            if self.keeper is not None:
                self.keeper.leaving = store
            for cache, _ in bounds:
                cache.max_bytes = 0
            headers = {"Content-Type": "application/json", SECRET_HEADER: self.secret}
            connection.request("POST", "/v1/completions", '{"prompt": "a", "max_tokens": 1}', headers)
            connection.getresponse().read()
        finally:
            if self.keeper is not None:
                self.keeper.leaving = False
            for cache, bound in bounds:
                cache.max_bytes = bound
            connection.close()

    def store_the_last(self):
        """At the end of the generation thread, in it."""
        if self.keeper is not None:
            self.keeper.write_all(time.monotonic() + LAST_WRITES)


def leave_a_token():
    """A prompt that is just what the prompt cache holds, as when a client has an answer continued, leaves nothing to
    process, and the generation thread dies of the empty rest (mlx-lm 0.32.2). One token is left over instead."""
    from mlx_lm.models import cache

    names = ["LRUPromptCache", "can_trim_prompt_cache", "trim_prompt_cache"]
    fetch = getattr(getattr(cache, "LRUPromptCache", None), "fetch_nearest_cache", None)
    if fetch is None or not all(hasattr(cache, name) for name in names):
        warn("the prompt cache of this mlx-lm is not as known; a continued answer may end the generation thread")
        return

    def fetch_with_rest(self, model, tokens):
        found, rest = fetch(self, model, tokens)
        if found is None or len(rest) > 0 or len(tokens) == 0:
            return found, rest
        if cache.can_trim_prompt_cache(found) and cache.trim_prompt_cache(found, 1) == 1:
            return found, tokens[-1:]
        return None, tokens

    cache.LRUPromptCache.fetch_nearest_cache = fetch_with_rest


class Room:
    """Kept prompts and the working set of a prefill share one room, and each takes what it needs while it needs it.

    Between requests the room is for what is kept. Before a prompt is processed, as much of that is given up, oldest
    first, as the smallest steps need, and more while the answer grows; steps are as large as what is left allows. The
    table of the spec says what steps take. Everything here runs in the generation thread, which owns the caches.
    """

    def __init__(self, table, limit):
        self.table, self.limit = table, limit
        self.prompts = []  # in flight, at most as many as there are requests at once
        self.generated = 0  # tokens since the last of them began, at most
        self.followed = False  # whether the length of answers is known
        self.cache = None
        self.trim_to = None  # mlx_lm's own

    def takes(self, tokens, step):
        """Bytes of the sequences in flight and of a step of `step` tokens that ends at `tokens`."""
        rows, steps = self.table["rows"], self.table["steps"]
        row = next((row for row in rows if row["tokens"] >= tokens), rows[-1])
        column = next((number for number, size in enumerate(steps) if size >= step), len(steps) - 1)
        return row["bytes"][column]

    def step(self, tokens):
        """The step to take after `tokens` tokens."""
        least = self.table["least"]
        free = self.table["bytes"] - (self.cache.nbytes if self.cache is not None else 0)
        able = [size for size in self.table["steps"] if size > least and self.takes(tokens + size, size) <= free]
        return max(able, default=least)

    def begin(self, cache, prompt, rest):
        """A prompt is about to be processed, all but `rest` tokens of which were kept."""
        self.cache = cache
        if cache.max_bytes == 0:
            return  # nothing may be kept now
        self.prompts = [*self.prompts, prompt][-self.table["concurrency"] :]
        self.generated = 0
        if self.followed:
            self.leave(self.takes(len(prompt), min(rest, self.table["least"])))
        else:
            self.leave_all()

    def make_way(self, cache, prompt, size):
        """Makes room for a kept prompt of `size` bytes that is read back from disk. False: it must not be.

        It is there beside the copy that the batch makes of it, as if it were kept, until the first step."""
        if cache.max_bytes == 0 or size > self.limit:
            return False
        self.cache = cache
        self.leave(size + self.takes(len(prompt), 1))
        return True

    def grow(self):
        """One more token, or one more step of a prompt."""
        self.generated += 1
        if self.generated % FOLLOW == 0 and self.prompts:
            self.leave(self.takes(len(self.prompts[-1]) + self.generated + FOLLOW, 1))

    def leave_all(self):
        """Room for the longest prompt, whatever the one in flight is."""
        self.leave(self.takes(self.table["rows"][-1]["tokens"], self.table["least"]))

    def leave(self, taken):
        cache = self.cache
        if cache is not None and cache.max_bytes != 0:
            cache.max_bytes = max(1, min(self.limit, self.table["bytes"] - taken))
            self.trim_to(cache, n_bytes=cache.max_bytes)

    def end(self, cache, tokens):
        """A request is over: all of it is kept from now on."""
        self.prompts = [prompt for prompt in self.prompts if prompt[: len(tokens)] != tokens[: len(prompt)]]
        if not self.prompts and cache.max_bytes != 0:
            cache.max_bytes = self.limit

    def follow(self):
        # Not `from mlx_lm import`: the package has a function of that name.
        generate = importlib.import_module("mlx_lm.generate")
        names = ("BatchGenerator", "PromptProcessingBatch")
        batches = [getattr(generate, name, None) for name in names]
        known = [batch and "prefill_step_size" in inspect.signature(batch.__init__).parameters for batch in batches]
        if not all(known):
            warn("the batches of this mlx-lm are not as known; fewer prompts are kept, and steps are the smallest")
            return
        generator, processing = batches

        def step(batches):
            # Until it has a batch, and in a version that keeps it elsewhere, the smallest step is right.
            tokens = getattr(getattr(batches, "_prompt_batch", None), "tokens", None)
            return self.table["least"] if tokens is None else self.step(max(map(len, tokens), default=0))

        most = max(self.table["steps"])
        generator.prefill_step_size = property(step, lambda batches, given: None)
        # It is given one step at a time.
        processing.prefill_step_size = property(lambda batch: most, lambda batch, given: None)
        following, alone = generator.next, generate.stream_generate

        @functools.wraps(following)
        def grown_next(batches):
            self.grow()
            return following(batches)

        @functools.wraps(alone)
        def generate_alone(*args, **kwargs):
            # What is not batched (a seed, a draft model, quantised caches) is not followed.
            self.leave_all()
            return alone(*args, **kwargs)

        generator.next, generate.stream_generate = grown_next, generate_alone
        self.followed = True


def keep_prompts_alone(room, keeper=None):
    """A cache that is kept is the only one of its prompt, and is counted at what it takes.

    mlx_lm.server (0.32.2) holds on to the cache that it kept last until the next request, also when it was pushed out
    since; and what it keeps are slices to be computed from the arrays of the whole batch, which stay for as long.
    With `room`, prompts also make way for a prefill, and for what `keeper` reads back from disk.
    """
    from mlx_lm.models import cache as caches

    known = getattr(caches, "LRUPromptCache", None)
    insert, fetch = getattr(known, "insert_cache", None), getattr(known, "fetch_nearest_cache", None)
    if insert is None or fetch is None or not hasattr(known, "trim_to") or not hasattr(known, "nbytes"):
        warn("the prompt cache of this mlx-lm is not as known; it may hold more than is promised")
        return
    import mlx.core as mx

    on_cpu = mx.default_device().type == mx.cpu

    sliding = getattr(caches, "RotatingKVCache", None)

    def cut(layer):
        """A sliding cache holds a whole step of the prompt beyond its window, which nobody reads again."""
        for part in getattr(layer, "caches", ()):
            cut(part)
        if type(layer) is not sliding or layer.keys is None or layer.keep != 0:
            return
        rows, window = layer.keys.shape[2], layer.max_size
        if rows == layer._idx and rows > window:
            layer.keys, layer.values = (mx.contiguous(part[..., -window:, :]) for part in (layer.keys, layer.values))
            layer._idx = window

    def insert_alone(self, model, tokens, prompt_cache, **kinds):
        if room and kinds.get("cache_type", "assistant") == "assistant":
            room.end(self, tokens)
        kept = list(prompt_cache)
        prompt_cache.clear()
        for layer in kept:
            cut(layer)
        size = sum(layer.nbytes for layer in kept)
        # What is over the bound would push out all others before it goes itself.
        if size > self.max_bytes > 0:
            return
        insert(self, model, tokens, kept, **kinds)
        if size <= self.max_bytes:
            mx.eval([layer.state for layer in kept])
        if on_cpu:
            # The arrays of the batch are free now, and malloc keeps them unless it is told.
            mx.clear_cache()

    def fetch_with_room(self, model, tokens):
        found, rest = fetch(self, model, tokens)
        room.begin(self, tokens, len(rest))
        return found, rest

    known.insert_cache = insert_alone
    if room:
        known.fetch_nearest_cache = fetch_with_room
        # The server gives up what is kept beside a batch of more than half the bound. There is room for both, and a turn
        # that its client ends early would leave nothing of the conversation.
        room.trim_to = known.trim_to
        known.trim_to = lambda cache, **bounds: None
        if keeper is not None:
            keeper.make_way = room.make_way
        room.follow()


def change_server(spec):
    """What needs mlx_lm's own modules."""
    serving, context = beside("serving"), spec.get("context")
    Answer.serving = serving
    try:
        held = context is None or serving.exact_context(context)
    except (ImportError, AttributeError, TypeError, ValueError):
        held = False
    if not held:
        warn("this mlx-lm tokenizes in another way than is known; the context is held by an estimate only")
    try:
        shared = serving.alone_without_copies()
    except (ImportError, AttributeError, TypeError, ValueError):
        shared = False
    if not shared:
        warn("the batches of this mlx-lm are not as known; a conversation is copied before its first token")


def follow_pace(link, mx):
    """The model works only part of the time, where the link asks for it."""
    module = beside("pace")
    try:
        pace = module.Pace(mx.synchronize)
        followed = pace.install(mx)
    except (ImportError, AttributeError, TypeError, ValueError):
        followed = False
    if not followed:
        warn("this mlx-lm generates in another way than is known; memory.pace changes nothing")
        return
    link.pace = pace
    link.set_pace(link.state["pace"])


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        spec = json.load(file)
    Log.install()
    link = Link(spec["link"], spec["generation"], spec.get("log"))
    watch = Watch(link)

    tied = spec.get("tied", False)
    exit_code = 0

    def end(code, error=None):
        nonlocal exit_code
        watch.ending, exit_code = True, code
        link.tell({"event": "exiting", "code": code, "error": error})
        link.close()
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError, RuntimeError):
                pass
        # Not sys.exit: that waits for the generation thread, which after a failed bind never ends.
        os._exit(code)

    def on_term(_signal, _frame):
        if watch.ending:
            link.close()
            os._exit(exit_code)
        if tied or not watch.listening.is_set():
            # A rank's peers may be gone: whoever waits for the generation thread may wait for ever. Otherwise, there is nothing to tear down yet, and an import may well swallow a KeyboardInterrupt.
            end(0)
        watch.ending = True
        # What is under way has to end soon.
        link.set_pace(None)
        raise KeyboardInterrupt

    def end_with_the_keeper():
        """The other end of the standard input is held by whoever started this rank."""
        while os.read(0, 4096):
            pass
        os._exit(1)

    faulthandler.enable(2)
    if tied:
        threading.Thread(target=end_with_the_keeper, name="tie", daemon=True).start()
    signal.signal(signal.SIGTERM, on_term)
    signal.signal(signal.SIGINT, on_term)
    link.open()
    try:
        guard_requests(spec["secret"])
        if spec.get("model"):
            answer_by_name(spec["model"])
        Answer.install()
        watch.install()
        stay_alone()
        import mlx.core as mx

        shrink_heap_with_cache(mx)
        limit_wired(mx, spec.get("wired", "off"))
        if spec.get("cache_limit") is not None:
            mx.set_cache_limit(spec["cache_limit"])
        keeper = None
        if (spec.get("prompt_store") or {}).get("bytes"):
            keeper = beside("prompt_store").install(spec["prompt_store"], sys.argv[2:], mx, warn, link.tell_store)
        prompts = Prompts(spec["secret"], keeper)
        prompts.install(spec.get("prompt_cache_bytes"))
        link.mx, link.prompts = mx, prompts
        watch.last = prompts.store_the_last
        leave_a_token()
        room, limit = spec.get("room"), spec.get("prompt_cache_bytes")
        keep_prompts_alone(Room(room, limit) if room and limit is not None else None, keeper)
        follow_pace(link, mx)
        change_server(spec)
        sys.argv = ["mlx_lm", "server", *sys.argv[2:]]
        runpy.run_module("mlx_lm", run_name="__main__", alter_sys=True)
        # The server is gone and with it the last references: weights go back to the system before the process does.
        gc.collect()
        mx.clear_cache()
        code, error = 0, None
    except KeyboardInterrupt:
        code, error = 0, None
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        error = f"mlx_lm.server refused to start (exit code {code})" if code else None
    except BaseException as failure:
        traceback.print_exc()
        code, error = 1, describe(failure)
    end(code, error)


if __name__ == "__main__":
    main()
