"""Listens on a port that was another's: stranger.py HOST PORT ANSWER, until its standard input ends."""

import os
import socket
import sys
import threading
import time

host, port, answer = sys.argv[1], int(sys.argv[2]), sys.argv[3]
threading.Thread(target=lambda: (sys.stdin.buffer.read(), os._exit(0)), daemon=True).start()
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
while True:
    try:
        listener.bind((host, port))
        break
    except OSError:
        time.sleep(0.005)
listener.listen(64)
held = []
while True:
    client, _ = listener.accept()
    client.recv(65536)
    if answer == "nothing":
        held.append(client)
        continue
    client.sendall(b"no HTTP at all\n" if answer == "garbage" else f"HTTP/1.0 {answer} x\r\n\r\n{{}}".encode())
    client.close()
