//! What the tests with real processes share: nodes of the built binary, living peers in Python, files and waiting.
//!
//! Nothing sleeps for a result: everything waits for a condition, with a limit after which the test fails.
#![allow(dead_code, reason = "each test binary uses its part")]

pub(crate) mod capture;
pub(crate) mod netns;
pub(crate) mod socks;
pub(crate) mod tunnel;

use netns::Host;
use serde_json::{Value, json};
use std::env;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

/// Limit of a step that takes well under a second on an idle machine.
pub(crate) const SOON: Duration = Duration::from_secs(60);
/// Where nodes on hosts of their own listen.
const NODE_PORT: u16 = 7000;
/// Pause between two looks at a condition.
const LOOK: Duration = Duration::from_millis(50);

/// The path of the built binary.
pub(crate) fn binary() -> &'static str {
    env!("CARGO_BIN_EXE_fairshare")
}

/// A command of the binary, untouched by the user's own settings.
pub(crate) fn fairshare() -> Command {
    let mut command = Command::new(binary());
    for (name, _) in env::vars_os() {
        let own = name.to_string_lossy().into_owned();
        if own.starts_with("FAIRSHARE_") {
            command.env_remove(own);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// Waits until `look` gives something. Fails the test after `limit`, naming `what`.
pub(crate) fn wait_for<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < limit, "waited {limit:?} for {what}");
        thread::sleep(LOOK);
    }
}

/// A process with its output as lines; it dies with the test.
pub(crate) struct Process {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Process {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the program can be started");
        let output = child.stdout.take().expect("piped above");
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                // The test may have stopped listening; the output must be drained all the same.
                let _ = sender.send(line);
            }
        });
        let input = child.stdin.take();
        Self { child, input, lines }
    }

    /// The next line as JSON.
    pub(crate) fn next_json(&self, what: &str, limit: Duration) -> Value {
        let line = self.lines.recv_timeout(limit).unwrap_or_else(|_| panic!("no line with {what}"));
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{what}: {line}: {error}"))
    }

    /// The first JSON line whose `event` is `event`.
    pub(crate) fn event(&self, event: &str, limit: Duration) -> Value {
        let start = Instant::now();
        loop {
            let left = limit.saturating_sub(start.elapsed());
            let value = self.next_json(event, left);
            if value["event"] == event {
                return value;
            }
            assert_ne!(value["event"], "error", "{value}");
        }
    }

    pub(crate) fn write_line(&mut self, value: &Value) {
        let input = self.input.as_mut().expect("started with a pipe");
        writeln!(input, "{value}").expect("the program listens");
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("a child of this test");
        self.child.wait().expect("a child of this test");
    }

    /// Asks the program to end, as a service manager does, and returns whether it ended well within `limit`.
    pub(crate) fn stop(&mut self, limit: Duration) -> bool {
        let signal = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        assert!(signal.expect("kill is everywhere").success());
        let end =
            wait_for("the program to end", limit, || self.child.try_wait().expect("a child of this test"));
        end.success()
    }

    /// Waits for the end; whether it was a good one.
    pub(crate) fn wait(&mut self, limit: Duration) -> bool {
        wait_for("the program to end", limit, || self.child.try_wait().expect("a child of this test"))
            .success()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A running node of the built binary.
pub(crate) struct Node {
    pub(crate) process: Process,
    pub(crate) data: PathBuf,
    pub(crate) key: String,
    pub(crate) listen: String,
    /// The host it runs on, if not on the machine itself.
    host: Option<Host>,
}

impl Node {
    /// Starts `fairshare run` on the data folder. `arguments` come after those every test node has.
    pub(crate) fn start(data: &Path, arguments: &[&str]) -> Self {
        let has_address = arguments.contains(&"--listen");
        let mut all = if has_address { Vec::new() } else { vec!["--listen", "127.0.0.1:0"] };
        all.extend(arguments);
        Self::start_at(None, data, &all)
    }

    /// The same on a host of a test's own internet, listening at that host's address.
    pub(crate) fn start_on(host: &Host, data: &Path, arguments: &[&str]) -> Self {
        let listen = host.port(NODE_PORT);
        let mut all = vec!["--listen", &listen];
        all.extend(arguments);
        Self::start_at(Some(host.clone()), data, &all)
    }

    fn start_at(host: Option<Host>, data: &Path, arguments: &[&str]) -> Self {
        let mut command = fairshare();
        command.args(["run", "--no-bootstrap", "--api", "127.0.0.1:0", "--json", "--data"]).arg(data);
        command.args(arguments);
        let process = Process::start(&mut at(host.as_ref(), command));
        let ready = process.next_json("ready", SOON);
        assert_eq!(ready["event"], "ready", "{ready}");
        let text =
            |name: &str| ready[name].as_str().unwrap_or_else(|| panic!("no {name} in {ready}")).to_owned();
        Self { process, data: data.to_path_buf(), key: text("public_key"), listen: text("listen"), host }
    }

    /// Runs a command against this node: its exit code and the JSON value it printed, if it did.
    pub(crate) fn try_command(&self, arguments: &[&str]) -> (Option<i32>, Value) {
        try_command_at(self.host.as_ref(), &self.data, arguments)
    }

    /// Runs a command that must succeed; the JSON value it printed.
    pub(crate) fn command(&self, arguments: &[&str]) -> Value {
        let (code, value) = self.try_command(arguments);
        assert_eq!(code, Some(0), "fairshare {} printed {value}", arguments.join(" "));
        value
    }

    /// The keys of the verified peers, as the text of the whole answer.
    pub(crate) fn knows(&self, key: &str) -> bool {
        self.command(&["peers", "list"]).to_string().contains(key)
    }
}

/// Runs a command against the node of a data folder.
pub(crate) fn try_command(data: &Path, arguments: &[&str]) -> (Option<i32>, Value) {
    try_command_at(None, data, arguments)
}

fn try_command_at(host: Option<&Host>, data: &Path, arguments: &[&str]) -> (Option<i32>, Value) {
    let mut command = fairshare();
    command.args(arguments).arg("--data").arg(data).arg("--json");
    let output = at(host, command).output().expect("the program can be started");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let value = serde_json::from_str(&text)
        .unwrap_or_else(|_| json!({ "stdout": text, "stderr": String::from_utf8_lossy(&output.stderr) }));
    (output.status.code(), value)
}

/// `command` on a host of the test's own internet, or on the machine itself.
fn at(host: Option<&Host>, command: Command) -> Command {
    let mut command = match host {
        Some(host) => host.on(&command),
        None => command,
    };
    command.stdin(Stdio::null());
    command
}

/// Writes `DIR/config.toml`.
pub(crate) fn configure(data: &Path, toml: &str) {
    fs::create_dir_all(data).expect("a folder of this test");
    fs::write(data.join("config.toml"), toml).expect("a folder of this test");
}

/// An address that was free a moment ago.
pub(crate) fn free_address() -> String {
    let socket = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    socket.local_addr().expect("bound above").to_string()
}

/// The first of `count` TCP ports of loopback in a row that were free a moment ago.
pub(crate) fn free_port_run(count: u16) -> u16 {
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    wait_for("free ports in a row", SOON, || {
        let socket = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let first = socket.local_addr().expect("bound above").port();
        drop(socket);
        let last = first.checked_add(count - 1)?;
        (first..=last).all(|port| is_free(&port)).then_some(first)
    })
}

/// Writes `bytes` bytes that no compression and no other seed repeats.
pub(crate) fn write_random_file(path: &Path, bytes: u64, seed: u8) {
    let mut rng = fairshare_crypto::Rng::from_seed([seed; 32]);
    let mut file = File::create(path).expect("a folder of this test");
    let mut left = bytes;
    while left > 0 {
        let block = rng.bytes::<65536>();
        let now = left.min(block.len() as u64) as usize;
        file.write_all(&block[..now]).expect("the disk has room");
        left -= now as u64;
    }
}

/// Size of a file that goes through circuits, unless `FAIRSHARE_CIRCUIT_MIB` asks for more.
pub(crate) fn circuit_file_bytes() -> u64 {
    env::var("FAIRSHARE_CIRCUIT_MIB").map_or(4, |text| text.parse::<u64>().expect("a number")) << 20
}

/// Whether two files hold the same bytes.
pub(crate) fn same_bytes(one: &Path, two: &Path) -> bool {
    let open = |path: &Path| File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let (mut one, mut two) = (open(one), open(two));
    let (mut a, mut b) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let read = one.read(&mut a).expect("a file of this test");
        if read == 0 {
            return two.read(&mut b).expect("a file of this test") == 0;
        }
        if two.read_exact(&mut b[..read]).is_err() || a[..read] != b[..read] {
            return false;
        }
    }
}

/// The folder of the living peers, which `cargo xtask setup` makes and `cargo xtask test` names. Without it the test
/// says loudly that it skips itself, or fails where nothing may be skipped.
pub(crate) fn living_peers(test: &str) -> Option<PathBuf> {
    if let Some(folder) = env::var_os("FAIRSHARE_INTEROP_DIR") {
        return Some(PathBuf::from(folder));
    }
    skip(test, "no living peers; run `cargo xtask test interop`");
    None
}

/// Says loudly that a test skips itself, or fails where nothing may be skipped.
pub(crate) fn skip(test: &str, reason: &str) {
    assert!(env::var_os("FAIRSHARE_REQUIRE_ALL").is_none(), "{test}: {reason}");
    // Straight to the stream, past the capture of the harness, so that it is seen and counted.
    let line = format!("SKIPPED {test}: {reason}\n");
    std::io::stdout().write_all(line.as_bytes()).expect("somebody listens");
}

/// A script of `interop/` in the environment `name`.
pub(crate) fn living_peer(peers: &Path, name: &str, script: &str) -> Command {
    let mut command = Command::new(peers.join(name).join("bin").join("python"));
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("two levels below the root");
    command.arg(root.join("interop").join(script)).stdin(Stdio::piped());
    command
}
