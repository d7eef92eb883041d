//! Attachments of a running agent: ports and sockets for the programs of its host, which the agent knows nothing of. They are told what it
//! is about ([`Phase`]), and its drain waits for them.

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

/// The phase of an agent. It goes through these in their order, and never back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Its seeds are being reached; programs that ask are answered already.
    Starting,
    /// It takes requests.
    Ready,
    /// It is about to stop: what is under way goes on, and so that probes can look away first, ports are still open.
    Draining,
    /// Ports take nothing new, and answers under way have this long to end.
    Closing(Duration),
    /// Nothing is answered any more.
    Stopped,
}

impl Phase {
    /// The time in which a port has to be closed; `None` while it is open.
    pub const fn closes_within(self) -> Option<Duration> {
        match self {
            Self::Starting | Self::Ready | Self::Draining => None,
            Self::Closing(within) => Some(within),
            Self::Stopped => Some(Duration::ZERO),
        }
    }
}

impl Agent {
    /// Follows the agent's phases. A sender that is gone means an agent that is gone.
    pub fn phases(&self) -> watch::Receiver<Phase> {
        self.inner.phase.subscribe()
    }

    /// Runs a port. It has to end by itself when the agent says [`Phase::Closing`], within the time that is told then: a drain waits
    /// for that before it stops everything else.
    pub fn attach(&self, port: impl Future<Output = ()> + Send + 'static) {
        self.inner.ports.spawn(port);
    }

    /// Runs a task of the agent's own, which has to end at [`Phase::Stopped`]: a drain waits for it a little.
    pub fn background(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.inner.tasks.spawn(task);
    }

    /// Lets [`Agent::status`] tell where programs of this host reach it; the first address counts.
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

    /// The part that asks registries for it. `None` in an agent that lives for one download.
    pub fn registries(&self) -> Option<Arc<Registries>> {
        self.inner.registries.clone()
    }

    /// Waits until every seed was tried, though not for long; from then on the agent is ready.
    ///
    /// # Errors
    /// An address that is no agent's.
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
