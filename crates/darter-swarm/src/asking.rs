//! Asking around in rounds: whom to ask next about a blob, where nobody knows everybody.
//!
//! An agent asks those it is connected to. Each answer names who leads, and the agents that the answering one ranks first by rendezvous
//! hashing; those are asked next. Only the first of them matter, since an agent that ranks behind them is not chosen while one of them
//! lives. So all come to the same few agents after a round or two, and nobody is asked twice.

use std::collections::{BTreeSet, HashSet};

use darter_core::{NodeId, rendezvous};

/// Rounds of questions, at most.
pub const MAX_ROUNDS: usize = 5;

/// Agents that an answer names as those that rank first, and that are asked next of all that were named.
pub const MAX_NAMED: usize = 3;

/// How long an agent may take to be connected, and to answer.
pub const SURVEY_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(1);

/// Whom to ask after a round whose answers named these as leads, and those as ranking first; `asked` are left out.
pub fn next_to_ask(
    key: &[u8],
    leads: impl IntoIterator<Item = NodeId>,
    named: impl IntoIterator<Item = NodeId>,
    asked: &HashSet<NodeId>,
) -> Vec<NodeId> {
    let named: BTreeSet<_> = named.into_iter().collect();
    let first = rendezvous::ranking(key, &named).into_iter().take(MAX_NAMED);
    let mut seen = HashSet::new();
    leads.into_iter().chain(first).filter(|node| !asked.contains(node) && seen.insert(*node)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leads_are_asked_next_and_of_those_named_the_first_in_rank_each_once() {
        let named: Vec<_> = (1..=6).map(|name| NodeId([name; 16])).collect();
        let ranked = rendezvous::ranking(b"key", &named);
        let lead = NodeId([30; 16]);
        let twice = named.iter().chain(&named).copied();
        let next = next_to_ask(b"key", [lead, lead], twice, &HashSet::from([ranked[0]]));
        assert_eq!(next, [lead, ranked[1], ranked[2]]);
    }
}
