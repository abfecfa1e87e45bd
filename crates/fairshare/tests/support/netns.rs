//! A small internet of the test's own: hosts in network namespaces, each on a wire of its own to a router that forwards.
//!
//! A wire carries what its host sends and receives and nothing else, so that a capture of it is what that host's provider
//! sees. The addresses are of the public range and each host is in a /16 of its own: what a node refuses to private
//! addresses or to neighbours needs no exception here. Nothing leads out: the hosts reach each other and nobody else.

use super::capture::Capture;
use super::skip;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Names of this kind of namespace begin so, followed by the process that made it.
const PREFIX: &str = "fairshare";
/// The router's name.
const ROUTER: &str = "router";
/// Where the namespaces of a machine are listed.
const NAMESPACES: &str = "/run/netns";
/// The interface of every host.
const INTERFACE: &str = "wire";

/// The namespaces of one test. They go when it ends, well or not.
pub(crate) struct Internet {
    /// Tells the namespaces of this process from those of others.
    prefix: String,
    hosts: Vec<String>,
}

/// A host with one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Host {
    namespace: String,
    pub(crate) name: String,
    pub(crate) ip: String,
}

impl Internet {
    /// An internet without hosts. Where namespaces or captures are not possible the test says loudly that it skips itself,
    /// or fails where nothing may be skipped.
    pub(crate) fn new(test: &str) -> Option<Self> {
        remove_orphans();
        let internet = Self { prefix: format!("{PREFIX}-{}", std::process::id()), hosts: Vec::new() };
        let made = internet
            .add_namespace(ROUTER)
            .and_then(|()| run(Command::new("tcpdump").arg("--version")))
            .and_then(|()| internet.in_router(&["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]));
        match made {
            Ok(()) => Some(internet),
            Err(reason) => {
                skip(test, &format!("needs root, `ip netns` and tcpdump: {reason}"));
                None
            }
        }
    }

    /// A new host. Its address is in a /16 that no other host has.
    pub(crate) fn host(&mut self, name: &str) -> Host {
        self.hosts.push(name.to_owned());
        let number = self.hosts.len();
        let host =
            Host { namespace: self.namespace(name), name: name.to_owned(), ip: format!("11.{number}.0.2") };
        self.wire(&host, &format!("11.{number}.0.1")).unwrap_or_else(|reason| panic!("{name}: {reason}"));
        host
    }

    /// Lets nothing pass between these two, as between hosts behind firewalls.
    pub(crate) fn part(&self, one: &Host, two: &Host) {
        for (from, to) in [(&one.ip, &two.ip), (&two.ip, &one.ip)] {
            let rule = ["-n", &self.namespace(ROUTER), "rule", "add", "from", from, "to", to, "blackhole"];
            ip(&rule).unwrap_or_else(|reason| panic!("{reason}"));
        }
    }

    fn wire(&self, host: &Host, gateway: &str) -> Result<(), String> {
        self.add_namespace(&host.name)?;
        let (router, own) = (self.namespace(ROUTER), host.namespace.as_str());
        let theirs = format!("w{}", self.hosts.len());
        ip(&["-n", own, "link", "set", "lo", "up"])?;
        ip(&[
            "-n", &router, "link", "add", &theirs, "type", "veth", "peer", "name", INTERFACE, "netns", own,
        ])?;
        ip(&["-n", &router, "address", "add", &format!("{gateway}/24"), "dev", &theirs])?;
        ip(&["-n", &router, "link", "set", &theirs, "up"])?;
        ip(&["-n", own, "address", "add", &format!("{}/24", host.ip), "dev", INTERFACE])?;
        ip(&["-n", own, "link", "set", INTERFACE, "up"])?;
        ip(&["-n", own, "route", "add", "default", "via", gateway])
    }

    fn namespace(&self, name: &str) -> String {
        format!("{}-{name}", self.prefix)
    }

    fn add_namespace(&self, name: &str) -> Result<(), String> {
        ip(&["netns", "add", &self.namespace(name)])
    }

    fn in_router(&self, command: &[&str]) -> Result<(), String> {
        run(Command::new("ip").args(["netns", "exec", &self.namespace(ROUTER)]).args(command))
    }
}

impl Drop for Internet {
    fn drop(&mut self) {
        for name in self.hosts.iter().map(String::as_str).chain([ROUTER]) {
            // One that was never made, because its making failed, cannot be removed.
            let _ = ip(&["netns", "delete", &self.namespace(name)]);
        }
    }
}

impl Host {
    /// `command`, to be run on this host. It becomes the process itself, so that a signal reaches it. Where its input and
    /// output go is for the caller to say.
    pub(crate) fn on(&self, command: &Command) -> Command {
        let mut here = Command::new("ip");
        here.args(["netns", "exec", &self.namespace]).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => here.env(name, value),
                None => here.env_remove(name),
            };
        }
        here
    }

    /// An address of this host.
    pub(crate) fn port(&self, port: u16) -> String {
        format!("{}:{port}", self.ip)
    }

    /// Records everything on the wire of this host from now on.
    pub(crate) fn capture(&self, folder: &Path) -> Capture {
        let mut tcpdump = Command::new("tcpdump");
        tcpdump.args(["--interface", INTERFACE]);
        Capture::start(self.on(&tcpdump), &folder.join(format!("{}.pcap", self.name)))
    }
}

/// Removes the namespaces of test processes that were killed before they could.
fn remove_orphans() {
    let Ok(entries) = fs::read_dir(NAMESPACES) else { return };
    for name in entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()) {
        let maker = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').nth(1));
        if maker.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            end_processes(&name);
            // Somebody else may be removing it too.
            let _ = ip(&["netns", "delete", &name]);
        }
    }
}

/// Ends what still runs in a namespace that nobody watches any more.
fn end_processes(namespace: &str) {
    let listed = Command::new("ip").args(["netns", "pids", namespace]).output();
    for process in String::from_utf8_lossy(&listed.map_or(Vec::new(), |listed| listed.stdout)).lines() {
        // It may end on its own before.
        let _ = run(Command::new("kill").args(["-KILL", process]));
    }
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    run(Command::new("ip").args(arguments))
}

fn run(command: &mut Command) -> Result<(), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| format!("cannot start {program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program} {:?} failed: {}", command.get_args().collect::<Vec<_>>(), said.trim()))
}
