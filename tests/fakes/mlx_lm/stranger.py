"""Answers on another process's listening socket: stranger.py DESCRIPTOR ANSWER, until its standard input ends."""

import os
import socket
import sys
import threading

listener, answer = socket.socket(fileno=int(sys.argv[1])), sys.argv[2]
# Its owner may have made it non-blocking, and still has it for a moment.
listener.setblocking(True)
# Not through sys.stdin, whose lock would be held by a thread that waits forever.
threading.Thread(target=lambda: (os.read(0, 1), os._exit(0)), daemon=True).start()
print("ready", flush=True)
held = []
while True:
    client, _ = listener.accept()
    client.recv(65536)
    if answer == "nothing":
        held.append(client)
        continue
    client.sendall(b"no HTTP at all\n" if answer == "garbage" else f"HTTP/1.0 {answer} x\r\n\r\n{{}}".encode())
    client.close()
