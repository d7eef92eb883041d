//! SIGINT and SIGTERM, and of commands that end by themselves SIGHUP, as one thing: somebody wants this process to end.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Tells of each such signal.
#[derive(Debug)]
pub(crate) struct Signals {
    /// `None` for a process that was started to ignore it, as shells start jobs in the background of a script.
    interrupt: Option<Signal>,
    terminate: Signal,
    /// The terminal was closed.
    hangup: Option<Signal>,
}

impl Signals {
    /// From now on, these signals no longer kill the process: somebody has to wait for them. A SIGINT that the process was
    /// started to ignore stays ignored.
    pub(crate) fn catch() -> io::Result<Self> {
        Ok(Self {
            interrupt: unless_ignored(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: None,
        })
    }

    /// Catches these signals in a process in the foreground, which ends with its terminal: SIGHUP is one of them, unless the process was
    /// started to outlive it (`nohup`).
    pub(crate) fn catch_in_foreground() -> io::Result<Self> {
        Ok(Self { hangup: unless_ignored(SignalKind::hangup())?, ..Self::catch()? })
    }

    /// Waits for the next one. Cancelling loses none.
    pub(crate) async fn next(&mut self) {
        self.which().await;
    }

    /// Waits for the next one, and says which it is.
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
