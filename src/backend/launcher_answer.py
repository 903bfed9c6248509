"""One answer of mlx_lm.server: its client is watched, its tokens are counted, its failure is told.

Patches http.server and queue of the standard library, on which mlx_lm/server.py (0.32.2) stands: its APIHandler writes
to `wfile`, and takes each token from a queue.Queue that the generation thread fills. Written by mlxctl next to the
launcher; changes are overwritten.
"""

import http.server
import json
import queue
import socket
import threading
import time
import traceback

from launcher_log import describe
from serving import TooLong

DEFAULT_MODEL = "default_model"  # what mlx_lm.server calls the model that it was started with
LOOK = 0.25  # seconds between two checks whether the client is still there
QUIET = 10.0  # seconds after which a stream that gets tokens without text sends a comment


def answer_by_name(name):
    """Has answers call the model what the registry calls it.

    mlx_lm.server repeats the request's name for it, from the handler's `requested_model`: default_model in those of the
    gate. By the time an answer begins the model is chosen, so the attribute may change then.
    """
    original = http.server.BaseHTTPRequestHandler.send_response

    def send_response(self, *args, **kwargs):
        if getattr(self, "requested_model", None) == DEFAULT_MODEL:
            self.requested_model = name
        original(self, *args, **kwargs)

    http.server.BaseHTTPRequestHandler.send_response = send_response


class Refused(BaseException):
    """Passes through mlx_lm.server's `except Exception`, which would turn it into a 404."""

    def __init__(self, why):
        self.why = why
        super().__init__(str(why))


class Answer:
    """One answer under way. It stands in for `wfile` meanwhile, and checks on the client between two tokens.

    mlx_lm.server notices that a client has left when a write fails: never for a plain answer, and for a stream not
    while its tokens have no text (in a tool call, or half a character). It would keep computing for a client that is
    gone, as silent as a server that hangs. The check is in queue.Queue.get, from which its request threads take each
    token. An exception there ends the generation, as a failed write does.
    """

    here = threading.local()

    def __init__(self, handler):
        self.handler, self.wire = handler, handler.wfile
        # Once the head is sent, an exception stops the generation; before, nothing would catch it.
        self.begun = self.stream = self.sent = self.came = False
        self.context, self.tokens = None, 0
        self.looked = self.spoke = time.monotonic()

    def __getattr__(self, name):
        return getattr(self.wire, name)

    def write(self, data):
        self.spoke, self.sent, self.came = time.monotonic(), True, False
        if self.stream and data == b"data: [DONE]\n\n" and self.context is not None:
            # A comment: clients skip it, and the gate counts by it.
            prompt, cached, answer = self.usage()
            self.wire.write(f": usage {prompt} {cached} {answer}\n\n".encode())
        return self.wire.write(data)

    def took(self, item):
        """Sees what the generation thread sends to this request: its context, then each token, or why there is none."""
        self.came = True
        if isinstance(item, TooLong):
            raise Refused(item)
        if hasattr(item, "prompt_cache_count"):
            self.context = item
        elif hasattr(item, "finish_reason"):
            self.tokens += 1

    def usage(self):
        """Tokens of the prompt, how many of them were cached, and tokens of the answer."""
        return len(self.context.prompt), max(0, self.context.prompt_cache_count), self.tokens

    def refuse(self, body):
        """Answers 400 with the error object; the server would answer 404 with a text."""
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
        # Only if something came: a generation that hangs must not look alive.
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
        """Reports that there will be no answer; mlx_lm.server would only close the connection."""
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
