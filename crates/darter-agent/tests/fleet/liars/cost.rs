//! The cost of liars for those who are not: agents as they are, over memory and in virtual time, compared with the same fleet without them.
//! Here they say from the start that they hold everything; those that take pieces and don't give them are the simulator's (`scenarios.rs` in `darter-sim`), as is
//! a longer blob. `docs/notes/liars.md` has the table of all kinds.

use std::time::Duration;

use super::pull::{Pulled, most_copies, pull};
use super::{Above, Lie};

/// Nodes, the liars among them.
const NODES: u8 = 8;

/// So many of each of these kinds may cost so much: what the last of the honest ones takes over what it takes without them.
async fn cost(above: Above, (nodes, length): (u8, u32), liars: u8, kinds: &[Lie], most: f64) {
    let honest = nodes - liars;
    let alone = pull(above, honest, length, &[]).await.last;
    for lie in kinds {
        let Pulled { last, copies, sent } = pull(above, honest, length, &vec![*lie; liars.into()]).await;
        let ratio = last.as_secs_f64() / alone.as_secs_f64();
        println!("{above:?}, {liars} {lie:?}: {ratio:.3} of {alone:?}, {copies:.2} copies, {sent:.2} sent");
        assert!(ratio <= most, "{above:?}, {liars} {lie:?}: {ratio:.3}");
        assert!(copies <= most_copies(above), "{above:?}, {liars} {lie:?}: {copies:.2} copies");
    }
}

/// Eight, and 32 MiB.
const EIGHT: (u8, u32) = (NODES, 32 << 20);

#[tokio::test(start_paused = true)]
async fn one_holder_that_lies_costs_the_others_a_tenth_at_most() {
    cost(Above::Full, EIGHT, 1, &Lie::HOLDERS, 1.1).await;
}

#[tokio::test(start_paused = true)]
async fn one_that_breaks_the_protocol_of_pieces_costs_a_tenth_at_most() {
    cost(Above::Full, EIGHT, 1, &Lie::GIVERS, 1.1).await;
}

#[tokio::test(start_paused = true)]
async fn one_that_keeps_others_busy_costs_a_tenth_at_most() {
    cost(Above::Full, EIGHT, 1, &[&Lie::NUISANCES[..], &Lie::READERS].concat(), 1.1).await;
}

#[tokio::test(start_paused = true)]
async fn one_that_takes_more_than_it_gives_costs_a_tenth_at_most_and_two_three_tenths() {
    cost(Above::Full, EIGHT, 1, &Lie::TAKERS, 1.1).await;
    cost(Above::Full, EIGHT, 2, &[Lie::Hogs, Lie::Hoards], 1.3).await;
}

#[tokio::test(start_paused = true)]
async fn two_among_eight_cost_the_others_a_tenth_at_most() {
    cost(Above::Full, EIGHT, 2, &[Lie::Bytes, Lie::Refuses, Lie::Withdraws, Lie::Late], 1.1).await;
}

/// The seed reads the origin meanwhile.
#[tokio::test(start_paused = true)]
async fn who_hoards_what_it_is_given_costs_little_while_the_origin_is_read() {
    cost(Above::Empty, EIGHT, 1, &[Lie::Hoards], 1.1).await;
    cost(Above::Empty, EIGHT, 2, &[Lie::Hoards], 1.3).await;
}

/// Five, and 8 MiB: they take two seconds, so that a wait counts for much.
const FIVE: (u8, u32) = (5, 8 << 20);

#[tokio::test(start_paused = true)]
async fn whoever_breaks_the_protocol_of_pieces_is_left_alone() {
    cost(Above::Full, FIVE, 1, &Lie::GIVERS, 2.0).await;
}

#[tokio::test(start_paused = true)]
async fn whoever_keeps_others_busy_with_what_it_says_or_takes_stops_nobody() {
    cost(Above::Full, FIVE, 1, &Lie::NUISANCES, 1.3).await;
    cost(Above::Full, FIVE, 1, &Lie::READERS, 1.3).await;
    // These take what any member may.
    cost(Above::Full, FIVE, 1, &Lie::TAKERS, 1.6).await;
}

/// One that says it holds all of it is asked to lead first, and says nothing to that. It is given up after a second and a half, by the one that is asked next as well:
/// with the two seconds that the blob takes that is a little under twice as long.
#[tokio::test(start_paused = true)]
async fn whoever_keeps_others_busy_stops_nobody_without_a_seed_either() {
    cost(Above::Nobody, FIVE, 1, &Lie::NUISANCES, 2.5).await;
}

/// One that leads, tells hashes and gives nothing is left after eight seconds; what it told keeps nobody from what the origin has. After two of them no
/// node is followed, so each of the others may read the origin itself.
#[tokio::test(start_paused = true)]
async fn whoever_leads_with_hashes_and_gives_nothing_is_left_with_them() {
    cost(Above::Nobody, EIGHT, 1, &[Lie::Leads, Lie::Trickles], 2.2).await;
    let (nodes, length) = EIGHT;
    // Which of the others each asks to lead is drawn anew.
    for _ in 0..6 {
        let Pulled { last, copies, .. } = pull(Above::Nobody, nodes - 2, length, &[Lie::Trickles; 2]).await;
        println!("two: {last:?}, {copies:.2} copies");
        // Seldom one comes to lead members who know every hash and hold some pieces: they give it the time that an origin may need.
        assert!(last <= Duration::from_secs(100), "{last:?}");
    }
}

/// What each costs, and how often the origin is read: one, and two. `DARTER_LIES=Parts,Flaps` tries these alone.
#[tokio::test(start_paused = true)]
#[ignore = "prints figures"]
async fn figures() {
    let only = std::env::var("DARTER_LIES").ok();
    let is_tried = |lie: &Lie| only.as_ref().is_none_or(|only| only.split(',').any(|it| it == format!("{lie:?}")));
    let kinds = [&Lie::HOLDERS[..], &Lie::READERS, &Lie::GIVERS, &Lie::NUISANCES, &Lie::TAKERS].concat();
    let settings =
        [(Above::Full, 32 << 20), (Above::Nobody, 32 << 20), (Above::Empty, 32 << 20), (Above::Full, 128 << 20)];
    for (above, length) in settings {
        let mut without = Vec::new();
        for liars in 1..=2 {
            without.push(pull(above, NODES - liars, length, &[]).await.last.as_secs_f64());
        }
        println!("{above:?}, {} MiB, without: {without:.2?} s", length >> 20);
        for lie in kinds.iter().copied().filter(is_tried) {
            let mut ratios = Vec::new();
            for (liars, without) in (1..).zip(&without) {
                let pulled = pull(above, NODES - liars, length, &vec![lie; liars.into()]).await;
                ratios.push((pulled.last.as_secs_f64() / without, pulled.copies, pulled.sent));
            }
            println!("{above:?}, {} MiB, {lie:?}: {ratios:.3?}", length >> 20);
        }
    }
}
