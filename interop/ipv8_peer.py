"""A living py-ipv8 node, driven over standard input and output, one JSON object a line.

With py-ipv8 2.3.0 it has a TrustChain of its own and countersigns every proposal of type "test"; with 3.2.1, which
has no TrustChain, it only takes part in the discovery. It never contacts a bootstrap server.

    python ipv8_peer.py --dir DIR [--ip 127.0.0.1] [--port 0]

The first line out is {"event": "ready", "public_key": hex, "listen": "ip:port", "trustchain": bool}. Commands, each
answered by one line with the same "id" (an answer may come late, when the other side has signed):

    {"id": 1, "do": "introduce", "address": "ip:port"}       walk to an address until it is verified
    {"id": 2, "do": "peers"}                                 -> {"peers": [hex key, ...]}
    {"id": 3, "do": "propose", "to": hex key, "address": "ip:port", "transaction": {...}}
                                                             -> {"proposal": block, "agreement": block}
    {"id": 4, "do": "blocks", "key": hex key}                -> {"blocks": [block, ...]}
    {"id": 5, "do": "quit"}

A block is {"wire": hex, "hash": hex, "sequence_number": n, "link_sequence_number": n, "link_public_key": hex}.
"""
import argparse
import asyncio
import json
import os
import random
import sys

# Python 3.11 refuses to sample from sets, which py-ipv8 2.3.0 does. Patched here, before the package takes its copy of
# the name, so that the package itself stays as it was published.
_sample = random.sample


def _sample_of_any(population, k, **options):
    return _sample(population if isinstance(population, (list, tuple, range)) else list(population), k, **options)


random.sample = _sample_of_any

import ipv8.community  # noqa: E402
from ipv8.keyvault.crypto import default_eccrypto  # noqa: E402
from ipv8.messaging.interfaces.udp.endpoint import UDPEndpoint, UDPv4Address  # noqa: E402
from ipv8.peer import Peer  # noqa: E402
from ipv8.peerdiscovery.community import DiscoveryCommunity  # noqa: E402
from ipv8.peerdiscovery.discovery import RandomWalk  # noqa: E402
from ipv8.peerdiscovery.network import Network  # noqa: E402

try:
    from ipv8.attestation.trustchain.community import TrustChainCommunity
    from ipv8.attestation.trustchain.listener import BlockListener
except ImportError:
    TrustChainCommunity = None

# No bootstrap servers: the peer knows whom it is told and whom those introduce. (3.2.1 has none unless configured.)
ipv8.community._DEFAULT_ADDRESSES = []
ipv8.community._DNS_ADDRESSES = []

BLOCK_TYPE = b"test"
STEP_S = 0.2


def say(**message):
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def address_of(text):
    host, port = text.rsplit(":", 1)
    return UDPv4Address(host, int(port))


def block_of(block):
    return {
        "wire": block.pack().hex(),
        "hash": block.hash.hex(),
        "sequence_number": block.sequence_number,
        "link_sequence_number": block.link_sequence_number,
        "link_public_key": block.link_public_key.hex(),
    }


class Node:
    """The communities of one identity on one socket."""

    def __init__(self, arguments):
        self.arguments = arguments
        self.key = self.load_key(os.path.join(arguments.dir, "key"))
        self.network = Network()
        self.endpoint = UDPEndpoint(port=arguments.port, ip=arguments.ip)
        self.introduced = set()
        self.overlays = []
        self.chain = None

    @staticmethod
    def load_key(path):
        """A restarted peer keeps its identity and so its chain."""
        if not os.path.exists(path):
            with open(path, "wb") as file:
                file.write(default_eccrypto.generate_key("curve25519").key_to_bin())
        with open(path, "rb") as file:
            return default_eccrypto.key_from_private_bin(file.read())

    async def start(self):
        await self.endpoint.open()
        me = Peer(self.key, self.endpoint.get_address())
        self.overlays.append(self.make(DiscoveryCommunity, me))
        if TrustChainCommunity is not None:
            self.chain = self.make(TrustChainCommunity, me, working_directory=self.arguments.dir)
            self.chain.add_listener(self.listener(), [BLOCK_TYPE])
            self.overlays.append(self.chain)
        self.walks = [RandomWalk(overlay) for overlay in self.overlays]
        host, port = self.endpoint.get_address()[:2]
        say(event="ready", public_key=self.key.pub().key_to_bin().hex(), listen=f"{host}:{port}",
            trustchain=self.chain is not None)

    def make(self, community, me, **options):
        """2.x takes the parts as arguments, 3.x as one settings object."""
        if hasattr(community, "settings_class"):
            return community(community.settings_class(my_peer=me, endpoint=self.endpoint, network=self.network))
        return community(me, self.endpoint, self.network, **options)

    @staticmethod
    def listener():
        class SignAll(BlockListener):
            def should_sign(self, block):
                return True

            def received_block(self, block):
                pass

        return SignAll()

    async def walk(self):
        """Walks on by chance, and to every address told until its owner is known in each community."""
        while True:
            for overlay, walk in zip(self.overlays, self.walks):
                known = {tuple(peer.address) for peer in overlay.get_peers()}
                for address in self.introduced - known:
                    overlay.walk_to(address)
                walk.take_step()
            await asyncio.sleep(STEP_S)

    async def obey(self, command):
        do = command["do"]
        if do == "introduce":
            self.introduced.add(address_of(command["address"]))
            return {}
        if do == "peers":
            return {"peers": sorted({peer.public_key.key_to_bin().hex() for peer in self.network.verified_peers})}
        if do == "blocks":
            chain = self.chain.persistence.get_latest_blocks(bytes.fromhex(command["key"]), limit=1000000)
            return {"blocks": [block_of(block) for block in sorted(chain, key=lambda block: block.sequence_number)]}
        if do == "propose":
            key = bytes.fromhex(command["to"])
            peer = Peer(default_eccrypto.key_from_public_bin(key), address_of(command["address"]))
            agreement, proposal = await self.chain.sign_block(peer, public_key=key, block_type=BLOCK_TYPE,
                                                              transaction=command["transaction"])
            return {"proposal": block_of(proposal), "agreement": block_of(agreement)}
        raise ValueError(f"no command is called {do}")

    async def answer(self, command):
        try:
            say(id=command["id"], **await self.obey(command))
        except Exception as error:  # whatever it is, the test that asked must hear it
            say(id=command["id"], error=f"{type(error).__name__}: {error}")


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--dir", required=True)
    parser.add_argument("--ip", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    node = Node(parser.parse_args())
    await node.start()
    tasks = [asyncio.ensure_future(node.walk())]
    lines = asyncio.StreamReader(limit=2**20)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        command = json.loads(line)
        if command["do"] == "quit":
            break
        tasks.append(asyncio.ensure_future(node.answer(command)))
    # The process ends here; the databases commit at each block.
    os._exit(0)


asyncio.run(main())
