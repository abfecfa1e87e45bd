//! Packet captures of tcpdump, and what can be said of them: who talked to whom, and whether known bytes were to be seen.

use super::wait_for;
use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

/// tcpdump starts and ends within moments.
const SOON: Duration = Duration::from_secs(30);
/// KiB the kernel keeps for a tcpdump that gets no processor for a while.
const KERNEL_BUFFER: &str = "65536";
/// Bytes of the header of a capture file, and of each packet in it.
const FILE_HEADER: usize = 24;
const PACKET_HEADER: usize = 16;
/// The number a capture file of this machine begins with: microseconds, in the byte order of the machine.
const MAGIC: u32 = 0xa1b2_c3d4;
/// The header of an Ethernet frame, and its last two bytes when the frame holds IPv4.
const ETHERNET_HEADER: usize = 14;
const IPV4: [u8; 2] = [8, 0];

/// Where an IPv4 header says what it carries; what it says of UDP; and the length of UDP's own header.
const PROTOCOL: usize = 9;
const UDP: u8 = 17;
const UDP_HEADER: usize = 8;

/// A running tcpdump.
pub(crate) struct Capture {
    process: Child,
    said: Receiver<String>,
    file: PathBuf,
}

impl Capture {
    /// Starts `tcpdump`, which already names its interface, and waits until it listens.
    pub(crate) fn start(mut tcpdump: Command, file: &Path) -> Self {
        // As itself: it would give up root, and with it the folder of the test.
        tcpdump.args(["--relinquish-privileges", "root", "--buffer-size", KERNEL_BUFFER]);
        tcpdump.args(["--packet-buffered", "--immediate-mode", "-n", "-w"]).arg(file);
        let mut process = tcpdump
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("checked when the internet was made");
        let stderr = process.stderr.take().expect("piped above");
        let (sender, said) = channel();
        thread::spawn(move || {
            // Nobody may be listening any more; that is no reason to leave the pipe full.
            BufReader::new(stderr).lines().map_while(Result::ok).for_each(|line| drop(sender.send(line)));
        });
        let capture = Self { process, said, file: file.to_path_buf() };
        capture.wait_for_line("listening on");
        capture
    }

    /// Ends the capture. One that lost packets proves nothing and fails the test.
    pub(crate) fn finish(mut self) -> Wire {
        let interrupted = Command::new("kill").args(["-INT", &self.process.id().to_string()]).status();
        assert!(interrupted.expect("kill is everywhere").success());
        let dropped = self.wait_for_line("dropped by kernel");
        assert!(dropped.starts_with("0 "), "{}: {dropped}", self.file.display());
        let end = wait_for("tcpdump to end", SOON, || self.process.try_wait().expect("a child of this test"));
        assert!(end.success());
        Wire { bytes: fs::read(&self.file).expect("written by tcpdump") }
    }

    fn wait_for_line(&self, part: &str) -> String {
        loop {
            let line = self.said.recv_timeout(SOON);
            let line = line.unwrap_or_else(|_| panic!("tcpdump never said {part}"));
            if line.contains(part) {
                return line;
            }
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Everything that passed on one wire.
pub(crate) struct Wire {
    bytes: Vec<u8>,
}

/// One IPv4 packet, without the frame around it. Fragments count as packets.
#[derive(Clone, Copy)]
pub(crate) struct Packet<'a> {
    pub(crate) from: Ipv4Addr,
    pub(crate) to: Ipv4Addr,
    /// From the header of IP to the end.
    pub(crate) bytes: &'a [u8],
}

impl Packet<'_> {
    /// What a UDP packet carries; `None` for anything else.
    pub(crate) fn datagram(&self) -> Option<&[u8]> {
        let header = usize::from(self.bytes.first()? & 15) * 4;
        if *self.bytes.get(PROTOCOL)? != UDP {
            return None;
        }
        self.bytes.get(header + UDP_HEADER..)
    }
}

impl Wire {
    /// The IPv4 packets. Frames of other kinds, which address resolution sends, are left out.
    pub(crate) fn packets(&self) -> impl Iterator<Item = Packet<'_>> {
        self.frames().filter_map(packet)
    }

    /// The two ends of each conversation, the lower address first.
    pub(crate) fn conversations(&self) -> BTreeSet<(Ipv4Addr, Ipv4Addr)> {
        self.packets().map(|packet| (packet.from.min(packet.to), packet.from.max(packet.to))).collect()
    }

    /// The packets from or to `ip`.
    pub(crate) fn with(&self, ip: &str) -> impl Iterator<Item = Packet<'_>> {
        let ip = ip.parse::<Ipv4Addr>().expect("an address of a host");
        self.packets().filter(move |packet| packet.from == ip || packet.to == ip)
    }

    /// Whether any packet came from or went to `ip`.
    pub(crate) fn touches(&self, ip: &str) -> bool {
        self.with(ip).next().is_some()
    }

    /// How many frames hold any of the traces, counted over frames of every kind.
    pub(crate) fn frames_with(&self, traces: &Traces) -> usize {
        self.frames().filter(|frame| traces.are_in(frame)).count()
    }

    /// All frames, of every kind.
    pub(crate) fn frame_count(&self) -> usize {
        self.frames().count()
    }

    /// Bytes of all frames.
    pub(crate) fn byte_count(&self) -> u64 {
        self.frames().map(|frame| frame.len() as u64).sum()
    }

    fn frames(&self) -> impl Iterator<Item = &[u8]> {
        let word = |bytes: &[u8]| u32::from_ne_bytes(bytes.try_into().expect("four bytes"));
        assert_eq!(word(&self.bytes[..4]), MAGIC, "not a capture file of this machine");
        let mut rest = &self.bytes[FILE_HEADER..];
        std::iter::from_fn(move || {
            let (header, after) = rest.split_at_checked(PACKET_HEADER)?;
            let (frame, after) = after.split_at_checked(word(&header[8..12]) as usize)?;
            rest = after;
            Some(frame)
        })
    }
}

fn packet(frame: &[u8]) -> Option<Packet<'_>> {
    let (ethernet, bytes) = frame.split_at_checked(ETHERNET_HEADER)?;
    let address = |at: usize| <[u8; 4]>::try_from(bytes.get(at..at + 4)?).ok().map(Ipv4Addr::from);
    (ethernet[12..] == IPV4).then_some(())?;
    Some(Packet { from: address(12)?, to: address(16)?, bytes })
}

/// Bytes that must not be seen: names of a torrent, and its content.
pub(crate) struct Traces {
    /// Sought as they are.
    words: Vec<Vec<u8>>,
    /// Pieces of the content, one of each `STRIDE` bytes.
    samples: HashSet<[u8; SAMPLE]>,
    /// One bit for each beginning that some sample has: most places of a frame are passed over by this alone.
    beginnings: Vec<u64>,
}

/// Bytes of a sample of the content. Random bytes do not hold one by chance.
const SAMPLE: usize = 16;
/// Any run of content as long as this and a sample holds one. A block on the wire is many times longer.
const STRIDE: usize = 128;
/// Bytes of a beginning.
const BEGINNING: usize = 3;

impl Traces {
    /// The info hash in bytes and in text, the greeting of the peer wire, and the content of the file.
    pub(crate) fn of_torrent(info_hash: &str, content: &Path) -> Self {
        let hash = hex::decode(info_hash).expect("an info hash in hexadecimal");
        let (lower, upper) = (info_hash.to_lowercase(), info_hash.to_uppercase());
        let mut traces = Self::of_words([&hash, lower.as_bytes(), upper.as_bytes(), b"BitTorrent protocol"]);
        let bytes = fs::read(content).expect("a file of this test");
        bytes.chunks_exact(STRIDE).for_each(|chunk| traces.add_sample(chunk));
        traces
    }

    /// These words, each of at least three bytes.
    pub(crate) fn of_words<const N: usize>(words: [&[u8]; N]) -> Self {
        let beginnings = vec![0; (1 << (8 * BEGINNING)) / 64];
        let mut traces =
            Self { words: words.map(<[u8]>::to_vec).to_vec(), samples: HashSet::new(), beginnings };
        words.iter().for_each(|word| traces.add_beginning(word));
        traces
    }

    fn add_sample(&mut self, chunk: &[u8]) {
        let sample = <[u8; SAMPLE]>::try_from(&chunk[..SAMPLE]).expect("a chunk is longer than a sample");
        self.add_beginning(&sample);
        self.samples.insert(sample);
    }

    fn add_beginning(&mut self, bytes: &[u8]) {
        let number = beginning(bytes);
        self.beginnings[number / 64] |= 1 << (number % 64);
    }

    /// Whether any of the traces is in these bytes.
    pub(crate) fn are_in(&self, frame: &[u8]) -> bool {
        let places = frame.windows(BEGINNING).enumerate();
        places.into_iter().any(|(at, start)| {
            let number = beginning(start);
            self.beginnings[number / 64] >> (number % 64) & 1 == 1 && self.begin(&frame[at..])
        })
    }

    /// Whether `bytes` begin with a trace.
    fn begin(&self, bytes: &[u8]) -> bool {
        bytes.first_chunk().is_some_and(|sample| self.samples.contains(sample))
            || self.words.iter().any(|word| bytes.starts_with(word))
    }
}

fn beginning(bytes: &[u8]) -> usize {
    usize::from(bytes[0]) << 16 | usize::from(bytes[1]) << 8 | usize::from(bytes[2])
}
