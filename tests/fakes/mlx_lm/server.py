"""A stand-in for mlx_lm.server with faults that cannot be provoked at will in the real one.

Built like the real one (0.32.2): a non-daemon generation thread, a ThreadingHTTPServer, HTTP/1.0, one connection per
request, 404 for every failure. It runs inside the real launcher, in place of the installed module, when this folder is
first on PYTHONPATH. `--fault NAME[=VALUE]`, any number of times:

  load=SECONDS       takes this long to load (meanwhile it listens and answers /health with 200)
  load-fails=TEXT    the generation thread ends while it loads
  no-listener        never binds its port
  exit=CODE          ends at once
  crash-once=FILE    ends at once, unless FILE exists; creates FILE
  ignore-term        SIGTERM does nothing
  abort-on-int       aborts on what the launcher turns SIGTERM into
  grandchild         leaves a child behind in its process group
  forks[=group]      leaves forked children behind, with its own arguments: one in its group and, without `=group`,
                     one in a session of its own, which outlives every stop
  grow=BYTES         allocates this much memory per second
  token=SECONDS      time between two tokens
  tokens=N           the most tokens in an answer
  die-at=N           the process ends before token N of an answer
  hang-at=N          no progress from token N of an answer on
  thread-dies-at=N   the generation thread ends before token N of an answer
  chatter=LINES      writes this many numbered lines of 1000 bytes to its log, over some time
  lose-listener=S    closes its port S seconds after it was ready
  lose-descriptor=S  the same, unnoticed by Python's sockets
  stranger=ANSWER    half a second after it was ready another process has its port, which answers with this status, or
                     with `nothing`, or with `garbage`
  garbage            answers completions with something that is not HTTP
"""

import argparse
import json
import logging
import os
import pathlib
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Faults(dict):
    def number(self, name, default=0.0):
        return float(self.get(name, default))


class Generator:
    def __init__(self, faults):
        self.faults = faults
        self.requests = queue.Queue()
        self.failed = False
        self.stop = False
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        try:
            time.sleep(self.faults.number("load"))
            if "load-fails" in self.faults:
                raise RuntimeError(self.faults["load-fails"])
            while not self.stop:
                try:
                    answer, tokens = self.requests.get(timeout=0.1)
                except queue.Empty:
                    continue
                self.generate(answer, tokens)
        except Exception as error:
            logging.exception(f"mlx_lm.server generation thread died: {error}")
            self.failed = True

    def generate(self, answer, tokens):
        for n in range(1, tokens + 1):
            # A readiness check asks for one token: faults of long answers begin with the second.
            if tokens > 1:
                if self.faults.get("die-at") == str(n):
                    os._exit(7)
                if self.faults.get("hang-at") == str(n):
                    while True:
                        time.sleep(3600)
                if self.faults.get("thread-dies-at") == str(n):
                    raise RuntimeError("[metal::malloc] Resource limit (499000) exceeded.")
            time.sleep(self.faults.number("token"))
            answer.put(f"t{n} ")
        answer.put(None)

    def alive(self):
        return self.thread.is_alive() and not self.failed


class Handler(BaseHTTPRequestHandler):
    def __init__(self, generator, *args):
        self.generator = generator
        super().__init__(*args)

    def log_message(self, *args):
        pass

    def reply(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        if self.path == "/health":
            alive = self.generator.alive()
            self.reply(200 if alive else 503, {"status": "ok" if alive else "unavailable"})
        else:
            self.reply(200, {"object": "list", "data": []})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if "garbage" in self.generator.faults:
            self.wfile.write(b"\x00\x01 no HTTP at all\n")
            return
        tokens = min(body.get("max_tokens", 16), int(self.generator.faults.number("tokens", 16)))
        answer = queue.Queue()
        if not self.generator.alive():
            return self.reply(404, {"error": "generation thread died"})
        self.generator.requests.put((answer, tokens))
        chat = self.path.endswith("chat/completions")
        if body.get("stream"):
            self.stream(answer, chat)
        else:
            text = "".join(self.pieces(answer))
            choice = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
            choice |= {"index": 0, "finish_reason": "length"}
            usage = {"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": tokens + 1}
            self.reply(200, {"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage})

    def pieces(self, answer):
        while True:
            try:
                piece = answer.get(timeout=1.0)
            except queue.Empty:
                if not self.generator.alive():
                    raise RuntimeError("generation thread died")
                continue
            if piece is None:
                return
            yield piece

    def stream(self, answer, chat):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for piece in self.pieces(answer):
            choice = {"delta": {"content": piece}} if chat else {"text": piece}
            choice |= {"index": 0, "finish_reason": None}
            chunk = {"id": "x", "object": "chat.completion.chunk", "choices": [choice]}
            self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
            self.wfile.flush()
        self.wfile.write(b"data: [DONE]\n\n")


def fork(then):
    """A child that runs no other program and outlives its parent."""
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        then()
        while True:
            time.sleep(60)


def chatter(lines):
    for n in range(lines):
        print(f"line {n} ".ljust(999, "."), file=sys.stderr if n % 2 else sys.stdout)
        if n % 100 == 99:
            time.sleep(0.09)


def grow(bytes_a_second):
    held = []
    while True:
        block = bytearray(int(bytes_a_second / 10))
        block[::4096] = b"x" * len(block[::4096])
        held.append(block)
        time.sleep(0.1)


def lose_descriptor(listener):
    other, _ = socket.socketpair()
    os.dup2(other.fileno(), listener.fileno())


def let_in(listener, answer):
    """Gives the listening socket to a process in a session of its own, which ends with this one."""
    program = pathlib.Path(__file__).with_name("stranger.py")
    # Its other end stays open while this process lives.
    lifeline, _ = os.pipe()
    stranger = subprocess.Popen(
        [sys.executable, program, str(listener.fileno()), answer],
        stdin=lifeline,
        stdout=subprocess.PIPE,
        pass_fds=[listener.fileno()],
        start_new_session=True,
    )
    os.close(lifeline)
    stranger.stdout.readline()
    lose_descriptor(listener)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--fault", action="append", default=[])
    options, _ = parser.parse_known_args()
    faults = Faults(fault.partition("=")[::2] for fault in options.fault)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s - %(levelname)s - %(message)s")
    if "exit" in faults:
        logging.error("told to end")
        os._exit(int(faults["exit"]))
    if "crash-once" in faults and not os.path.exists(faults["crash-once"]):
        open(faults["crash-once"], "w").close()
        os._exit(9)
    if "ignore-term" in faults:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "grandchild" in faults:
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    if "forks" in faults:
        fork(os.getpid)
        if faults["forks"] != "group":
            fork(os.setsid)
    if "grow" in faults:
        threading.Thread(target=grow, args=(faults.number("grow"),), daemon=True).start()
    if "chatter" in faults:
        threading.Thread(target=chatter, args=(int(faults.number("chatter")),), daemon=True).start()
    generator = Generator(faults)
    if "no-listener" in faults:
        generator.thread.join()
        return
    server = ThreadingHTTPServer((options.host, options.port), lambda *args: Handler(generator, *args))
    if "lose-listener" in faults:
        threading.Timer(faults.number("lose-listener"), server.socket.close).start()
    if "lose-descriptor" in faults:
        threading.Timer(faults.number("lose-descriptor"), lose_descriptor, [server.socket]).start()
    if "stranger" in faults:
        threading.Timer(0.5, let_in, [server.socket, faults["stranger"]]).start()
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        if "abort-on-int" in faults:
            os.abort()
        server.shutdown()
        generator.stop = True
        generator.thread.join()


if __name__ == "__main__":
    main()
