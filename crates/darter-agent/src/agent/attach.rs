//! Attachments of a running agent: ports and sockets for the programs of its host. They follow the agent's [`Phase`], and its drain waits for
//! them. The agent does not depend on them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use darter_core::Clock;
use darter_metrics::Metrics;
use darter_registries::Registries;
use tokio::sync::watch;

use super::Agent;
use crate::error::StartError;
use crate::options::Options;

/// The phase of an agent. The phases follow each other in this order, and never go back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// The agent is connecting to its seeds; programs' requests are answered already.
    Starting,
    /// It accepts requests.
    Ready,
    /// It is about to stop. Ports stay open and requests in progress go on, so that probes notice it first.
    Draining,
    /// Ports accept nothing new, and answers in progress have this long to end.
    Closing(Duration),
    /// Nothing is answered any more.
    Stopped,
}

impl Phase {
    /// How long a port has until it must be closed; `None` while it is open.
    pub const fn closes_within(self) -> Option<Duration> {
        match self {
            Self::Starting | Self::Ready | Self::Draining => None,
            Self::Closing(within) => Some(within),
            Self::Stopped => Some(Duration::ZERO),
        }
    }
}

impl Agent {
    /// Follows the agent's phases. If the sender is gone, so is the agent.
    pub fn phases(&self) -> watch::Receiver<Phase> {
        self.inner.phase.subscribe()
    }

    /// Runs a port. It has to end by itself in [`Phase::Closing`], within the time in it: a drain waits
    /// for that before it stops everything else.
    pub fn attach(&self, port: impl Future<Output = ()> + Send + 'static) {
        self.inner.ports.spawn(port);
    }

    /// Runs a task of the agent itself, which has to end in [`Phase::Stopped`]: a drain waits for it a little.
    pub fn background(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.inner.tasks.spawn(task);
    }

    /// Sets the address for programs of this host that [`Agent::status`] reports; the first call counts.
    pub fn tell_local_address(&self, address: SocketAddr) {
        let _ = self.inner.local_address.set(address.to_string());
    }

    /// The agent's options.
    pub fn options(&self) -> &Options {
        &self.inner.options
    }

    /// The agent's metrics.
    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.inner.context.metrics)
    }

    /// Its clock.
    pub fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.inner.context.clock)
    }

    /// Asks registries for the agent. `None` in an agent that runs for one download.
    pub fn registries(&self) -> Option<Arc<Registries>> {
        self.inner.registries.clone()
    }

    /// Waits, for a bounded time, until every seed was tried; from then on the agent is ready.
    ///
    /// # Errors
    /// Something other than an agent answers at an address.
    pub async fn reach_seeds(&self) -> Result<(), StartError> {
        self.inner.seeds.first_attempts().await?;
        self.enter(Phase::Ready);
        let inner = &self.inner;
        let (me, options) = (inner.context.me, &inner.options);
        tracing::info!(node = %me.short(), role = ?options.role, data_dir = %options.data_dir.display(), "ready");
        Ok(())
    }

    pub(super) fn enter(&self, next: Phase) {
        self.inner.phase.send_if_modified(|phase| {
            let goes_on = *phase < next;
            if goes_on {
                *phase = next;
            }
            goes_on
        });
    }
}
