//! Random histories of a lead. After each step: the lead's tables say what its members and its own store hold, and members were told of their
//! neighbours.

use super::*;
use crate::lead::members::tests::{check_members, known_to_each};

const HISTORIES: u64 = 60;
const STEPS: u32 = 300;
const NODES: usize = 40;
const PIECES: u32 = 70;

/// Counts anew what the tables must say.
fn check(lead: &Lead) {
    let members: Vec<_> = lead.members.slots().map(|slot| lead.members.get(slot)).collect();
    let mut fresh = None;
    for piece in (0..PIECES).map(PieceIndex) {
        let holders = members.iter().filter(|member| member.held.contains(piece) && member.counts(piece)).count();
        let coming = members.iter().filter(|member| member.is_coming(piece)).count();
        let Piece { holders: counted, coming: sent, late, .. } = lead.pieces.get(piece);
        assert_eq!((counted as usize, sent as usize), (holders, coming), "{piece}");
        let is_fresh = holders == 0 && sent <= late && lead.owned().contains(piece);
        fresh = fresh.or(is_fresh.then_some(piece));
    }
    assert_eq!(lead.pieces.first_fresh(), fresh);
    check_members(&lead.members);
}

fn place(name: u16) -> Place {
    let zone = if name % 4 == 3 { "far" } else { "" };
    Place { zone: zone.into(), ..rack(["a", "b", "c", "d"][usize::from(name) % 4]) }
}

fn step(lead: &mut Lead, links: &mut Links, random: &mut Random, now: Moment) {
    let (name, piece) = (random.below(NODES + 1) as u16, PieceIndex(random.below(PIECES as usize) as u32));
    let (who, other) = (node(name), node(random.below(NODES + 1) as u16));
    match random.below(18) {
        0..4 => {
            let held = (0..random.below(5)).map(|_| PieceIndex(random.below(PIECES as usize) as u32)).collect();
            let wants = random.below(8) > 0;
            if name == 0 || random.below(2) == 0 {
                lead.join(who, place(name), &held, wants);
            } else {
                lead.let_in(who, place(name), &held, wants);
                enters(lead, links, who);
            }
        }
        4 => {
            lead.leave(who);
            links.remove(&who);
        }
        5..7 => lead.have(who, &[piece], now),
        7 => lead.lacks(who, piece),
        // Of whom nobody thinks well there is nothing more to tell.
        8 if random.below(8) == 0 => {
            lead.report(who, other);
        }
        8 | 9 => lead.separate(who, other),
        10 | 11 => lead.own(piece),
        12 => lead.disown(piece),
        13 => {
            if let Some(piece) = lead.choose(who, now)
                && random.below(3) == 0
            {
                lead.unsent(who, piece);
            }
        }
        14 => lead.sending(who, piece, now),
        15 => lead.doubt(who),
        16 => lead.gave(who, random.below(2) == 0, now),
        _ => {
            lead.origin_plan(OriginReader::Everything, &PieceSet::full(PIECES), now);
        }
    }
}

/// A node that comes in is told whom to meet, and does so.
fn enters(lead: &mut Lead, links: &mut Links, who: NodeId) {
    let Some(Notice { lost, gained, .. }) = lead.take_notice(who) else { return };
    let known = links.entry(who).or_default();
    known.retain(|peer| !lost.contains(peer));
    for neighbour in gained {
        links.entry(who).or_default().insert(neighbour.node);
        links.entry(neighbour.node).or_default().insert(who);
    }
}

/// Brings what members know up to date with what they are told, perhaps of those that met them before.
fn tell(lead: &mut Lead, links: &mut Links, now: Moment) {
    for Notice { to, lost, gained } in lead.take_notices(now) {
        let known = links.entry(to).or_default();
        known.retain(|peer| !lost.contains(peer));
        known.extend(gained.into_iter().map(|neighbour| neighbour.node));
    }
}

/// No member is given something much sooner than was said, if nothing happens: a lead looks again after a moment. Returns the moment until which time
/// passed.
fn wait(lead: &mut Lead, random: &mut Random, now: Moment) -> Moment {
    let gives = |lead: &mut Lead, at| (0..=NODES as u16).find_map(|name| Some((name, lead.choose(node(name), at)?)));
    let is_still = (0..10_000).any(|_| gives(lead, now).is_none());
    assert!(is_still, "there is no end of giving");
    let announced = lead.next_wakeup(now);
    let most = announced.map_or(Duration::from_secs(3), |at| at.since(now));
    let early = now + most.mul_f64(random.below(1000) as f64 / 1000.0);
    let moment = Tuning::default().copy_floor / 4;
    if announced.is_none_or(|at| early + moment < at) {
        assert_eq!(gives(lead, early), None, "at {early:?}, though {announced:?} was said at {now:?}");
    }
    early
}

#[test]
fn whatever_happens_the_tables_are_right_and_members_were_told_whom_they_know() {
    for number in 0..HISTORIES {
        let mut random = Random::new(number);
        let mut lead = Lead::new(node(0), Place::default(), Start::Fresh, Tuning::default(), number, at(0));
        lead.set_total(PIECES);
        let (mut links, mut now) = (Links::new(), at(0));
        for _ in 0..STEPS {
            now = now + Duration::from_millis(random.below(400) as u64);
            step(&mut lead, &mut links, &mut random, now);
            check(&lead);
            if random.below(25) == 0 {
                now = wait(&mut lead, &mut random, now);
                check(&lead);
            }
            if random.below(50) == 0 {
                tell(&mut lead, &mut links, now);
            }
        }
        tell(&mut lead, &mut links, now);
        assert_eq!(lead.notices_due(), None, "where members are few nobody waits");
        links.retain(|_, known| !known.is_empty());
        assert_eq!(links, known_to_each(&lead.members), "history {number}");
    }
}
