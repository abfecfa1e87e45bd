//! One HTTP exchange through a circuit: asked for by an originator, carried out by an exit.
//= spec/tunnels.md#7-exit

use crate::engine::{ResolvingFor, Tunnel};
use crate::exit_policy::may_reach;
use crate::joined::Joined;
use crate::output::{GroupId, TunnelEvent, TunnelOutput};
use crate::wire::{CircuitId, Message, fits};
use bytes::Bytes;
use fairshare_wire::{Address, Instant, Now};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

/// Exchanges of one circuit at once.
const PER_CIRCUIT: usize = 5;
/// Exchanges of ours at once.
const ASKED_MAX: usize = 64;
/// An exchange is over after this.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of one part of an answer.
const PART: usize = 1_400;
/// Parts of an answer: what 1 MiB of body with its header makes.
const PARTS_MAX: u16 = 800;
/// The largest request: what one cell carries.
const REQUEST_MAX: usize = 1_400;

/// Lists in lists in a tracker's answer.
const DEPTH_MAX: usize = 16;
/// Digits of a number or length in it, with what ends them.
const DIGITS_MAX: usize = 24;

/// Exchanges under way, ours and those that we carry out.
#[derive(Default)]
pub(crate) struct Fetch {
    asked: BTreeMap<u32, Asked>,
    carried: BTreeMap<u64, (CircuitId, u32)>,
}

struct Asked {
    ticket: u64,
    group: GroupId,
    circuit: CircuitId,
    since: Instant,
    parts: BTreeMap<u16, Bytes>,
    total: Option<u16>,
}

impl Fetch {
    /// Nobody waits for the group's answers any more.
    pub(crate) fn forget_group(&mut self, group: GroupId) {
        self.asked.retain(|_, one| one.group != group);
    }
}

impl Tunnel {
    /// Has the exit of one of the group's circuits carry out an HTTP exchange. Answer:
    /// [`TunnelEvent::HttpAnswered`] with this ticket.
    pub fn http(&mut self, now: Now, ticket: u64, group: GroupId, target: Address, request: Bytes) {
        if request.len() > REQUEST_MAX || !fits(&target) {
            return self.http_failed(ticket, "the request is longer than a circuit carries at once");
        }
        if self.fetches.asked.len() >= ASKED_MAX {
            return self.http_failed(ticket, "too many requests wait");
        }
        let Some(circuit) = self.any_circuit(group) else {
            return self.http_failed(ticket, "no circuit to an exit that fetches web pages");
        };
        let ident = (self.rng.next_u64() >> 32) as u32;
        let asked = Asked { ticket, group, circuit, since: now.mono, parts: BTreeMap::new(), total: None };
        self.fetches.asked.insert(ident, asked);
        self.own_send(circuit, &Message::HttpRequest { ident, target, request });
        self.arm(now.mono);
    }

    fn http_failed(&mut self, ticket: u64, why: &'static str) {
        self.event(TunnelEvent::HttpAnswered { ticket, result: Err(why) });
    }

    pub(crate) fn http_part(&mut self, circuit: CircuitId, ident: u32, part: u16, total: u16, bytes: Bytes) {
        let Some(asked) = self.fetches.asked.get_mut(&ident).filter(|asked| asked.circuit == circuit) else {
            return self.refuse("answer that nobody waits for");
        };
        if total == 0 || total > PARTS_MAX || part >= total || asked.total.is_some_and(|known| known != total)
        {
            return self.refuse("part of an answer that cannot be");
        }
        asked.total = Some(total);
        asked.parts.insert(part, bytes);
        if asked.parts.len() < usize::from(total) {
            return;
        }
        let Some(asked) = self.fetches.asked.remove(&ident) else { return };
        let whole: Vec<u8> = asked.parts.values().flat_map(|part| part.iter().copied()).collect();
        self.event(TunnelEvent::HttpAnswered { ticket: asked.ticket, result: Ok(whole.into()) });
    }

    /// An originator asks us.
    pub(crate) fn http_asked(&mut self, circuit: CircuitId, ident: u32, target: Address, request: Bytes) {
        if !self.config.exit_http || !self.config.relay {
            return self.refuse("web request, but we fetch none");
        }
        let Some(Joined::End(end)) = self.joined.get_mut(&circuit) else { return };
        if end.exit.http >= PER_CIRCUIT {
            return self.refuse("too many web requests of one circuit");
        }
        end.exit.http += 1;
        match target {
            Address::Ip(target) => self.http_resolved(circuit, ident, Some(target), request),
            Address::Host(host, port) => {
                self.resolve(circuit, &host, port, ResolvingFor::Http { ident, request });
            }
        }
    }

    pub(crate) fn http_resolved(
        &mut self,
        circuit: CircuitId,
        ident: u32,
        target: Option<SocketAddr>,
        request: Bytes,
    ) {
        let reach = target.filter(|target| may_reach(target, self.config.exit_loopback));
        let Some(target) = reach else {
            self.http_over(circuit);
            return self.refuse("web server that may not be reached");
        };
        let ticket = self.new_ticket();
        self.fetches.carried.insert(ticket, (circuit, ident));
        self.out.push_back(TunnelOutput::HttpFetch { ticket, target, request });
    }

    /// The host's answer to [`TunnelOutput::HttpFetch`]. Only what looks like a tracker's answer goes back.
    pub fn http_fetched(&mut self, _now: Now, ticket: u64, result: Result<Bytes, String>) {
        let Some((circuit, ident)) = self.fetches.carried.remove(&ticket) else { return };
        self.http_over(circuit);
        let Ok(answer) = result else { return self.refuse("web request that failed") };
        if !is_trackers_answer(&answer) {
            return self.refuse("web answer that is no tracker's");
        }
        let total = answer.len().div_ceil(PART).max(1);
        let Ok(total) = u16::try_from(total) else { return self.refuse("web answer that is too long") };
        for part in 0..total {
            let from = usize::from(part) * PART;
            let response = answer.slice(from..(from + PART).min(answer.len()));
            self.end_send(circuit, &Message::HttpResponse { ident, part, total, response });
        }
    }

    fn http_over(&mut self, circuit: CircuitId) {
        if let Some(Joined::End(end)) = self.joined.get_mut(&circuit) {
            end.exit.http = end.exit.http.saturating_sub(1);
        }
    }

    pub(crate) fn tend_fetches(&mut self, now: Now) {
        let late = |asked: &Asked| now.mono.since(asked.since) >= TIMEOUT;
        let over: Vec<_> =
            self.fetches.asked.iter().filter(|(_, asked)| late(asked)).map(|(ident, _)| *ident).collect();
        for ident in over {
            if let Some(asked) = self.fetches.asked.remove(&ident) {
                self.http_failed(asked.ticket, "the exit gave no answer");
            }
        }
    }

    pub(crate) fn has_fetches(&self) -> bool {
        !self.fetches.asked.is_empty()
    }
}

/// A redirection as trackers send it, or a bencoded body.
fn is_trackers_answer(answer: &[u8]) -> bool {
    if answer.starts_with(b"HTTP/1.1 307") {
        return true;
    }
    let Some(at) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { return false };
    answer.get(at + 4..).is_some_and(is_bencoded)
}

/// Whether these bytes are one bencoded value and nothing else.
fn is_bencoded(bytes: &[u8]) -> bool {
    // For each list and dictionary that is open: whether it is a dictionary that goes on with a key.
    let mut open: Vec<Option<bool>> = Vec::new();
    let mut left = bytes;
    loop {
        let after = match (left, open.last()) {
            ([b'e', after @ ..], Some(None | Some(true))) => {
                open.pop();
                Some(after)
            }
            ([b'0'..=b'9', ..], _) => after_string(left),
            ([b'i', after @ ..], None | Some(None | Some(false))) => after_integer(after),
            ([kind @ (b'l' | b'd'), after @ ..], None | Some(None | Some(false)))
                if open.len() < DEPTH_MAX =>
            {
                open.push((*kind == b'd').then_some(true));
                left = after;
                continue;
            }
            _ => None,
        };
        let Some(after) = after else { return false };
        left = after;
        match open.last_mut() {
            None => return left.is_empty(),
            Some(Some(key)) => *key = !*key,
            Some(None) => {}
        }
    }
}

fn after_string(bytes: &[u8]) -> Option<&[u8]> {
    let colon = bytes.iter().take(DIGITS_MAX).position(|byte| *byte == b':')?;
    let len: usize = std::str::from_utf8(bytes.get(..colon)?).ok()?.parse().ok()?;
    bytes.get(colon + 1..)?.get(len..)
}

fn after_integer(bytes: &[u8]) -> Option<&[u8]> {
    let end = bytes.iter().take(DIGITS_MAX).position(|byte| *byte == b'e')?;
    let digits = bytes.get(..end)?;
    let digits = digits.strip_prefix(b"-").unwrap_or(digits);
    let number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    number.then(|| bytes.get(end + 1..)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    //= spec/tunnels.md#7-exit
    #[test]
    fn only_trackers_answers_go_back() {
        assert!(is_trackers_answer(b"HTTP/1.1 200 OK\r\n\r\nd8:intervali60ee"));
        assert!(is_trackers_answer(b"HTTP/1.1 307 Temporary\r\n\r\n<html>"));
        assert!(!is_trackers_answer(b"HTTP/1.1 200 OK\r\n\r\n<html>secret</html>"));
        assert!(!is_trackers_answer(b"d8:intervali60ee") && !is_trackers_answer(b""));
        for good in ["i-5e", "le", "de", "0:", "3:abc", "d1:al1:bi1ee1:cdee", "d1:a0:e"] {
            assert!(is_bencoded(good.as_bytes()), "{good}");
        }
        let deep = "l".repeat(1_000) + &"e".repeat(1_000);
        for bad in [
            "",
            "e",
            "i5",
            "ie",
            "i--5e",
            "3:ab",
            "3:abcd",
            "d",
            "di1e1:ae",
            "d1:ae",
            "lee",
            "9999999999999999999:a",
            &deep,
        ] {
            assert!(!is_bencoded(bad.as_bytes()), "{bad}");
        }
    }
}
