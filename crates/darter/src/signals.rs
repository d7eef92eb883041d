//! The signals that ask this process to end: SIGINT and SIGTERM, and SIGHUP for commands in the foreground.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Receives these signals.
#[derive(Debug)]
pub(crate) struct Signals {
    /// `None` for a process that was started to ignore SIGINT, as shells start background jobs of a script.
    interrupt: Option<Signal>,
    terminate: Signal,
    /// The terminal was closed. `None` if SIGHUP is not caught.
    hangup: Option<Signal>,
}

impl Signals {
    /// From now on, these signals no longer end the process: the caller has to wait for them. A SIGINT that the process was
    /// started to ignore stays ignored.
    pub(crate) fn catch() -> io::Result<Self> {
        Ok(Self {
            interrupt: unless_ignored(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: None,
        })
    }

    /// As [`catch`](Self::catch), for a process in the foreground, which ends with its terminal: also catches SIGHUP, unless the process was
    /// started to ignore it (`nohup`).
    pub(crate) fn catch_in_foreground() -> io::Result<Self> {
        Ok(Self { hangup: unless_ignored(SignalKind::hangup())?, ..Self::catch()? })
    }

    /// Waits for the next signal. Cancelling loses none.
    pub(crate) async fn next(&mut self) {
        self.which().await;
    }

    /// Waits for the next signal and returns its kind.
    pub(crate) async fn which(&mut self) -> SignalKind {
        tokio::select! {
            () = heard(&mut self.interrupt) => SignalKind::interrupt(),
            _ = self.terminate.recv() => SignalKind::terminate(),
            () = heard(&mut self.hangup) => SignalKind::hangup(),
        }
    }
}

/// Catches a signal, unless this process was started so that it ignores that signal.
fn unless_ignored(kind: SignalKind) -> io::Result<Option<Signal>> {
    let ignored = darter_kernel::signal::is_ignored(kind.as_raw_value());
    if ignored { Ok(None) } else { signal(kind).map(Some) }
}

async fn heard(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}
