//! Asks the local agent about layers, from a process that outlives the agent.
//!
//! Engines wait for this process, so it waits for a silent agent for [`SILENCE`] only, and, until that agent answers again, for [`SILENCE_AGAIN`].

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use darter_api::client::{Client, ClientError};

/// How long to wait for an agent that says nothing.
const SILENCE: Duration = Duration::from_secs(2);

/// How long to wait for an agent that was silent when it was last asked.
const SILENCE_AGAIN: Duration = Duration::from_millis(100);

/// The pause between tries to reach an agent that does not run.
pub(crate) const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// See the module's documentation.
pub(crate) struct Agents {
    clients: Vec<Client>,
    was_silent: AtomicBool,
}

impl Agents {
    pub(crate) const fn new(clients: Vec<Client>) -> Self {
        Self { clients, was_silent: AtomicBool::new(false) }
    }

    /// A client of the agent that runs now.
    pub(crate) async fn client(&self) -> Client {
        Client::choose(self.clients.clone()).await
    }

    /// Asks a question. `question` gets the time within which the agent has to show that it is working on it. If no agent runs, waits a little, since
    /// the agent may be restarting.
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
