//! Living nodes of the tunnel community, and an echo behind the exit.

use super::{Process, SOON, living_peer, wait_for};
use serde_json::{Value, json};
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// Sizes of the datagrams that are echoed: the smallest and largest of uTP on a circuit, and many between.
pub(crate) const SIZES: [usize; 24] = [
    20, 21, 22, 23, 24, 31, 32, 33, 63, 64, 65, 127, 128, 255, 256, 511, 512, 576, 1000, 1200, 1279, 1280,
    1399, 1400,
];
/// Requests of a speed test, and the bytes each way.
const TEST_REQUESTS: u64 = 20;
const TEST_BYTES: u64 = 1000;
/// Seconds a removed circuit still answers at a living peer: short, so that its end is seen soon.
const REMOVE_DELAY_S: &str = "0.2";

/// A py-ipv8 node that originates, relays or exits.
pub(crate) struct TunnelPeer {
    process: Process,
    pub(crate) key: String,
    pub(crate) listen: String,
    last_id: u64,
}

impl TunnelPeer {
    /// `endpoint` is `python` or `rust`, `flags` are those of `tunnel_peer.py`.
    pub(crate) fn start(peers: &Path, ip: &str, endpoint: &str, flags: &str) -> Self {
        let mut command = living_peer(peers, "ipv8-3.2", "tunnel_peer.py");
        command.args([
            "--ip",
            ip,
            "--endpoint",
            endpoint,
            "--flags",
            flags,
            "--remove-delay",
            REMOVE_DELAY_S,
        ]);
        let process = Process::start(&mut command);
        let ready = process.event("ready", SOON);
        let text = |name: &str| ready[name].as_str().expect("the script says it").to_owned();
        Self { key: text("public_key"), listen: text("listen"), process, last_id: 0 }
    }

    /// The answer to a command, which may be an error.
    pub(crate) fn try_ask(&mut self, mut command: Value) -> Value {
        self.last_id += 1;
        command["id"] = json!(self.last_id);
        self.process.write_line(&command);
        loop {
            let answer = self.process.next_json("an answer of py-ipv8", SOON);
            if answer.get("event").is_none() {
                assert_eq!(answer["id"], self.last_id, "{answer}");
                return answer;
            }
        }
    }

    /// The answer to a command that must succeed.
    pub(crate) fn ask(&mut self, command: Value) -> Value {
        let answer = self.try_ask(command.clone());
        assert!(answer.get("error").is_none(), "{command} was answered {answer}");
        answer
    }

    pub(crate) fn introduce(&mut self, address: &str) {
        self.ask(json!({"do": "introduce", "address": address}));
    }

    /// Waits until whoever is at this address is a candidate, and returns its key.
    pub(crate) fn wait_for_address(&mut self, address: &str) -> String {
        wait_for("a candidate of py-ipv8", SOON, || {
            let answer = self.ask(json!({"do": "candidates"}));
            let candidates = answer["candidates"].as_array().expect("a list").clone();
            let found = candidates.into_iter().find(|candidate| candidate["address"] == address)?;
            Some(found["key"].as_str().expect("text").to_owned())
        })
    }

    /// A circuit over these hops; its number.
    pub(crate) fn build(&mut self, path: &[String]) -> u64 {
        let answer = self.ask(json!({"do": "build", "path": path}));
        assert_eq!(answer["path"], json!(path));
        answer["circuit"].as_u64().expect("a number")
    }

    /// A circuit whose hops py-ipv8 picks as its own code does: (its number, the keys of its hops).
    pub(crate) fn build_stock(&mut self, hops: usize, exit: &str) -> (u64, Vec<String>) {
        let answer = self.ask(json!({"do": "build", "hops": hops, "exit": exit}));
        let path = answer["path"].as_array().expect("a list").iter();
        let path = path.map(|key| key.as_str().expect("text").to_owned()).collect();
        (answer["circuit"].as_u64().expect("a number"), path)
    }

    /// Every datagram of these sizes comes back unchanged.
    pub(crate) fn echo(&mut self, circuit: u64, echo: &Echo, sizes: &[usize]) {
        let to = echo.address.to_string();
        let answer = self.ask(json!({"do": "echo", "circuit": circuit, "to": to, "sizes": sizes}));
        assert_eq!(answer["echoed"], sizes.len());
    }

    pub(crate) fn send(&mut self, circuit: u64, to: &str, data: &[u8]) {
        self.ask(json!({"do": "send", "circuit": circuit, "to": to, "data": hex::encode(data)}));
    }

    /// Every request of py-ipv8's speed test is answered.
    pub(crate) fn speed_test(&mut self, circuit: u64) {
        let answer = self.ask(json!({
            "do": "test", "circuit": circuit, "requests": TEST_REQUESTS,
            "request_size": TEST_BYTES, "response_size": TEST_BYTES,
        }));
        assert_eq!(answer["messages_received"], TEST_REQUESTS, "{answer}");
    }

    pub(crate) fn destroy(&mut self, circuit: u64) {
        self.ask(json!({"do": "destroy", "circuit": circuit}));
        self.wait_until_closed(circuit);
    }

    /// Waits until a circuit of its own is gone. An idle one would be only after 20 s.
    pub(crate) fn wait_until_closed(&mut self, circuit: u64) {
        wait_for("the end of a circuit at py-ipv8", DESTROYED, || {
            let circuits =
                self.ask(json!({"do": "circuits"}))["circuits"].as_array().expect("a list").clone();
            circuits.iter().all(|known| known["circuit"] != circuit).then_some(())
        });
    }

    /// Waits until a downloader's circuit reached a hidden seeder; its number.
    pub(crate) fn wait_for_link(&mut self) -> u64 {
        self.process.event("linked", SOON)["circuit"].as_u64().expect("a number")
    }

    /// The circuit of this type on which exactly this came since the last look, if it did.
    pub(crate) fn received_on(&mut self, kind: &str, data: &[u8]) -> Option<u64> {
        let circuits = self.ask(json!({"do": "circuits"}))["circuits"].as_array().expect("a list").clone();
        let numbers =
            circuits.iter().filter(|circuit| circuit["type"] == kind).map(|circuit| &circuit["circuit"]);
        let data = hex::encode(data);
        for number in numbers {
            let received = self.ask(json!({"do": "received", "circuit": number}))["received"].clone();
            if received.as_array().expect("a list").iter().any(|datagram| datagram["data"] == data) {
                return number.as_u64();
            }
        }
        None
    }

    /// (routes, exit sockets) that it holds for others.
    pub(crate) fn carries(&mut self) -> (usize, usize) {
        let answer = self.ask(json!({"do": "statistics"}));
        let count = |name: &str| answer[name].as_array().expect("a list").len();
        (count("relays"), count("exits"))
    }

    /// Idle circuits go only after 20 s: what is gone before that was destroyed.
    pub(crate) fn wait_until_it_carries_nothing(&mut self) {
        wait_for("the circuits of others to be gone from py-ipv8", DESTROYED, || {
            (self.carries() == (0, 0)).then_some(())
        });
    }
}

/// Well below the 20 s after which an idle circuit goes by itself.
pub(crate) const DESTROYED: Duration = Duration::from_secs(10);

/// Who sent what.
type Came = Vec<(SocketAddr, Vec<u8>)>;

/// What stands behind the exit: sends every datagram back and remembers what came.
pub(crate) struct Echo {
    pub(crate) address: SocketAddr,
    came: Arc<Mutex<Came>>,
}

impl Echo {
    pub(crate) fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback has free ports");
        let echo = Self { address: socket.local_addr().expect("bound above"), came: Arc::default() };
        let came = Arc::clone(&echo.came);
        // Lives as long as the test binary: nothing ends a blocking read, and nothing needs to.
        thread::spawn(move || {
            let mut buffer = [0; 65536];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                came.lock().expect("no holder panics").push((from, buffer[..length].to_vec()));
                // The exit may be gone already.
                let _ = socket.send_to(&buffer[..length], from);
            }
        });
        echo
    }

    /// Whether a datagram that holds these bytes ever came.
    pub(crate) fn has_seen(&self, part: &[u8]) -> bool {
        let came = self.came.lock().expect("no holder panics");
        came.iter().any(|(_, datagram)| datagram.windows(part.len()).any(|window| window == part))
    }
}
