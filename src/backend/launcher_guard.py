"""Only the gate gets in: every request must carry the run's secret.

Patches http.server and socketserver of the standard library, on which mlx_lm/server.py stands. Written by mlxctl next
to the launcher; changes are overwritten.
"""

import hmac
import http.server
import socket
import socketserver
import threading
import time

SECRET_HEADER = "x-mlxctl-secret"
PROOF_TIME = 5.0  # seconds in which a connection must show the secret
UNPROVEN = 256  # connections that have not shown it yet, at once


class Unproven:
    """Connections that have not shown the secret yet.

    Any user of this machine can open one, and each takes a thread, so they get little time, and the oldest is closed
    when there are too many. The gate shows the secret at once.
    """

    def __init__(self):
        self.changed = threading.Condition()
        self.deadlines = {}  # by socket, oldest first

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
            # Its thread is waiting for a line and now reads the end.
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
        # One line per probe would be most of the log of a model that idles for weeks.
        if getattr(self, "path", None) != "/health":
            log_request(self, *args, **kwargs)

    http.server.BaseHTTPRequestHandler.log_request = quieter
