//! HTTP for trackers: a few threads that fetch one small page each.
//= spec/swarm.md#10-discovery

use crate::Answer;
use bytes::Bytes;
use fairshare_swarm::Completion;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Enough that one silent tracker does not hold up the others; each thread mostly waits.
const THREADS: usize = 4;
/// A torrent has a handful of trackers and asks each a few times an hour.
const WAITING_MAX: usize = 256;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
const TOTAL_TIMEOUT: Duration = Duration::from_secs(30);
const REDIRECTS_MAX: u32 = 5;
const SETTLE_POLL: Duration = Duration::from_millis(20);
const BODY_MAX: u64 = 1 << 20;

/// The threads and their queue. They end when this is dropped, each after the page it waits for.
pub(crate) struct HttpPool {
    queue: SyncSender<(u64, String)>,
    answer: Answer,
    /// Pages asked for and not yet answered.
    unfinished: Arc<AtomicUsize>,
}

impl HttpPool {
    pub(crate) fn start(answer: &Answer) -> std::io::Result<Self> {
        let (queue, waiting) = sync_channel(WAITING_MAX);
        let waiting = Arc::new(Mutex::new(waiting));
        let unfinished = Arc::new(AtomicUsize::new(0));
        for number in 0..THREADS {
            let (waiting, unfinished, answer, agent) =
                (waiting.clone(), unfinished.clone(), answer.clone(), agent());
            std::thread::Builder::new()
                .name(format!("http-{number}"))
                .spawn(move || work(&waiting, &unfinished, &answer, &agent))?;
        }
        Ok(Self { queue, answer: answer.clone(), unfinished })
    }

    /// Fetches a page; the answer comes as a completion.
    pub(crate) fn get(&self, ticket: u64, url: String) {
        self.unfinished.fetch_add(1, Ordering::AcqRel);
        let reason = match self.queue.try_send((ticket, url)) {
            Ok(()) => return,
            Err(TrySendError::Full(_)) => "too many tracker requests wait already",
            Err(TrySendError::Disconnected(_)) => "the program is ending",
        };
        self.unfinished.fetch_sub(1, Ordering::AcqRel);
        (self.answer)(vec![(ticket, Completion::Page(Err(reason.to_owned())))]);
    }

    /// Waits until every page is there, so that trackers hear of our end, but not longer than until `deadline`.
    pub(crate) fn settle(&self, deadline: Instant) {
        while self.unfinished.load(Ordering::Acquire) > 0 && Instant::now() < deadline {
            std::thread::sleep(SETTLE_POLL);
        }
    }
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .timeout_global(Some(TOTAL_TIMEOUT))
        .max_redirects(REDIRECTS_MAX)
        // A tracker must see our own address: it hands it to others.
        .proxy(None)
        .user_agent(concat!("fairshare/", env!("CARGO_PKG_VERSION")))
        .build()
        .into()
}

fn work(
    waiting: &Mutex<Receiver<(u64, String)>>,
    unfinished: &AtomicUsize,
    answer: &Answer,
    agent: &ureq::Agent,
) {
    loop {
        let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((ticket, url)) = next else { return };
        let page = fetch(agent, &url);
        unfinished.fetch_sub(1, Ordering::AcqRel);
        answer(vec![(ticket, Completion::Page(page))]);
    }
}

fn fetch(agent: &ureq::Agent, url: &str) -> Result<Bytes, String> {
    let mut response = agent.get(url).call().map_err(|error| error.to_string())?;
    let body = response.body_mut().with_config().limit(BODY_MAX).read_to_vec();
    body.map(Bytes::from).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    /// A server on loopback that answers each connection with the next of `replies`.
    fn server(replies: Vec<Vec<u8>>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let address = listener.local_addr().expect("bound");
        std::thread::spawn(move || {
            for reply in replies {
                let (mut stream, _) = listener.accept().expect("a client");
                answer(&mut stream, &reply);
            }
        });
        format!("http://{address}/announce?info_hash=%00")
    }

    fn answer(stream: &mut TcpStream, reply: &[u8]) {
        let mut request = [0; 4096];
        let _ = stream.read(&mut request);
        // The client may hang up early: that is what one of the tests is about.
        let _ = stream.write_all(reply);
    }

    fn page(body: &[u8]) -> Vec<u8> {
        let mut reply =
            format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
        reply.push_str(&String::from_utf8_lossy(body));
        reply.into_bytes()
    }

    #[test]
    fn fetches_a_page() {
        assert_eq!(
            fetch(&agent(), &server(vec![page(b"d8:intervali900ee")])),
            Ok(Bytes::from("d8:intervali900ee"))
        );
    }

    //= spec/swarm.md#10-discovery
    #[test]
    fn refuses_a_page_over_one_mebibyte() {
        let url = server(vec![page(&vec![b'x'; (BODY_MAX + 1) as usize])]);
        assert!(fetch(&agent(), &url).is_err());
        let url = server(vec![page(&vec![b'x'; BODY_MAX as usize])]);
        assert_eq!(fetch(&agent(), &url).map(|body| body.len() as u64), Ok(BODY_MAX));
    }

    //= spec/swarm.md#10-discovery
    #[test]
    fn follows_five_redirects_and_no_more() {
        let redirect =
            b"HTTP/1.1 302 Found\r\nLocation: /next\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        let mut replies = vec![redirect.to_vec(); 5];
        replies.push(page(b"end"));
        assert_eq!(fetch(&agent(), &server(replies)), Ok(Bytes::from("end")));
        let mut replies = vec![redirect.to_vec(); 6];
        replies.push(page(b"end"));
        assert!(fetch(&agent(), &server(replies)).is_err());
    }

    #[test]
    fn a_dead_tracker_is_an_error_in_words() {
        let free = TcpListener::bind("127.0.0.1:0").expect("loopback").local_addr().expect("bound");
        assert!(fetch(&agent(), &format!("http://{free}/")).is_err());
    }
}
