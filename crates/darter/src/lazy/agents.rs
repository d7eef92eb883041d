//! The agent of this host, asked about layers by processes that outlive it.
//!
//! An agent that is silent for [`SILENCE`] is not waited for, since engines wait for these processes. Until it answers again, no other question waits that long.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use darter_api::client::{Client, ClientError};

/// How long an agent may say nothing.
const SILENCE: Duration = Duration::from_secs(2);

/// How long an agent may say nothing that was silent when it was asked last.
const SILENCE_AGAIN: Duration = Duration::from_millis(100);

/// Between tries to reach an agent that is not there.
pub(crate) const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// See the module's text.
pub(crate) struct Agents {
    clients: Vec<Client>,
    was_silent: AtomicBool,
}

impl Agents {
    pub(crate) const fn new(clients: Vec<Client>) -> Self {
        Self { clients, was_silent: AtomicBool::new(false) }
    }

    /// The client of the agent that runs.
    pub(crate) async fn client(&self) -> Client {
        Client::choose(self.clients.clone()).await
    }

    /// Asks a question in which the agent has to show now and then that it is at it: it is told how often. One that is not there is waited for a little, as it
    /// may be starting again.
    pub(crate) async fn ask<T, F>(&self, question: impl Fn(Client, Duration) -> F) -> Result<T, ClientError>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        let silence = if self.was_silent.load(Ordering::Relaxed) { SILENCE_AGAIN } else { SILENCE };
        let mut left = silence;
        let asked = loop {
            match question(self.client().await, silence).await {
                Err(ClientError::NoDaemon(_) | ClientError::Broken(..)) if !left.is_zero() => {
                    tokio::time::sleep(RETRY_PAUSE).await;
                    left = left.saturating_sub(RETRY_PAUSE);
                }
                asked => break asked,
            }
        };
        self.was_silent.store(asked.is_err(), Ordering::Relaxed);
        asked
    }
}
