"""A living py-ipv8 3.2.1 node of the stock tunnel community, driven over standard input and output by JSON lines.

It originates, relays, exits and takes every part in hidden services, over py-ipv8's own UDP endpoint or over that of
ipv8-rust-tunnels. It never contacts a bootstrap server and knows only whom it is told or who told it.

    python tunnel_peer.py [--ip IP] [--port PORT] [--endpoint python|rust] [--flags relay,exit_bt,exit_ipv8,speed_test]

The first line out is {"event": "ready", "public_key": hex, "listen": "ip:port", "endpoint": name}. Later events:
{"event": "closed", "circuit": n, "reason": text} for a circuit of its own, and {"event": "linked", "circuit": n} for a
downloader's circuit that reached a hidden seeder. Commands, each answered by one line with the same "id"; an answer may
come late, and has "error" when the command failed:

    {"id": 1, "do": "introduce", "address": "ip:port"}    walk to an address until its owner is a candidate
    {"id": 2, "do": "candidates"}                         -> {"candidates": [{"key", "address", "flags": [..]}]}
    {"id": 3, "do": "build", "path": [key, ..]}           a circuit over these candidates in this order
    {"id": 4, "do": "build", "hops": n, "exit": key}      one that py-ipv8 picks itself; "exit" may be missing
                                                          both -> {"circuit": n, "path": [key, ..]} when it is ready
    {"id": 5, "do": "circuits"}                           -> {"circuits": [{"circuit", "state", "path", ..}]}
    {"id": 6, "do": "send", "circuit": n, "to": "ip:port", "data": hex}
                                                          on a linked circuit "to" is "0.0.0.0:0"
    {"id": 7, "do": "received", "circuit": n}             -> {"received": [{"origin", "data"}]} since the last time
    {"id": 8, "do": "echo", "circuit": n, "to": "ip:port", "sizes": [..]}
                                                          uTP-like datagrams to an echo server, one after the other
                                                          -> {"echoed": n} or an error
    {"id": 9, "do": "test", "circuit": n, "requests": n, "request_size": n, "response_size": n}
                                                          the speed test of py-ipv8 -> {"messages_received": n, ..}
    {"id": 10, "do": "destroy", "circuit": n}
    {"id": 11, "do": "statistics"}                        -> {"relays": [..], "exits": [..]}: what it carries for others
    {"id": 12, "do": "seed", "lookup": hex, "hops": n, "point": key}
                                                          joins a hidden swarm and makes an introduction point there
    {"id": 13, "do": "join", "lookup": hex, "hops": n}    joins it as a downloader
    {"id": 14, "do": "quit"}
"""
import argparse
import asyncio
import json
import logging
import os
import sys

from ipv8.community import Community, CommunitySettings
from ipv8.dht.discovery import DHTDiscoveryCommunity
from ipv8.dht.provider import DHTCommunityProvider
from ipv8.keyvault.crypto import default_eccrypto
from ipv8.messaging.anonymization.hidden_services import HiddenTunnelCommunity, HiddenTunnelSettings
from ipv8.messaging.anonymization.tunnel import (
    CIRCUIT_STATE_READY,
    DESTROY_REASON_UNNEEDED,
    PEER_FLAG_EXIT_BT,
    PEER_FLAG_EXIT_IPV8,
    PEER_FLAG_RELAY,
    PEER_FLAG_SPEED_TEST,
    Circuit,
)
from ipv8.messaging.anonymization.utils import run_speed_test
from ipv8.messaging.interfaces.udp.endpoint import UDPEndpoint, UDPv4Address
from ipv8.peer import Peer
from ipv8.peerdiscovery.network import Network
from ipv8_rust_tunnels.endpoint import Endpoint as RustEndpoint

FLAGS = {
    "relay": PEER_FLAG_RELAY,
    "exit_bt": PEER_FLAG_EXIT_BT,
    "exit_ipv8": PEER_FLAG_EXIT_IPV8,
    "speed_test": PEER_FLAG_SPEED_TEST,
}
STEP_S = 0.2
# Tries of one datagram before it counts as lost. Loopback loses one only when a machine is overloaded.
ECHO_TRIES = 5
ECHO_WAIT_S = 3.0


def say(**message):
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def address_of(text):
    host, port = text.rsplit(":", 1)
    return UDPv4Address(host, int(port))


def text_of(address):
    return f"{address[0]}:{address[1]}"


def key_of(peer):
    return peer.public_key.key_to_bin().hex()


def utp_like(size):
    """A datagram that the exit policy takes for uTP, different from every other."""
    return b"\x01\x00" + os.urandom(size - 2)


def own_address(overlay):
    return UDPv4Address(*overlay.endpoint.get_address()[:2])


# Every overlay says the address of its socket. What it would guess is that of some interface of the machine.
Community.my_estimated_lan = Community.my_estimated_wan = property(own_address, lambda overlay, guess: None)


class NoService:
    """Stands for py-ipv8's service object: takes the overlays of introduction points, but never walks in them, because
    their walk begins at the bootstrap servers."""

    def __init__(self):
        self.overlays = []
        self.strategies = []

    def add_strategy(self, overlay, strategy, target_peers):
        self.overlays.append(overlay)


class PathedCommunity(HiddenTunnelCommunity):
    """The stock community, which can be told the hops of a circuit, and which keeps what comes back."""

    def __init__(self, settings):
        self.paths = {}
        self.inbox = {}
        super().__init__(settings)

    def create_circuit_over(self, path):
        """A circuit over these peers, as create_circuit makes it, which lets its caller choose only the exit."""
        circuit = Circuit(self._generate_circuit_id(), len(path), required_exit=path[-1])
        self.circuits[circuit.circuit_id] = circuit
        self.paths[circuit.circuit_id] = path
        self.send_initial_create(circuit, [path[0]], 1)
        return circuit

    def send_extend(self, circuit, candidates, max_tries):
        """A required exit is always extended to, and by address; so the next hop of a path is one for this call."""
        path = self.paths.get(circuit.circuit_id)
        if path is None:
            return super().send_extend(circuit, candidates, max_tries)
        goal, required = circuit.goal_hops, circuit.required_exit
        circuit.goal_hops, circuit.required_exit = len(circuit.hops) + 1, path[len(circuit.hops)]
        try:
            return super().send_extend(circuit, candidates, max_tries)
        finally:
            circuit.goal_hops, circuit.required_exit = goal, required

    def on_raw_data(self, circuit, origin, data):
        self.inbox.setdefault(circuit.circuit_id, []).append((origin, data))


class Node:
    """The tunnel community of one identity on one socket."""

    def __init__(self, arguments):
        self.arguments = arguments
        self.introduced = set()
        self.told_closed = set()

    async def start(self):
        arguments = self.arguments
        if arguments.endpoint == "rust":
            # Its worker threads are many; a test runs several peers on few cores.
            self.endpoint = RustEndpoint(arguments.port, arguments.ip, worker_threads=1)
        else:
            self.endpoint = UDPEndpoint(port=arguments.port, ip=arguments.ip)
        await self.endpoint.open()
        if arguments.endpoint == "rust":
            # It exits to loopback only from a socket bound there.
            self.endpoint.set_exit_address((arguments.exit_ip or arguments.ip, 0))
        listen = UDPv4Address(*self.endpoint.get_address()[:2])
        me = Peer(default_eccrypto.generate_key("curve25519"), listen)
        settings = HiddenTunnelSettings(my_peer=me, endpoint=self.endpoint, network=Network(), ipv8=NoService())
        self.dht = DHTDiscoveryCommunity(CommunitySettings(my_peer=me, endpoint=self.endpoint, network=Network()))
        settings.dht_provider = DHTCommunityProvider(self.dht, listen[1])
        settings.swarm_lookup_interval = arguments.lookup_s
        settings.peer_flags = {FLAGS[name] for name in arguments.flags.split(",") if name}
        settings.remove_tunnel_delay = arguments.remove_delay
        self.community = PathedCommunity(settings)
        say(event="ready", public_key=key_of(me), listen=text_of(listen), endpoint=arguments.endpoint)

    async def walk(self):
        """Walks to every address told until its owner is a candidate, and tells of circuits that closed."""
        while True:
            known = {tuple(peer.address) for peer in self.community.candidates}
            for address in self.introduced - known:
                self.community.walk_to(address)
            for address in self.introduced - {tuple(peer.address) for peer in self.dht.get_peers()}:
                self.dht.walk_to(address)
            for circuit in list(self.community.circuits.values()):
                if circuit.closing_info and circuit.circuit_id not in self.told_closed:
                    self.told_closed.add(circuit.circuit_id)
                    say(event="closed", circuit=circuit.circuit_id, reason=circuit.closing_info)
            await asyncio.sleep(STEP_S)

    async def discover(self):
        """Looks for hidden seeders more often than py-ipv8 does."""
        while True:
            await self.community.do_peer_discovery()
            await asyncio.sleep(self.arguments.lookup_s)

    def candidate(self, key):
        for peer in self.community.candidates:
            if key_of(peer) == key:
                return peer
        raise ValueError(f"no candidate has the key {key}")

    def circuit(self, number):
        circuit = self.community.circuits.get(number)
        if circuit is None:
            raise ValueError(f"no circuit {number}")
        return circuit

    def circuit_status(self, circuit):
        return {
            "circuit": circuit.circuit_id,
            "type": circuit.ctype,
            "state": circuit.state,
            "hops": circuit.goal_hops,
            "path": [hop.public_key_bin.hex() for hop in circuit.hops],
            "bytes_up": circuit.bytes_up,
            "bytes_down": circuit.bytes_down,
            "closing": circuit.closing_info,
        }

    async def build(self, command):
        if "path" in command:
            circuit = self.community.create_circuit_over([self.candidate(key) for key in command["path"]])
        else:
            required = self.candidate(command["exit"]) if "exit" in command else None
            circuit = self.community.create_circuit(command["hops"], required_exit=required)
            if circuit is None:
                raise RuntimeError("no candidates for such a circuit")
        if await circuit.ready is None:
            raise RuntimeError(f"circuit {circuit.circuit_id} closed: {circuit.closing_info}")
        return {"circuit": circuit.circuit_id, "path": self.circuit_status(circuit)["path"]}

    async def seed(self, command):
        lookup = bytes.fromhex(command["lookup"])
        point = self.candidate(command["point"]) if "point" in command else None
        self.community.join_swarm(lookup, command["hops"])
        await self.community.create_introduction_point(lookup, point)
        return {}

    def join(self, command):
        lookup = bytes.fromhex(command["lookup"])

        def linked(address):
            say(event="linked", circuit=self.community.ip_to_circuit_id(address[0]))

        self.community.join_swarm(lookup, command["hops"], linked, seeding=False)
        # An answer without a seeder is asked for again as soon as the swarm is looked up again.
        self.community.swarms[lookup].max_dht_lookup_interval = 0
        return {}

    def send(self, circuit, to, data):
        self.community.send_data(circuit.hop.address, circuit.circuit_id, address_of(to), ("0.0.0.0", 0), data)

    async def echo(self, command):
        """Each datagram is waited for before the next: a lost one is then one that some hop dropped."""
        circuit = self.circuit(command["circuit"])
        for size in command["sizes"]:
            await self.echo_one(circuit, command["to"], utp_like(size))
        return {"echoed": len(command["sizes"])}

    async def echo_one(self, circuit, to, data):
        inbox = self.community.inbox.setdefault(circuit.circuit_id, [])
        for _ in range(ECHO_TRIES):
            self.send(circuit, to, data)
            deadline = asyncio.get_running_loop().time() + ECHO_WAIT_S
            while asyncio.get_running_loop().time() < deadline and circuit.state == CIRCUIT_STATE_READY:
                if (address_of(to), data) in inbox:
                    inbox.remove((address_of(to), data))
                    return
                await asyncio.sleep(0.001)
        raise RuntimeError(f"{len(data)} bytes did not come back over circuit {circuit.circuit_id} ({circuit.state})")

    async def test(self, command):
        sizes = command["request_size"], command["response_size"]
        return await run_speed_test(self.community, self.circuit(command["circuit"]), *sizes, command["requests"])

    def statistics(self):
        relays = [
            {"circuit": number, "to": relay.circuit_id, "bytes_up": relay.bytes_up, "bytes_down": relay.bytes_down}
            for number, relay in list(self.community.relay_from_to.items())
        ]
        exits = [
            {"circuit": number, "bytes_up": exit.bytes_up, "bytes_down": exit.bytes_down}
            for number, exit in list(self.community.exit_sockets.items())
        ]
        return {"relays": relays, "exits": exits}

    async def obey(self, command):
        do = command["do"]
        if do == "introduce":
            self.introduced.add(address_of(command["address"]))
            return {}
        if do == "candidates":
            named = [(peer, flags) for peer, flags in self.community.candidates.items()]
            return {"candidates": [{"key": key_of(peer), "address": text_of(peer.address), "flags": sorted(flags)}
                                   for peer, flags in named]}
        if do == "build":
            return await self.build(command)
        if do == "circuits":
            return {"circuits": [self.circuit_status(circuit) for circuit in list(self.community.circuits.values())]}
        if do == "send":
            self.send(self.circuit(command["circuit"]), command["to"], bytes.fromhex(command["data"]))
            return {}
        if do == "received":
            received = self.community.inbox.pop(command["circuit"], [])
            return {"received": [{"origin": text_of(origin), "data": data.hex()} for origin, data in received]}
        if do == "echo":
            return await self.echo(command)
        if do == "test":
            return await self.test(command)
        if do == "destroy":
            self.circuit(command["circuit"])
            self.community.remove_circuit(command["circuit"], "asked", destroy=DESTROY_REASON_UNNEEDED)
            return {}
        if do == "statistics":
            return self.statistics()
        if do == "seed":
            return await self.seed(command)
        if do == "join":
            return self.join(command)
        raise ValueError(f"no command is called {do}")

    async def answer(self, command):
        try:
            say(id=command["id"], **await self.obey(command))
        except Exception as error:  # whatever it is, the test that asked must hear it
            say(id=command["id"], error=f"{type(error).__name__}: {error}")


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--ip", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--endpoint", choices=["python", "rust"], default="python")
    parser.add_argument("--flags", default="relay,speed_test")
    parser.add_argument("--exit-ip", help="where the sockets of the Rust endpoint's exit are bound; --ip if missing")
    parser.add_argument("--remove-delay", type=float, default=5.0, help="seconds a removed circuit still answers")
    parser.add_argument("--lookup-s", type=float, default=1.0, help="seconds between two lookups of a hidden swarm")
    parser.add_argument("--log", default="CRITICAL", help="level of py-ipv8's log on standard error")
    arguments = parser.parse_args()
    logging.basicConfig(level=arguments.log)
    node = Node(arguments)
    await node.start()
    tasks = [asyncio.ensure_future(node.walk()), asyncio.ensure_future(node.discover())]
    lines = asyncio.StreamReader(limit=2**20)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        command = json.loads(line)
        if command["do"] == "quit":
            break
        tasks.append(asyncio.ensure_future(node.answer(command)))
    # The threads of the Rust endpoint would hold up an ordinary end.
    os._exit(0)


asyncio.run(main())
