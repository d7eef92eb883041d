//! SIGINT and SIGTERM, and of commands that end by themselves SIGHUP, as one thing: somebody wants this process to end.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Tells of each such signal.
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// The terminal was closed.
    hangup: Option<Signal>,
}

impl Signals {
    /// From now on, these signals no longer kill the process: somebody has to wait for them.
    pub(crate) fn catch() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: None,
        })
    }

    /// The same for SIGHUP, unless the process was started to outlive it (`nohup`).
    pub(crate) fn with_hangup(mut self) -> io::Result<Self> {
        if !darter_kernel::signal::is_ignored(SignalKind::hangup().as_raw_value()) {
            self.hangup = Some(signal(SignalKind::hangup())?);
        }
        Ok(self)
    }

    /// Waits for the next one. Cancelling loses none.
    pub(crate) async fn next(&mut self) {
        self.which().await;
    }

    /// Waits for the next one, and says which it is.
    pub(crate) async fn which(&mut self) -> SignalKind {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => SignalKind::interrupt(),
            _ = self.terminate.recv() => SignalKind::terminate(),
            _ = hangup => SignalKind::hangup(),
        }
    }
}
