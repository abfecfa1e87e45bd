//! The programs of a bench as processes: started, listened to, timed, and ended with the bench.

use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Limit of one transfer; a bench that takes longer measures nothing of use.
const LIMIT: Duration = Duration::from_secs(600);
/// Pause between two looks at a condition: a thousandth of what is measured.
const LOOK: Duration = Duration::from_millis(5);
/// Kernel ticks a second in `/proc/PID/stat` (`USER_HZ`, fixed for all programs).
const TICKS_PER_S: f64 = 100.0;

/// A running program that prints JSON lines.
pub(super) struct Peer {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Peer {
    pub(super) fn start(command: &mut Command) -> Result<Self, String> {
        let name = command.get_program().to_string_lossy().into_owned();
        // The input stays open: the Python peers end when it closes.
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = spawned.map_err(|error| format!("cannot start {name}: {error}"))?;
        let lines = BufReader::new(child.stdout.take().ok_or("no output")?);
        Ok(Self { child, lines })
    }

    /// Reads on until the line with `event`.
    pub(super) fn event(&mut self, event: &str) -> Result<Value, String> {
        loop {
            let mut line = String::new();
            let read = self.lines.read_line(&mut line).map_err(|error| error.to_string())?;
            if read == 0 {
                return Err(format!("a peer ended before {event}"));
            }
            let value = serde_json::from_str::<Value>(&line).unwrap_or_default();
            if value["event"] == event {
                return Ok(value);
            }
            if value["event"] == "error" {
                return Err(value.to_string());
            }
        }
    }

    /// CPU seconds the program has used, in user and kernel.
    pub(super) fn cpu_s(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        // The name in parentheses may hold blanks; after it, utime and stime are the 12th and 13th field.
        let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
        fields.filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() / TICKS_PER_S
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a program to its end and gives what it printed as JSON.
pub(super) fn run(command: &mut Command) -> Result<Value, String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
    if !output.status.success() {
        let name = command.get_program().to_string_lossy();
        return Err(format!("{name} failed: {}", String::from_utf8_lossy(&output.stderr)));
    }
    Ok(serde_json::from_slice(&output.stdout).unwrap_or_default())
}

/// Waits until `path` exists.
pub(super) fn wait_for_file(path: &Path) -> Result<(), String> {
    let start = Instant::now();
    while !path.exists() {
        if start.elapsed() > LIMIT {
            return Err(format!("waited {LIMIT:?} for {}", path.display()));
        }
        thread::sleep(LOOK);
    }
    Ok(())
}

/// Bytes that went over the loopback interface of this network namespace so far, headers included.
pub(super) fn loopback_bytes() -> Result<u64, String> {
    let table = fs::read_to_string("/proc/self/net/dev").map_err(|error| error.to_string())?;
    let (_, row) = table.split_once("lo:").ok_or("no loopback interface")?;
    let received = row.split_whitespace().next().ok_or("no counters")?;
    received.parse().map_err(|_| "no counters".to_owned())
}
