"""A UDP tracker (BEP 15), for the tests.

    python udp_tracker.py [--listen 127.0.0.1:0] [--interval SECONDS]

Prints one JSON object a line: {"event": "ready", "listen": "ip:port"}, then for each good request
{"event": "announce", "from": "ip:port", "info_hash": hex, "peer_id": hex, "port": n, "left": n, "asked": event,
"answered": [peers as "ip:port"]} or {"event": "connect", "from": "ip:port"}. What is not understood is not answered. Ends
when its standard input closes.
"""
import argparse
import json
import os
import secrets
import socket
import struct
import sys
import threading

PROTOCOL = 0x41727101980
CONNECT, ANNOUNCE, ERROR = 0, 1, 3
EVENTS = ["none", "completed", "started", "stopped"]


def say(**message):
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def text_of(address):
    return f"{address[0]}:{address[1]}"


class Tracker:
    """Who is in which swarm. A connection is a random number known to one address."""

    def __init__(self, interval):
        self.interval = interval
        self.connections = {}
        self.swarms = {}

    def answer(self, request, address):
        if len(request) < 16:
            return None
        connection, action, transaction = struct.unpack_from("!QII", request)
        if action == CONNECT and connection == PROTOCOL:
            self.connections[address] = secrets.randbits(64)
            say(event="connect", **{"from": text_of(address)})
            return struct.pack("!IIQ", CONNECT, transaction, self.connections[address])
        if self.connections.get(address) != connection:
            return struct.pack("!II", ERROR, transaction) + b"connect first"
        if action == ANNOUNCE and len(request) >= 98:
            return self.announce(request, transaction, address)
        return struct.pack("!II", ERROR, transaction) + b"not understood"

    def announce(self, request, transaction, address):
        info_hash, peer_id, _, left, _, event, _, _, wanted, port = struct.unpack_from("!20s20sQQQIIIiH", request, 16)
        swarm = self.swarms.setdefault(info_hash, {})
        me = (address[0], port)
        swarm.pop(me, None)
        peers = list(swarm)[: wanted if wanted >= 0 else 50]
        if EVENTS[event % 4] != "stopped":
            swarm[me] = left
        say(event="announce", info_hash=info_hash.hex(), peer_id=peer_id.hex(), port=port, left=left,
            asked=EVENTS[event % 4], answered=[text_of(peer) for peer in peers], **{"from": text_of(address)})
        seeders = sum(1 for left in swarm.values() if left == 0)
        head = struct.pack("!IIIII", ANNOUNCE, transaction, self.interval, len(swarm) - seeders, seeders)
        return head + b"".join(socket.inet_aton(ip) + struct.pack("!H", port) for ip, port in peers)


def stop_with_input():
    """A test that dies closes the pipe; the tracker must not outlive it."""
    sys.stdin.read()
    os._exit(0)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--listen", default="127.0.0.1:0")
    parser.add_argument("--interval", type=int, default=60)
    arguments = parser.parse_args()
    threading.Thread(target=stop_with_input, daemon=True).start()
    host, port = arguments.listen.rsplit(":", 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((host, int(port)))
        say(event="ready", listen=text_of(sock.getsockname()))
        tracker = Tracker(arguments.interval)
        while True:
            request, address = sock.recvfrom(2048)
            answer = tracker.answer(request, address)
            if answer is not None:
                sock.sendto(answer, address)


main()
