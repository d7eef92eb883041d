//! SIGINT and SIGTERM, as one thing: somebody wants this process to end.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Tells of each SIGINT and SIGTERM.
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// From now on, these signals no longer kill the process: somebody has to wait for them.
    pub(crate) fn catch() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Waits for the next one. Cancelling loses none.
    pub(crate) async fn next(&mut self) {
        self.which().await;
    }

    /// Waits for the next one, and says which it is.
    pub(crate) async fn which(&mut self) -> SignalKind {
        tokio::select! {
            _ = self.interrupt.recv() => SignalKind::interrupt(),
            _ = self.terminate.recv() => SignalKind::terminate(),
        }
    }
}
