//! Locality: pieces cross a far boundary about once.
//!
//! Seen from one node, a holder at tier *t* lies across a boundary when it stands in another rack, zone or region.
//! The nodes nearer than *t* are *my side* of that boundary. For each piece one of them is the designated fetcher:
//! the first in rendezvous order. The others wait for it and get the piece from their own side; after a while the
//! second in the order may fetch it too, then the third. Nodes that know different neighbours may designate different
//! fetchers; that costs a copy, never progress.

use darter_core::{NodeId, PieceIndex, Place, Tier};

use crate::random::mix;

/// True if a holder at this tier lies across a boundary that pieces should cross seldom.
pub const fn is_across(tier: Tier) -> bool {
    !matches!(tier, Tier::Host | Tier::Rack)
}

/// True if two places are in one group: the same rack.
pub fn same_group(one: &Place, other: &Place) -> bool {
    !is_across(one.tier_to(other))
}

/// How many of `others` come before `me` as fetchers of `piece`: zero for the designated one.
pub fn fetcher_rank<'a>(me: &NodeId, others: impl IntoIterator<Item = &'a NodeId>, piece: PieceIndex) -> u32 {
    let mine = (weight(me, piece), me);
    let before = others.into_iter().filter(|other| (weight(other, piece), *other) > mine).count();
    u32::try_from(before).unwrap_or(u32::MAX)
}

/// A rendezvous weight that is cheap to compute, since it is computed for thousands of pieces whenever a group changes.
fn weight(node: &NodeId, piece: PieceIndex) -> u64 {
    let (low, high) = node.0.split_at(8);
    let low = u64::from_le_bytes(low.try_into().expect("eight bytes"));
    let high = u64::from_le_bytes(high.try_into().expect("eight bytes"));
    mix(mix(low ^ mix(u64::from(piece.0))) ^ high)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_piece_has_one_fetcher_and_the_load_is_even() {
        let nodes: Vec<_> = (0..8).map(|n| NodeId([n; 16])).collect();
        let mut fetched = [0; 8];
        for piece in (0..800).map(PieceIndex) {
            let mut ranks: Vec<_> =
                nodes.iter().map(|me| fetcher_rank(me, nodes.iter().filter(|other| *other != me), piece)).collect();
            let first = ranks.iter().position(|&rank| rank == 0).unwrap();
            fetched[first] += 1;
            ranks.sort_unstable();
            assert_eq!(ranks, (0..8).collect::<Vec<_>>());
        }
        assert!(fetched.iter().all(|count| (60..140).contains(count)), "{fetched:?}");
    }

    #[test]
    fn nodes_whose_names_differ_in_one_byte_share_the_load_as_well() {
        for byte in [0, 7, 8, 15] {
            let nodes = [1, 2, 3, 4].map(|last| {
                let mut id = [7; 16];
                id[byte] = last;
                NodeId(id)
            });
            let mut fetched = [0; 4];
            for piece in (0..800).map(PieceIndex) {
                let others = |me: &NodeId| nodes.iter().filter(move |other| *other != me).collect::<Vec<_>>();
                let first = nodes.iter().position(|me| fetcher_rank(me, others(me), piece) == 0).unwrap();
                fetched[first] += 1;
            }
            assert!(fetched.iter().all(|count| (140..260).contains(count)), "{fetched:?}");
        }
    }

    #[test]
    fn who_shares_a_rack_is_near_whatever_the_host() {
        let place = |zone: &str, rack: &str, host: &str| {
            let (zone, rack, host) = (zone.into(), rack.into(), host.into());
            Place { zone, rack, host, ..Place::default() }
        };
        let here = place("a", "1", "h");
        assert!(same_group(&here, &here) && same_group(&here, &place("a", "1", "i")));
        assert!(!same_group(&here, &place("a", "2", "h")) && !same_group(&here, &place("b", "1", "h")));
    }
}
