//! The addresses on which peers listen, as they themselves or other agents have said. Those of connected agents are always kept. Of all others together about [`MAX_ADDRESSES`] are kept, since an
//! agent may hear of a million agents in its life: a forgotten address is known again when somebody names it.

use std::collections::HashMap;

use darter_core::NodeId;

/// Most addresses that are kept, unless very many agents are connected.
const MAX_ADDRESSES: usize = 4096;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Addresses(HashMap<NodeId, String>);

impl Addresses {
    /// Notes an agent's address. If there are too many, only those of agents for which `is_used` is true stay, about `used` of them.
    pub(crate) fn note(&mut self, node: NodeId, addr: &str, used: usize, is_used: impl Fn(&NodeId) -> bool) {
        if self.0.len() >= MAX_ADDRESSES.max(2 * used) && !self.0.contains_key(&node) {
            self.0.retain(|node, _| is_used(node));
        }
        self.0.insert(node, addr.to_owned());
    }

    /// An agent's address, if it is known.
    pub(crate) fn of(&self, node: &NodeId) -> Option<&str> {
        self.0.get(node).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: usize) -> NodeId {
        NodeId((number as u128).to_be_bytes())
    }

    #[test]
    fn addresses_of_agents_that_come_and_go_do_not_add_up_and_those_of_connected_ones_stay() {
        let mut addresses = Addresses::default();
        let connected = |count: usize| move |of: &NodeId| u128::from_be_bytes(of.0) < count as u128;
        for number in 0..10 * MAX_ADDRESSES {
            addresses.note(node(number), "10.0.0.1:7400", 3, connected(3));
            assert!(addresses.0.len() <= MAX_ADDRESSES);
        }
        assert!((0..3).all(|number| addresses.of(&node(number)).is_some()));
        assert!(addresses.of(&node(10 * MAX_ADDRESSES - 1)).is_some(), "the one that came last");
        // If more agents are connected, all of their addresses are kept.
        let many = 2 * MAX_ADDRESSES;
        for number in 0..10 * many {
            addresses.note(node(number), "10.0.0.1:7400", many, connected(many));
            assert!(addresses.0.len() <= 2 * many);
        }
        assert!((0..many).all(|number| addresses.of(&node(number)).is_some()));
        addresses.note(node(0), "10.0.0.2:7400", many, connected(many));
        assert_eq!(addresses.of(&node(0)), Some("10.0.0.2:7400"), "it has moved");
    }
}
