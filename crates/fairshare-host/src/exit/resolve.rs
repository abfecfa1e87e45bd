//! Names for exits and trackers, asked of the system's resolver. It blocks as long as it likes, so it has threads of
//! its own that nobody waits for.

use crate::Answer;
use fairshare_swarm::Completion;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

/// Enough that some dead names do not hold up the others.
const THREADS: usize = 4;
/// Names that wait for a thread. Circuits ask for few, and repeat what they miss.
const WAITING_MAX: usize = 256;
/// Addresses told of one name.
const ADDRESSES_MAX: usize = 8;
/// No name of the internet is longer.
const NAME_MAX: usize = 253;

/// The threads and their queue. They end when this is dropped, each after the name it waits for.
pub(crate) struct Resolver {
    queue: SyncSender<(u64, String, u16)>,
    answer: Answer,
}

impl Resolver {
    pub(crate) fn start(answer: &Answer) -> std::io::Result<Self> {
        let (queue, waiting) = sync_channel(WAITING_MAX);
        let waiting = Arc::new(Mutex::new(waiting));
        for number in 0..THREADS {
            let (waiting, answer) = (waiting.clone(), answer.clone());
            let thread = std::thread::Builder::new().name(format!("resolve-{number}"));
            thread.spawn(move || work(&waiting, &answer))?;
        }
        Ok(Self { queue, answer: answer.clone() })
    }

    /// Looks a name up; the answer comes as a completion.
    pub(crate) fn resolve(&self, ticket: u64, host: String, port: u16) {
        if self.queue.try_send((ticket, host, port)).is_err() {
            let reason = "too many names wait already".to_owned();
            (self.answer)(vec![(ticket, Completion::Resolved(Err(reason)))]);
        }
    }
}

fn work(waiting: &Mutex<Receiver<(u64, String, u16)>>, answer: &Answer) {
    loop {
        let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((ticket, host, port)) = next else { return };
        answer(vec![(ticket, Completion::Resolved(look_up(&host, port)))]);
    }
}

fn look_up(host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    if host.is_empty() || host.len() > NAME_MAX || host.contains('\0') {
        return Err("no name of a host".to_owned());
    }
    let found = (host, port).to_socket_addrs().map_err(|error| error.to_string())?;
    let mut found = found.collect::<Vec<_>>();
    found.sort_by_key(SocketAddr::is_ipv6);
    found.truncate(ADDRESSES_MAX);
    if found.is_empty() { Err("the name has no address".to_owned()) } else { Ok(found) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Duration;

    #[test]
    fn a_name_is_looked_up_and_what_is_none_is_refused_in_words() {
        let (told, heard) = mpsc::channel();
        let told = Mutex::new(told);
        let answer: Answer = Arc::new(move |answers| {
            told.lock().expect("whole").send(answers).expect("somebody listens");
        });
        let resolver = Resolver::start(&answer).expect("threads");
        for (ticket, name) in [(1, "localhost"), (2, ""), (3, "127.0.0.9")] {
            resolver.resolve(ticket, name.to_owned(), 80);
        }
        for _ in 0..3 {
            let answers = heard.recv_timeout(Duration::from_secs(20)).expect("an answer");
            match &answers[0] {
                (1, Completion::Resolved(Ok(found))) => {
                    assert_eq!(found[0], SocketAddr::from(([127, 0, 0, 1], 80)), "IPv4 first");
                }
                (2, Completion::Resolved(Err(_))) => {}
                (3, Completion::Resolved(Ok(found))) => {
                    assert_eq!(*found, [SocketAddr::from(([127, 0, 0, 9], 80))]);
                }
                other => panic!("{other:?}"),
            }
        }
    }
}
