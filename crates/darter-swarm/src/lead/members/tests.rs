//! Invariants of members, counted anew whatever happens to them: `lead/tests/histories.rs` asks.

use super::*;

/// Links are mutual, between those that may know each other, no more than there should be; tables of groups are what members hold.
pub(in crate::lead) fn check_members(members: &Members) {
    for (id, slot) in &members.by_id {
        let member = members.get(*slot);
        assert_eq!(member.id, *id);
        let neighbours: BTreeSet<usize> = member.neighbours.iter().copied().collect();
        assert_eq!(neighbours.len(), member.neighbours.len(), "{id} has a neighbour twice");
        assert!(neighbours.len() <= members.wanted(), "{id} has {}", neighbours.len());
        let mut reaches = [0; REACHES];
        for other in neighbours.iter().map(|other| members.get(*other)) {
            assert!(other.neighbours.contains(slot) && other.id != *id, "{id} and {}", other.id);
            assert!(!member.aside && !other.aside);
            assert!(!members.separated.contains(&(*id, other.id)), "{id} and {} are separated", other.id);
            let reach = match member.place.tier_to(&other.place) {
                Tier::Host | Tier::Rack => 0,
                Tier::Zone => 1,
                Tier::Region | Tier::Far => 2,
            };
            reaches[reach] += 1;
        }
        assert_eq!(reaches, member.reaches);
        assert!(members.groups[member.group].members.contains(slot));
    }
    let has_room = |slot: &usize| {
        let member = members.get(*slot);
        !member.aside && member.neighbours.len() < members.wanted()
    };
    assert_eq!(members.open, members.slots().filter(has_room).collect(), "those that have room");
    assert!(members.loosened.is_empty(), "nobody waits for a neighbour");
    assert_eq!(members.count(), members.slots().count());
    let in_groups: usize = members.groups.iter().map(|group| group.members.len()).sum();
    assert_eq!(in_groups, members.count(), "each is in one group");
    for group in &members.groups {
        for (piece, (holders, _)) in (0..).map(PieceIndex).zip(&group.pieces) {
            let counted = group.members.iter().map(|slot| members.get(*slot));
            let counted = counted.filter(|member| member.held.contains(piece) && member.counts(piece)).count();
            assert_eq!(*holders as usize, counted, "{piece}");
        }
    }
}

/// For each member the members that it should know. Nobody is told of the lead's own node.
pub(in crate::lead) fn known_to_each(members: &Members) -> BTreeMap<NodeId, BTreeSet<NodeId>> {
    let known = |slot: &usize| {
        let others = members.get(*slot).neighbours.iter().map(|other| members.get(*other).id);
        others.filter(|other| *other != members.me).collect::<BTreeSet<_>>()
    };
    let each = members.by_id.iter().map(|(id, slot)| (*id, known(slot)));
    each.filter(|(_, known)| !known.is_empty()).collect()
}

fn node(name: u16) -> NodeId {
    let mut id = [0; 16];
    id[..2].copy_from_slice(&name.to_be_bytes());
    NodeId(id)
}

/// One of two zones of two racks each.
fn place(name: u16) -> Place {
    let (zone, rack) = (["one", "two"][usize::from(name) % 2], ["a", "b"][usize::from(name) / 2 % 2]);
    Place { zone: zone.into(), rack: rack.into(), ..Place::default() }
}

fn add(members: &mut Members, name: u16, place: Place) {
    let slot = members.add(node(name), place, PieceSet::new(), true);
    members.link_up(slot);
    check_members(members);
}

/// Members in two zones of two racks each, all of which want the blob.
fn members(count: u16) -> Members {
    let mut members = Members::new(node(0), Place::default(), Tuning::default(), 1);
    (1..=count).for_each(|name| add(&mut members, name, place(name)));
    members
}

/// Members that want `neighbours` each, and what happens to them by chance.
struct Graph {
    members: Members,
    random: Random,
    names: Vec<u16>,
    next: u16,
    are_placed: bool,
}

impl Graph {
    fn new(neighbours: u32, seed: u64, are_placed: bool) -> Self {
        let (neighbours_outside, inside) = (neighbours / 3, neighbours - neighbours / 3);
        let tuning = Tuning { neighbours, neighbours_inside: inside, neighbours_outside, ..Tuning::default() };
        let members = Members::new(node(0), Place::default(), tuning, seed);
        Self { members, random: Random::new(seed), names: Vec::new(), next: 1, are_placed }
    }

    fn comes(&mut self) {
        let place = if self.are_placed { place(self.next) } else { Place::default() };
        add(&mut self.members, self.next, place);
        self.names.push(self.next);
        self.next += 1;
    }

    fn leaves(&mut self) {
        let name = self.names.swap_remove(self.random.below(self.names.len()));
        let slot = self.members.slot(node(name)).unwrap();
        self.members.remove(slot);
        check_members(&self.members);
    }

    /// A member and one of its neighbours that can't reach each other.
    fn parts(&mut self) {
        let one = self.names[self.random.below(self.names.len())];
        let slot = self.members.slot(node(one)).unwrap();
        let neighbours = &self.members.get(slot).neighbours;
        if !neighbours.is_empty() {
            let other = self.members.get(neighbours[self.random.below(neighbours.len())]).id;
            self.members.separate(node(one), other);
            check_members(&self.members);
        }
    }

    /// By member, how many neighbours more it should have.
    fn room(&self) -> Vec<usize> {
        let wanted = self.members.wanted().min(self.names.len() - 1);
        self.members.slots().map(|slot| wanted - self.members.get(slot).neighbours.len()).collect()
    }

    /// Each member has its number of neighbours; of an odd number one member may have one fewer, as the sum is even. In several racks a member
    /// may have given up a far one for another's near one.
    fn check_room(&self) {
        let (room, wanted, count) = (self.room(), self.members.wanted(), self.names.len());
        let (all, most) = (room.iter().sum::<usize>(), room.iter().max());
        if self.are_placed {
            assert!(most <= Some(&4) && all <= count, "{count} members, {wanted} neighbours: {all}, {most:?}");
        } else {
            let is_odd = count > wanted && count * wanted % 2 == 1;
            assert_eq!(all, usize::from(is_odd), "{count} members, {wanted} neighbours");
        }
    }

    fn is_connected(&self) -> bool {
        let mut seen: BTreeSet<usize> = self.members.slots().take(1).collect();
        let mut next: Vec<usize> = seen.iter().copied().collect();
        while let Some(slot) = next.pop() {
            next.extend(self.members.get(slot).neighbours.iter().filter(|other| seen.insert(**other)));
        }
        seen.len() == self.names.len()
    }
}

#[test]
fn each_member_has_its_number_of_neighbours_and_of_an_odd_number_one_may_have_one_fewer() {
    for neighbours in [8, 9, 14, 15] {
        for (seed, are_placed) in [(1, false), (2, true)] {
            let mut graph = Graph::new(neighbours, seed, are_placed);
            (0..2).for_each(|_| graph.comes());
            // It grows to a hundred or so, lives, and shrinks again.
            for turn in 0..450 {
                let comes_in_ten = [8, 5, 2][turn / 150];
                let comes = graph.random.below(10) < comes_in_ten;
                if comes || graph.names.len() <= 2 {
                    graph.comes();
                } else {
                    graph.leaves();
                }
                graph.check_room();
                assert!(graph.is_connected(), "{neighbours} neighbours, seed {seed}");
            }
        }
    }
}

/// Nobody is left with room where another has some, too, and the two may know each other.
#[test]
fn where_some_cannot_reach_each_other_those_that_can_have_as_many_neighbours_as_before() {
    for (neighbours, seed) in [(13, 0), (13, 1), (14, 2), (14, 3)] {
        let mut graph = Graph::new(neighbours, seed, seed % 2 == 1);
        (0..80).for_each(|_| graph.comes());
        for turn in 0..300 {
            match graph.random.below(4) {
                0 => graph.comes(),
                1 => graph.leaves(),
                _ => graph.parts(),
            }
            let lacking: usize = graph.room().iter().sum();
            assert!(
                lacking <= if graph.are_placed { graph.names.len() } else { 1 },
                "turn {turn}: {lacking} are lacking"
            );
            assert!(graph.is_connected());
        }
        for _ in 0..graph.names.len() - 10 {
            graph.leaves();
            let open: Vec<usize> = graph.members.open.iter().copied().collect();
            let may_link = |one: &usize| open.iter().any(|other| graph.members.may_link(*one, *other));
            assert!(graph.are_placed || !open.iter().any(may_link), "two have room, and are not linked");
        }
    }
}

#[test]
fn a_member_knows_most_of_its_rack_some_of_its_zone_and_few_beyond() {
    let members = members(400);
    let mut links = [0; REACHES];
    for slot in members.slots() {
        let reaches = members.get(slot).reaches;
        assert!(reaches[0] >= 8 && reaches[1] >= 1, "{reaches:?}");
        links = std::array::from_fn(|reach| links[reach] + reaches[reach]);
    }
    let each = links.map(|count| f64::from(count) / 400.0);
    assert!(each[0] > each[1] * 1.8 && each[1] > each[2] * 4.0, "{each:?}");
    assert!(each[2] > 0.1, "the zones are linked: {each:?}");
}

#[test]
fn who_cannot_reach_a_neighbour_gets_one_as_near_in_its_place() {
    let mut members = members(400);
    let mut alike = 0;
    for name in 1..=40 {
        let one = members.slot(node(name)).unwrap();
        let other = members.get(one).neighbours[0];
        let (before, others_before) = (members.get(one).reaches, members.get(other).reaches);
        members.separate(node(name), members.get(other).id);
        check_members(&members);
        assert!(!members.get(one).neighbours.contains(&other));
        let (after, others_after) = (members.get(one).reaches, members.get(other).reaches);
        assert_eq!(before.iter().sum::<u32>(), after.iter().sum::<u32>());
        assert_eq!(others_before.iter().sum::<u32>(), others_after.iter().sum::<u32>());
        alike += u32::from(before == after && others_before == others_after);
    }
    assert!(alike >= 38, "{alike} of 40");
}

#[test]
fn who_says_of_everybody_that_it_cannot_reach_them_is_not_heeded_for_ever() {
    let mut members = members(400);
    let one = members.slot(node(1)).unwrap();
    for _ in 0..300 {
        let other = members.get(one).neighbours[0];
        members.separate(node(1), members.get(other).id);
    }
    let before = members.get(one).neighbours.clone();
    let other = members.get(before[0]).id;
    members.separate(node(1), other);
    assert_eq!(members.get(one).neighbours, before);
    members.separate(node(2), members.get(members.get(members.slot(node(2)).unwrap()).neighbours[0]).id);
    assert!(!members.are_separated(node(1), other), "nothing is noted of it either");
    check_members(&members);
}
