"""A living libtorrent 2.x client without DHT, local discovery or port mapping, for the tests.

    python libtorrent_peer.py create FILE --to FILE.torrent [--piece-length N]
    python libtorrent_peer.py seed FILE.torrent --dir DIR [--listen ip:port] [--utp] [--tracker URL]...
    python libtorrent_peer.py get FILE.torrent|MAGNET --dir DIR [--listen ip:port] [--utp] [--peer ip:port]...

Prints one JSON object a line: {"event": "ready", "listen": "ip:port"} once it listens, {"event": "progress", "done":
bytes, "total": bytes, "peers": n} each second, {"event": "finished", "seconds": s} when all is verified and written.
With --utp it speaks uTP and no TCP, else TCP and no uTP; with --socks everything goes through that SOCKS5 server. A
seeder ends when its standard input closes; a getter ends by itself, with exit code 0, or 1 after --timeout seconds.
"""
import argparse
import json
import os
import sys
import threading
import time

import libtorrent as lt


def say(**message):
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def proxy(address):
    if address is None:
        return {}
    host, port = address_of(address)
    return {
        "proxy_type": lt.proxy_type_t.socks5,
        "proxy_hostname": host,
        "proxy_port": port,
        "proxy_peer_connections": True,
        "proxy_tracker_connections": True,
        "proxy_hostnames": True,
    }


def session(arguments):
    return lt.session(proxy(arguments.socks) | {
        "listen_interfaces": arguments.listen,
        "enable_dht": False,
        "enable_lsd": False,
        "enable_upnp": False,
        "enable_natpmp": False,
        # One transport at a time, so that a test knows which one it tests.
        "enable_outgoing_utp": arguments.utp,
        "enable_incoming_utp": arguments.utp,
        "enable_outgoing_tcp": not arguments.utp,
        "enable_incoming_tcp": not arguments.utp,
        # All peers of a test share one address.
        "allow_multiple_connections_per_ip": True,
        "max_peerlist_size": 100,
        "alert_mask": lt.alert.category_t.error_notification | lt.alert.category_t.status_notification,
    })


def address_of(text):
    host, port = text.rsplit(":", 1)
    return host, int(port)


def create(arguments):
    files = lt.list_files(arguments.source)
    torrent = lt.create_torrent(files, piece_size=arguments.piece_length, flags=lt.create_torrent.v1_only)
    lt.set_piece_hashes(torrent, os.path.dirname(os.path.abspath(arguments.source)))
    with open(arguments.to, "wb") as file:
        file.write(lt.bencode(torrent.generate()))
    say(event="created", info_hash=str(lt.torrent_info(arguments.to).info_hash()))


def add(ses, arguments):
    if arguments.source.startswith("magnet:"):
        parameters = lt.parse_magnet_uri(arguments.source)
    else:
        parameters = lt.add_torrent_params()
        parameters.ti = lt.torrent_info(arguments.source)
    parameters.save_path = arguments.dir
    parameters.trackers = parameters.trackers + arguments.tracker
    parameters.flags &= ~lt.torrent_flags.auto_managed & ~lt.torrent_flags.paused
    handle = ses.add_torrent(parameters)
    for peer in arguments.peer:
        handle.connect_peer(address_of(peer))
    return handle


def wait_until_seeding(handle, arguments):
    start = time.monotonic()
    said = 0.0
    while True:
        status = handle.status()
        if status.errc.value() != 0:
            say(event="error", message=status.errc.message())
            return False
        if status.is_seeding or (status.is_finished and status.has_metadata):
            say(event="finished", seconds=time.monotonic() - start)
            return True
        if time.monotonic() - start > arguments.timeout:
            say(event="error", message="timeout")
            return False
        if time.monotonic() - said > 1:
            said = time.monotonic()
            say(event="progress", done=status.total_wanted_done, total=status.total_wanted, peers=status.num_peers)
        time.sleep(0.02)


def stop_with_input():
    """A test that dies closes the pipe; the peer must not outlive it."""
    sys.stdin.read()
    os._exit(0)


def run(arguments):
    threading.Thread(target=stop_with_input, daemon=True).start()
    ses = session(arguments)
    # Behind a proxy it has no port of its own.
    while ses.listen_port() == 0 and arguments.socks is None:
        time.sleep(0.01)
    say(event="ready", listen=f"{arguments.listen.rsplit(':', 1)[0]}:{ses.listen_port()}")
    handle = add(ses, arguments)
    good = wait_until_seeding(handle, arguments)
    if arguments.do == "seed" and good:
        while True:
            time.sleep(60)
    # Flushes what is still in the write cache.
    handle.flush_cache()
    handle.pause()
    ses.pause()
    time.sleep(arguments.linger)
    return good


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("do", choices=["create", "seed", "get"])
    parser.add_argument("source")
    parser.add_argument("--to")
    parser.add_argument("--piece-length", type=int, default=256 * 1024)
    parser.add_argument("--dir", default=".")
    parser.add_argument("--listen", default="127.0.0.1:0")
    parser.add_argument("--peer", action="append", default=[])
    parser.add_argument("--tracker", action="append", default=[])
    parser.add_argument("--utp", action="store_true")
    parser.add_argument("--socks")
    parser.add_argument("--timeout", type=float, default=300.0)
    parser.add_argument("--linger", type=float, default=0.2, help="seconds a getter lives on after it finished")
    arguments = parser.parse_args()
    if arguments.do == "create":
        create(arguments)
    elif not run(arguments):
        sys.exit(1)


main()
