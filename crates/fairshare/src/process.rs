//! Signals of the process: SIGTERM and Ctrl-C ask for an orderly end.

use crate::failure::{Failure, Outcome};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use tokio::signal::unix::{SignalKind, signal};

/// Knows whether somebody asked the process to end.
#[derive(Clone, Default)]
pub(crate) struct Interrupt(Arc<(Mutex<bool>, Condvar)>);

impl Interrupt {
    /// Listens from now on, on a thread of its own. A second signal ends the process at once.
    pub(crate) fn listen() -> Outcome<Self> {
        let interrupt = Self::default();
        let listener = interrupt.clone();
        let unable =
            |error: std::io::Error| Failure::failed("signals", format!("cannot listen for signals: {error}"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(unable)?;
        let (mut terminate, mut interrupted) = {
            let _inside = runtime.enter();
            (
                signal(SignalKind::terminate()).map_err(unable)?,
                signal(SignalKind::interrupt()).map_err(unable)?,
            )
        };
        let listen = move || {
            runtime.block_on(async {
                for came_before in [false, true] {
                    tokio::select! { _ = terminate.recv() => {}, _ = interrupted.recv() => {} }
                    if came_before {
                        std::process::exit(130);
                    }
                    listener.tell();
                }
            });
        };
        std::thread::Builder::new().name("signals".to_owned()).spawn(listen).map_err(unable)?;
        Ok(interrupt)
    }

    /// Whether a signal came.
    pub(crate) fn came(&self) -> bool {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sleeps until a signal comes.
    pub(crate) fn wait(&self) {
        let guard = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.0.1.wait_while(guard, |came| !*came).unwrap_or_else(PoisonError::into_inner));
    }

    /// Wakes whoever waits, as a signal does.
    pub(crate) fn tell(&self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.1.notify_all();
    }
}
