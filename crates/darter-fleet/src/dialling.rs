//! Limits how many agents are being connected to at a time. Other agents name the agents to connect to, each attempt takes a file descriptor, and a peer can make up as many names as it likes.

use std::collections::HashSet;
use std::sync::Arc;

use darter_core::{NodeId, in_full};
use darter_wire::PeerInfo;

use super::Fleet;

/// Most agents that are being connected to at a time.
const MAX_DIALLING: usize = 1024;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Dialling(HashSet<NodeId>);

/// Says whether to connect to an agent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MayDial {
    /// Yes: until [`ended`](Dialling::ended) is called.
    Now,
    /// It is being connected to already.
    Taken,
    /// Too many others are being connected to.
    TooMany,
}

impl Dialling {
    /// Asks whether to connect to an agent.
    pub(super) fn turn(&mut self, node: NodeId) -> MayDial {
        if self.0.contains(&node) {
            return MayDial::Taken;
        }
        if self.0.len() >= MAX_DIALLING {
            return MayDial::TooMany;
        }
        self.0.insert(node);
        MayDial::Now
    }

    /// An agent is connected, or can't be.
    pub(super) fn ended(&mut self, node: NodeId) {
        self.0.remove(&node);
    }

    /// True while an agent is being connected to.
    pub(super) fn has(&self, node: NodeId) -> bool {
        self.0.contains(&node)
    }

    /// How many agents are being connected to.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

impl Fleet {
    /// Connects to a node after [`turn`](Dialling::turn) has allowed it.
    pub(super) async fn meet(self: &Arc<Self>, info: &PeerInfo) {
        match self.dial(&info.addr).await {
            Ok(node) if node == info.node => {}
            Ok(node) => {
                tracing::debug!(peer = %info.addr, found = %node.short(), "another agent answers there now");
                self.known.lock().forget(info.node);
            }
            Err(error) => {
                tracing::debug!(peer = %info.addr, error = %in_full(&error), "could not meet a node");
                if error.needs_upgrade() {
                    self.state.lock().leave_alone(&info.addr, self.context.now());
                }
                self.known.lock().failed(info.node, self.context.now());
            }
        }
        self.state.lock().dialling.ended(info.node);
        self.changed.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: usize) -> NodeId {
        NodeId((number as u128).to_be_bytes())
    }

    #[test]
    fn so_many_are_connected_to_at_a_time_and_each_once() {
        let mut dialling = Dialling::default();
        for number in 0..MAX_DIALLING {
            assert_eq!(dialling.turn(node(number)), MayDial::Now);
        }
        let late = node(MAX_DIALLING);
        assert_eq!((dialling.turn(node(0)), dialling.turn(late)), (MayDial::Taken, MayDial::TooMany));
        dialling.ended(node(0));
        assert_eq!((dialling.turn(late), dialling.has(late), dialling.has(node(0))), (MayDial::Now, true, false));
        assert_eq!(dialling.len(), MAX_DIALLING);
    }
}
