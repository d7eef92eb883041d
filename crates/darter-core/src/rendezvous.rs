//! Rendezvous hashing (highest random weight; Thaler and Ravishankar, 1998): everyone who knows the same nodes
//! ranks them alike for a key, and a node that leaves moves only what it owned.

use crate::id::NodeId;

/// The weight of `node` for `key`.
pub fn weight(key: &[u8], node: &NodeId) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&node.0);
    hasher.update(key);
    let hash = hasher.finalize();
    u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("eight bytes"))
}

/// The node that owns `key` among `nodes`: the one of highest weight, ties by id.
pub fn owner<'a>(key: &[u8], nodes: impl IntoIterator<Item = &'a NodeId>) -> Option<NodeId> {
    nodes.into_iter().max_by_key(|node| (weight(key, node), **node)).copied()
}

/// All of `nodes`, the owner of `key` first, each next one its successor when those before it are gone.
pub fn ranking<'a>(key: &[u8], nodes: impl IntoIterator<Item = &'a NodeId>) -> Vec<NodeId> {
    let mut ranked: Vec<_> = nodes.into_iter().map(|node| (weight(key, node), *node)).collect();
    ranked.sort_unstable_by(|a, b| b.cmp(a));
    ranked.into_iter().map(|(_, node)| node).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_leaves_moves_only_what_it_owned() {
        let nodes: Vec<_> = (0..5).map(|n| NodeId([n; 16])).collect();
        for key in 0u32..200 {
            let key = key.to_le_bytes();
            let before = owner(&key, &nodes).unwrap();
            assert_eq!(ranking(&key, &nodes)[0], before);
            let after = owner(&key, &nodes[1..]).unwrap();
            assert!(before == after || before == nodes[0]);
        }
    }
}
