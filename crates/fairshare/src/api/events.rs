//! The event stream: a ring of what happened last, and server-sent events from any point of it.
//= spec/interfaces.md#5-api-axum-08-utoipa-6--utoipa-axum-03---apiv1openapijson

use crate::show::rfc3339;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::stream::{self, Stream};
use serde_json::{Value as Json, json};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// Events kept for those who come late or come back.
const RING_MAX: usize = 10_000;
/// Events that one step of a stream takes out of the ring: bounds what a slow reader holds in memory.
const STEP_MAX: usize = 64;
/// A silent stream sends a comment this often, so that both ends notice a broken connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// One event as clients see it.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// Rising by one.
    pub(crate) id: u64,
    /// Milliseconds since 1970.
    pub(crate) at_ms: u64,
    /// A stable word.
    pub(crate) kind: &'static str,
    /// What it is about: the name of a node, or empty.
    pub(crate) subject: String,
    /// The details.
    pub(crate) data: Json,
}

impl Entry {
    fn to_json(&self) -> Json {
        json!({
            "id": self.id.to_string(), "at": rfc3339(self.at_ms), "kind": self.kind,
            "subject": self.subject, "data": self.data,
        })
    }
}

/// The ring, shared by all who write and read it.
#[derive(Clone, Debug)]
pub(crate) struct EventLog {
    ring: Arc<Mutex<Ring>>,
    newest: Arc<watch::Sender<u64>>,
}

#[derive(Debug, Default)]
struct Ring {
    last_id: u64,
    entries: VecDeque<Entry>,
}

impl EventLog {
    pub(crate) fn new() -> Self {
        Self { ring: Arc::default(), newest: Arc::new(watch::Sender::new(0)) }
    }

    /// Adds an event and wakes the readers.
    pub(crate) fn push(&self, at_ms: u64, kind: &'static str, subject: &str, data: Json) {
        let mut ring = self.lock();
        ring.last_id += 1;
        let id = ring.last_id;
        if ring.entries.len() == RING_MAX {
            ring.entries.pop_front();
        }
        ring.entries.push_back(Entry { id, at_ms, kind, subject: subject.to_owned(), data });
        drop(ring);
        self.newest.send_replace(id);
    }

    fn after(&self, id: u64, kind: Option<&str>) -> (u64, Vec<Entry>) {
        let ring = self.lock();
        let first = ring.entries.front().map_or(ring.last_id + 1, |entry| entry.id);
        let skip = usize::try_from((id + 1).saturating_sub(first)).unwrap_or(usize::MAX);
        let taken: Vec<Entry> = ring.entries.iter().skip(skip).take(STEP_MAX).cloned().collect();
        let end = taken.last().map_or(id, |entry| entry.id);
        (end, taken.into_iter().filter(|entry| kind.is_none_or(|kind| entry.kind == kind)).collect())
    }

    /// Where a reader goes on. One that saw events of an earlier run begins again: numbers start with the process.
    fn place(&self, after: u64) -> u64 {
        if after > self.lock().last_id { 0 } else { after }
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stream of everything after event `after`, of one kind if one is named.
    pub(crate) fn stream(
        &self,
        after: u64,
        kind: Option<String>,
    ) -> Sse<impl Stream<Item = Result<Event, Infallible>> + use<>> {
        let state = (self.clone(), self.newest.subscribe(), self.place(after), kind, VecDeque::new());
        let events = stream::unfold(state, |(log, mut newest, mut after, kind, mut queue)| async move {
            while queue.is_empty() {
                let (end, entries) = log.after(after, kind.as_deref());
                let moved = end != after;
                after = end;
                queue.extend(entries);
                if !moved && newest.wait_for(|id| *id > after).await.is_err() {
                    return None;
                }
            }
            let entry = queue.pop_front()?;
            let event = Event::default().id(entry.id.to_string()).data(entry.to_json().to_string());
            Some((Ok(event), (log, newest, after, kind, queue)))
        });
        Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_forgets_the_oldest_and_a_reader_sees_the_gap() {
        let log = EventLog::new();
        for number in 0..RING_MAX as u64 + 5 {
            log.push(number, "test", "", json!(number));
        }
        let (end, entries) = log.after(0, None);
        assert_eq!(entries.first().map(|entry| entry.id), Some(6));
        assert_eq!(end, 5 + STEP_MAX as u64);
        let (_, entries) = log.after(RING_MAX as u64 + 4, None);
        assert_eq!(entries.len(), 1);
    }

    #[test]
    fn a_reader_of_an_earlier_run_begins_again() {
        let log = EventLog::new();
        log.push(0, "test", "", Json::Null);
        assert_eq!((log.place(0), log.place(1), log.place(2)), (0, 1, 0));
    }

    #[test]
    fn a_filter_passes_over_other_kinds_without_stopping() {
        let log = EventLog::new();
        (0..100).for_each(|number| log.push(number, "other", "", Json::Null));
        log.push(100, "wanted", "", Json::Null);
        let (end, entries) = log.after(0, Some("wanted"));
        assert!(entries.is_empty() && end == STEP_MAX as u64);
        let (end, entries) = log.after(end, Some("wanted"));
        assert_eq!((end, entries.len()), (101, 1));
    }
}
