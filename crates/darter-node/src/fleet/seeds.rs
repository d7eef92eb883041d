//! The seeds given by `--join`: connected at start, kept connected, tried again when lost.
//!
//! An address where nobody answers is tried again for ever, since a seed may come up later than its nodes. An address
//! where something *else* answers is a mistake that only people can mend: at start it is an error.

use std::sync::Arc;
use std::time::Duration;

use darter_core::NodeId;
use darter_wire::WireError;
use parking_lot::Mutex;

use super::Fleet;
use crate::api::SeedStatus;
use crate::error::StartError;

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The seeds of this agent and their state.
pub(crate) struct Seeds {
    fleet: Arc<Fleet>,
    known: Mutex<Vec<(String, Option<NodeId>)>>,
}

impl Seeds {
    /// Tries every address once, then keeps them connected in the background.
    ///
    /// # Errors
    /// [`StartError::Join`] for an address that answers, but not as an agent of this fleet would.
    pub(crate) async fn join(fleet: &Arc<Fleet>, addresses: &[String]) -> Result<Arc<Self>, StartError> {
        let known = addresses.iter().map(|addr| (addr.clone(), None)).collect();
        let seeds = Arc::new(Self { fleet: Arc::clone(fleet), known: Mutex::new(known) });
        let first = addresses.iter().map(|addr| fleet.dial(addr));
        let first = futures_util::future::join_all(first).await;
        for (at, (addr, outcome)) in addresses.iter().zip(first).enumerate() {
            match outcome {
                Ok(node) => seeds.known.lock()[at].1 = Some(node),
                Err(error) if is_mistake(&error) => {
                    return Err(StartError::Join { addr: addr.clone(), reason: error.to_string() });
                }
                Err(error) => {
                    tracing::warn!(seed = addr, %error, "no seed there yet; going on without and trying again");
                }
            }
        }
        for at in 0..addresses.len() {
            let keeper = Arc::clone(&seeds);
            fleet.tasks.spawn(async move { keeper.keep(at).await });
        }
        Ok(seeds)
    }

    /// Every address with what is known of it.
    pub(crate) fn status(&self) -> Vec<SeedStatus> {
        let known = self.known.lock().clone();
        known.into_iter().map(|(addr, node)| SeedStatus { addr, up: self.is_up(node), node }).collect()
    }

    fn is_up(&self, node: Option<NodeId>) -> bool {
        node.is_some_and(|node| self.fleet.peer(node).is_some())
    }

    async fn keep(&self, at: usize) {
        let mut pause = FIRST_PAUSE;
        loop {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.fleet.stop.cancelled() => return,
            }
            let (addr, node) = self.known.lock()[at].clone();
            if self.is_up(node) {
                pause = FIRST_PAUSE;
                continue;
            }
            match self.fleet.dial(&addr).await {
                Ok(node) => {
                    tracing::info!(seed = addr, node = %node.short(), "seed connected");
                    self.known.lock()[at].1 = Some(node);
                    pause = FIRST_PAUSE;
                }
                Err(error) => {
                    tracing::debug!(seed = addr, %error, "seed not connected");
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }
}

/// Whether trying again can't help.
const fn is_mistake(error: &WireError) -> bool {
    matches!(error, WireError::NotDarter { .. } | WireError::SameId { .. })
}
