use std::time::Duration;

use darter_core::{BlobId, LeadKey, PieceIndex, PieceLength, PieceSet, Place, Signer, Tier};

use darter_protocol::{Message, PeerInfo};

use super::*;
use crate::facts::fixture::{BLOB, Known};
use crate::{Action, Course, Lead, Loss, ReaderId, RequestId, Start, Step, Teacher, Told, Wish};

mod driven;
mod ended;
mod sought;
mod traced;
mod watched;

const ME: u8 = 5;
const PIECES: u32 = 8;

fn node(name: u8) -> NodeId {
    NodeId([name; 16])
}

fn info(name: u8) -> PeerInfo {
    PeerInfo { node: node(name), addr: format!("host-{name}:7400"), place: Place::default() }
}

fn later(millis: u64) -> Moment {
    Moment::ZERO + Duration::from_millis(millis)
}

fn key() -> LeadKey {
    Signer::draw().key()
}

fn desk() -> Desk {
    Desk { place: Place::default(), seed: 1 }
}

fn pieces(list: &[u32]) -> PieceSet {
    list.iter().copied().map(PieceIndex).collect()
}

/// An agent that knows all hashes and holds nothing.
struct Scene {
    session: Session,
    known: Known,
    now: Moment,
}

impl Scene {
    fn new() -> Self {
        let tuning = Tuning::default();
        let picker = Picker::new(node(ME), 1 << 20, tuning, 1);
        let hashes = Hashes::new(BLOB, PieceLength::UNKNOWN_BLOB, &[], 0, tuning);
        let leadership = Leadership::new(node(ME), BlobId([1; 32]), BLOB, true);
        let session = Session::new(node(ME), picker, leadership, hashes, tuning, later(0));
        let known = Known { pieces: Some(PIECES), known: PieceSet::full(PIECES), ..Known::default() };
        let mut scene = Self { session, known, now: later(1) };
        scene.session.learned(0..PIECES, &scene.known, later(1));
        scene
    }

    /// The same in a swarm that agent 9 leads, with these neighbours.
    fn led(neighbours: &[u8]) -> Self {
        let mut scene = Self::new();
        assert!(scene.follows(9, neighbours));
        scene
    }

    fn follows(&mut self, lead: u8, neighbours: &[u8]) -> bool {
        let neighbours = neighbours.iter().map(|name| info(*name)).collect();
        let let_in =
            LetIn { lead: node(lead), key: key(), members_ask: false, neighbours, verdict: None, arrives: false };
        self.hears(Input::LetIn(let_in))
    }

    fn leads(&mut self) {
        assert!(self.session.books().is_none());
        self.hears(Input::Leads { start: Start::Fresh, desk: desk() });
    }

    fn hears(&mut self, input: Input) -> bool {
        self.session.handle(input, &self.known, self.now)
    }

    fn loses(&mut self, lead: u8, loss: Loss) -> bool {
        self.hears(Input::LeadLost { lead: node(lead), loss, why: "it is gone".to_owned() })
    }

    /// The next step of the search for a lead, with these seeds and neighbours connected.
    fn seeks(&mut self, seeds: &[u8], without: &[u8]) -> Step {
        let mut outputs = Vec::new();
        self.known.seeds = seeds.iter().copied().map(node).collect();
        self.known.cut = without.iter().copied().map(node).collect();
        self.session.poll_search(&self.known, &mut outputs);
        match outputs[..] {
            [] => Step::End,
            [Output::Seek(step)] => step,
            _ => panic!("{outputs:?}"),
        }
    }

    fn lead(&self) -> &Lead {
        self.session.books().expect("it leads").lead()
    }

    fn admits(&mut self, member: u8) {
        self.admits_with(member, &[], true);
    }

    fn admits_with(&mut self, member: u8, held: &[u32], wants: bool) {
        let entering = crate::Entering { node: node(member), request: 1, whole: None };
        self.hears(Input::Enters { entering, place: Place::default(), held: pieces(held), wants });
    }

    /// Everybody is connected but these.
    fn meets(&mut self, without: &[u8]) -> Vec<NodeId> {
        self.session.meet(|peer| !without.contains(&peer.0[0]))
    }

    fn met_by(&mut self, peer: u8, held: &[u32]) {
        let meeting = Meeting { tier: Tier::Rack, held: pieces(held), known: 0, wants: true };
        self.session.met_by(node(peer), meeting, &self.known, self.now);
    }

    fn stores(&mut self, piece: u32, from: Option<u8>) {
        let came = Came { piece: PieceIndex(piece), bytes: 1 << 20, request: None, from: from.map(node) };
        self.session.stored(came, self.now);
    }

    fn polls(&mut self) -> Vec<Action> {
        self.now = self.now + Duration::from_secs(1);
        let mut actions = Vec::new();
        self.session.picker.poll(self.now, &mut actions);
        actions
    }

    /// The peers that are asked for pieces by name.
    fn asked(&mut self) -> Vec<NodeId> {
        let actions = self.polls();
        let mut asked: Vec<NodeId> = actions
            .iter()
            .filter_map(|it| if let Action::Request { peer, .. } = it { Some(*peer) } else { None })
            .collect();
        asked.sort_unstable();
        asked.dedup();
        asked
    }

    /// The news after a while, each with its receivers.
    fn tells(&mut self) -> Vec<(Vec<u8>, Told)> {
        self.now = self.now + Duration::from_secs(1);
        let told = self.session.tell(&[], self.now);
        told.into_iter().map(|(nodes, told)| (nodes.iter().map(|it| it.0[0]).collect(), told)).collect()
    }
}

fn have(list: &[u32]) -> Told {
    Told::Have(list.iter().copied().map(PieceIndex).collect())
}

#[test]
fn neighbours_are_met_when_they_are_connected_and_each_once() {
    let mut scene = Scene::led(&[1, 2, 3, ME]);
    assert_eq!(scene.meets(&[2]), [node(1), node(3)]);
    assert_eq!(scene.meets(&[2]), []);
    scene.session.named(&[node(3), node(4), node(ME)], &[], scene.now);
    assert_eq!(scene.meets(&[]), [node(2), node(4)], "those that were met know what is here");
    scene.met_by(4, &[]);
    assert_eq!(scene.meets(&[]), [], "and that one answers");
    scene.met_by(6, &[]);
    assert_eq!(scene.meets(&[]), [node(6)], "whoever meets this agent by itself is met");
    assert_eq!(scene.session.met().len(), 5);
}

#[test]
fn who_is_no_neighbour_any_more_is_asked_for_nothing_and_one_that_is_named_anew_goes_on() {
    let mut scene = Scene::led(&[1, 2, 3]);
    scene.meets(&[3]);
    [1, 2, 3].iter().for_each(|peer| scene.met_by(*peer, &[0, 1, 2, 3, 4, 5, 6, 7]));
    scene.session.named(&[node(2)], &[node(1), node(2), node(3)], scene.now);
    assert_eq!(scene.asked(), [node(2)]);
    assert_eq!(scene.meets(&[]), [node(2)], "it is told again what is here");
    assert!(scene.session.met().iter().eq([&node(2)]));
    scene.session.parted(node(2), scene.now);
    assert!(scene.session.met().is_empty() && scene.session.picker.holdings().next().is_none());
}

#[test]
fn who_leads_is_asked_as_the_lead_and_not_as_a_neighbour() {
    let mut scene = Scene::led(&[1, 2]);
    [1, 2].iter().for_each(|peer| scene.met_by(*peer, &[0]));
    assert!(scene.loses(9, Loss::Failed) && !scene.loses(9, Loss::Failed), "nobody is followed");
    assert_eq!((scene.session.leader(), scene.session.hashes.shown()), (Leader::Nobody, 0), "nobody could prove them");
    assert!(scene.follows(1, &[2]));
    let neighbours = |scene: &Scene| scene.session.picker.holdings().map(|(peer, _)| peer).collect::<Vec<_>>();
    assert_eq!((scene.session.following(), neighbours(&scene)), (Some(node(1)), vec![node(2)]));
    assert_eq!(scene.session.hashes.shown(), PIECES);
    scene.met_by(1, &[0, 1]);
    assert_eq!(neighbours(&scene), [node(2)], "not though it says what it holds");
    assert!(scene.polls().iter().any(|it| matches!(it, Action::Ask { lead, .. } if *lead == node(1))));
}

#[test]
fn what_was_asked_of_the_former_lead_as_the_lead_is_called_back() {
    let mut scene = Scene::led(&[]);
    let asks = |actions: Vec<Action>| -> Vec<_> {
        actions.into_iter().filter_map(|it| if let Action::Ask { id, .. } = it { Some(id) } else { None }).collect()
    };
    let asked = asks(scene.polls());
    assert!(!asked.is_empty());
    scene.loses(9, Loss::Forgot);
    let void: Vec<Action> = asked.iter().map(|id| Action::Cancel { id: *id, peer: node(9) }).collect();
    let mut actions = scene.polls();
    actions.sort_by_key(|it| if let Action::Cancel { id, .. } = it { *id } else { RequestId(u64::MAX) });
    assert_eq!(actions, void);
    scene.follows(8, &[]);
    assert!(scene.polls().iter().all(|it| matches!(it, Action::Ask { lead, .. } if *lead == node(8))), "once");
}

#[test]
fn of_two_that_let_each_other_in_one_leads() {
    let mut scene = Scene::led(&[]);
    scene.loses(9, Loss::Failed);
    scene.leads();
    scene.admits(8);
    assert!(!scene.follows(8, &[]), "the lower one");
    assert_eq!(scene.session.leader(), Leader::Me);
    assert!(scene.follows(7, &[]), "one that was not let in is followed");
    let mut higher = Scene::new();
    higher.leads();
    higher.admits(2);
    assert!(higher.follows(2, &[]));
}

#[test]
fn whoever_led_tells_those_that_it_met_anew_what_it_holds_when_it_follows() {
    let mut scene = Scene::new();
    scene.leads();
    [1, 2].iter().for_each(|peer| scene.met_by(*peer, &[]));
    scene.meets(&[]);
    scene.stores(0, None);
    assert_eq!(scene.tells(), [], "whoever leads gives of its own accord");
    assert!(scene.follows(9, &[2, 3]));
    assert_eq!(scene.meets(&[]), [node(1), node(2), node(3)]);
    assert_eq!(scene.tells(), [], "they were told of all of it");
}

#[test]
fn the_books_of_whoever_leads_name_its_neighbours_as_a_lead_names_those_of_members() {
    let mut scene = Scene::new();
    scene.leads();
    [1, 2].iter().for_each(|member| scene.admits(*member));
    let notice = |scene: &mut Scene| {
        let speech = scene.session.speak(&scene.known, scene.now);
        assert!(speech.own.is_some(), "somebody came or went");
    };
    notice(&mut scene);
    assert_eq!(scene.meets(&[]), [node(1), node(2)]);
    scene.met_by(1, &[0]);
    scene.session.left(node(1));
    notice(&mut scene);
    assert!(scene.session.met().iter().eq([&node(2)]) && scene.session.picker.holdings().next().is_none());
}

#[test]
fn a_neighbour_whose_connection_is_gone_is_met_again_while_something_is_lacking_and_another_leads() {
    let gone = |peer: u8, is_lacking: bool| {
        let mut scene = Scene::led(&[1, 9]);
        scene.meets(&[]);
        scene.met_by(1, &[0]);
        scene.session.course = Course::new(!is_lacking);
        let again = scene.session.gone(node(peer), scene.now);
        assert_eq!(scene.session.picker.holdings().count(), usize::from(peer != 1));
        (again, scene.meets(&[]).len())
    };
    assert_eq!(gone(1, true), (true, 1));
    assert_eq!(gone(1, false), (false, 0), "what is here is all that was wanted");
    assert_eq!(gone(9, true), (false, 0), "the lead is asked again by a search for one");
    assert_eq!(gone(2, true), (false, 0), "it was no neighbour");
    let mut scene = Scene::new();
    scene.met_by(1, &[0]);
    scene.meets(&[]);
    assert!(!scene.session.gone(node(1), scene.now), "nobody says that it is still a neighbour");
}

#[test]
fn the_lead_hears_who_could_not_be_reached_of_those_that_are_to_be_met() {
    let mut scene = Scene::led(&[1, 2]);
    scene.meets(&[1]);
    let told = |scene: &Scene, peer| scene.session.unreached(node(peer));
    assert_eq!([1, 2, 3].map(|peer| told(&scene, peer)), [Some(node(9)), None, None]);
    scene.session.course = Course::new(true);
    assert_eq!(told(&scene, 1), None, "nothing is lacking");
    scene.session.course = Course::new(false);
    scene.loses(9, Loss::Failed);
    assert_eq!(told(&scene, 1), None, "there is nobody to hear it");
    scene.follows(1, &[]);
    assert_eq!(told(&scene, 1), None, "it is the lead itself");
}

#[test]
fn who_sends_a_wrong_piece_is_told_nothing_and_not_asked_to_lead() {
    let mut scene = Scene::led(&[1, 2]);
    scene.meets(&[]);
    assert_eq!(scene.session.accuse(node(1)), Some(node(9)), "the lead is to hear of it");
    assert!(scene.session.met().iter().eq([&node(2)]));
    scene.loses(9, Loss::Failed);
    let mut asked = Vec::new();
    while let Step::Ask(peer) = scene.seeks(&[1], &[]) {
        asked.push(peer);
        scene.hears(Input::Sought(Sought::Refused(peer)));
    }
    assert!(!asked.contains(&node(1)), "{asked:?}");
    scene.leads();
    scene.admits(3);
    assert_eq!(scene.session.accuse(node(3)), None);
    assert_eq!(scene.lead().members(), [node(ME)], "its own word puts it aside");
}

#[test]
fn a_search_goes_by_the_neighbours_that_are_met_and_connected() {
    let mut scene = Scene::led(&[2, 4, 6]);
    scene.stores(0, Some(9));
    scene.meets(&[6]);
    scene.loses(9, Loss::Failed);
    let mut other = Leadership::new(node(ME), BlobId([1; 32]), BLOB, true);
    other.begin_search();
    assert_eq!(scene.seeks(&[], &[]), other.next(&[], &[node(2), node(4)]));
    assert_eq!(scene.seeks(&[], &[]), Step::End, "one step at a time");
    scene.hears(Input::Sought(Sought::Done));
    assert_eq!(scene.seeks(&[], &[2, 4]), Step::Survey, "nobody is known to be there");
}

#[test]
fn a_piece_that_came_is_told_to_neighbours_and_to_the_lead_at_once_if_that_gave_it() {
    let mut scene = Scene::led(&[1, 2]);
    scene.meets(&[]);
    scene.met_by(2, &[3]);
    scene.stores(3, Some(1));
    let told = scene.tells();
    assert!(told.contains(&(vec![1], have(&[3]))) || told.contains(&(vec![1, 9], have(&[3]))), "{told:?}");
    assert!(told.iter().all(|(nodes, _)| !nodes.contains(&2)), "it holds it");
    let due = |giver: u8| {
        let many: Vec<u8> = (10..80).collect();
        let mut scene = Scene::led(&many);
        scene.meets(&[]);
        scene.stores(0, None);
        scene.now = scene.now + Duration::from_secs(60);
        scene.tells();
        let before = scene.now;
        scene.stores(4, Some(giver));
        let mut told = Vec::new();
        while !told.iter().any(|(nodes, _): &(Vec<u8>, Told)| nodes.contains(&9)) {
            scene.now = scene.session.news_due().expect("the lead hears of everything").max(scene.now);
            let news = scene.session.tell(&[], scene.now);
            told.extend(news.into_iter().map(|(nodes, it)| (nodes.iter().map(|it| it.0[0]).collect(), it)));
        }
        scene.now.since(before)
    };
    assert!(due(9) < due(10), "{:?} {:?}", due(9), due(10));
}

#[test]
fn those_that_are_met_now_are_not_told_the_same_as_news() {
    let mut scene = Scene::led(&[1, 2]);
    scene.meets(&[2]);
    scene.stores(0, None);
    let meets = scene.meets(&[]);
    scene.now = scene.now + Duration::from_secs(1);
    let told = scene.session.tell(&meets, scene.now);
    assert!(told.iter().all(|(nodes, _)| !nodes.contains(&node(2))), "{told:?}");
}

#[test]
fn whoever_leads_owns_what_comes_and_knows_who_gave_it() {
    let mut scene = Scene::new();
    scene.leads();
    scene.admits(1);
    scene.stores(2, Some(1));
    let owned = |scene: &Scene| scene.lead().owned().clone();
    assert_eq!(owned(&scene), pieces(&[2]));
    assert!(scene.session.picker.held().contains(PieceIndex(2)));
    scene.session.lacks(PieceIndex(2), scene.now);
    assert!(owned(&scene).is_empty() && scene.session.picker.held().is_empty());
}

#[test]
fn a_piece_that_is_lost_is_told_and_asked_for_again_and_one_that_a_neighbour_lost_is_offered_to_it() {
    let mut scene = Scene::led(&[1]);
    scene.meets(&[]);
    scene.met_by(1, &[0, 1]);
    scene.stores(0, Some(1));
    scene.tells();
    scene.session.lost_by(node(1), PieceIndex(0), scene.now);
    scene.session.lost_by(node(1), PieceIndex(1), scene.now);
    assert_eq!(scene.tells(), [(vec![1], have(&[0]))]);
    assert!(scene.asked().is_empty(), "that one has nothing that is lacking here");
    scene.session.lacks(PieceIndex(0), scene.now);
    let lost = Told::Lost(vec![PieceIndex(0)]);
    assert_eq!(scene.tells(), [(vec![1, 9], lost)]);
    scene.met_by(1, &[0]);
    assert_eq!(scene.asked(), [node(1)]);
}

#[test]
fn neighbours_hear_of_the_first_hashes_where_members_ask_each_other() {
    for ask in [false, true] {
        let mut scene = Scene::led(&[1]);
        let tuning = Tuning::default();
        scene.session.hashes = Hashes::new(BLOB, PieceLength::UNKNOWN_BLOB, &[], 0, tuning);
        scene.session.hashes.members_ask(ask);
        scene.meets(&[]);
        assert_eq!(scene.session.catch_up(&Known::first(2)), ask);
        assert!(!scene.session.learned(2..4, &Known::first(4), scene.now), "they are not the first");
        assert_eq!(scene.tells(), if ask { vec![(vec![1], have(&[]))] } else { Vec::new() });
    }
}

#[test]
fn a_peer_that_meets_this_agent_shows_what_hashes_it_can_tell_of_what_is_wanted() {
    let teacher = |wanted: bool| {
        let mut scene = Scene::new();
        let known = Known::first(2);
        scene.session.hashes = Hashes::new(BLOB, PieceLength::UNKNOWN_BLOB, &[], 0, Tuning::default());
        scene.session.catch_up(&known);
        scene.follows(9, &[1]);
        scene.session.hashes.members_ask(true);
        let meeting = Meeting { tier: Tier::Rack, held: pieces(&[6]), known: 2, wants: true };
        if !wanted {
            scene.session.wants_parts(scene.now);
        }
        scene.session.met_by(node(1), meeting, &known, scene.now);
        scene.session.hashes.ask(scene.now)
    };
    assert_eq!(teacher(true), Some(Teacher::Neighbour(node(1))));
    assert_eq!(teacher(false), None);
}

#[test]
fn a_process_that_starts_again_knows_nobody_and_has_what_it_stored() {
    let mut scene = Scene::led(&[1, 2]);
    scene.meets(&[2]);
    [1, 2].iter().for_each(|peer| scene.met_by(*peer, &[0]));
    scene.stores(3, Some(9));
    let leadership = Leadership::new(node(ME), BlobId([1; 32]), BLOB, true);
    scene.session.restart(leadership, scene.now);
    assert_eq!((scene.session.leader(), scene.session.news_due()), (Leader::Nobody, None));
    assert!(scene.session.met().is_empty() && scene.session.to_meet().is_empty());
    assert_eq!(scene.session.picker.held(), &pieces(&[3]));
    assert!(scene.asked().is_empty());
}

#[test]
fn a_lead_that_begins_to_send_a_piece_knows_its_hash_and_a_neighbour_need_not() {
    let asks = |giver: u8| {
        let mut scene = Scene::new();
        scene.session.hashes = Hashes::new(BLOB, PieceLength::UNKNOWN_BLOB, &[], 0, Tuning::default());
        scene.follows(9, &[1]);
        scene.session.hashes.members_ask(true);
        scene.session.begun(RequestId(7), PieceIndex(3), node(giver), scene.now);
        scene.session.hashes.ask(scene.now)
    };
    assert_eq!(asks(9), Some(Teacher::Lead));
    assert_eq!(asks(1), None);
}

#[test]
fn whoever_leads_leaves_nothing_to_a_member_that_refuses_a_piece_or_is_out_of_reach() {
    for is_reached in [true, false] {
        let mut scene = Scene::new();
        scene.leads();
        scene.admits_with(1, &[4], false);
        scene.met_by(1, &[4]);
        let request =
            scene.polls().into_iter().find_map(|it| if let Action::Request { id, .. } = it { Some(id) } else { None });
        let (request, piece) = (request.expect("it is the only holder"), PieceIndex(4));
        let Scene { session, now, .. } = &mut scene;
        match is_reached {
            true => session.refused(request, node(1), piece, *now),
            false => session.failed(request, node(1), piece, *now),
        }
        assert_eq!(scene.lead().holders(piece), 0);
        assert_eq!(scene.session.picker.open_requests().count(), 0);
        scene.now = scene.now + Duration::from_secs(60);
        let is_asked_again = scene.asked() == [node(1)];
        assert_eq!(is_asked_again, !is_reached, "one that may be back is tried again");
    }
}

#[test]
fn what_came_while_this_agent_led_is_no_news_when_it_follows() {
    let mut scene = Scene::new();
    scene.leads();
    [1, 2].iter().for_each(|peer| scene.met_by(*peer, &[]));
    scene.meets(&[]);
    scene.stores(0, None);
    assert_eq!(scene.session.news_due(), None);
    scene.follows(9, &[2]);
    scene.meets(&[]);
    assert_eq!(scene.tells(), [], "they were told of it when they were met anew");
    scene.stores(1, None);
    assert_eq!(scene.tells(), [(vec![1, 2, 9], have(&[1]))]);
}

#[test]
fn whom_a_lead_named_anew_and_the_next_one_does_not_is_not_met_again() {
    let mut scene = Scene::led(&[1, 2]);
    scene.meets(&[]);
    scene.loses(9, Loss::Failed);
    scene.follows(8, &[1, 3]);
    scene.loses(8, Loss::Failed);
    scene.follows(7, &[2]);
    assert_eq!(scene.meets(&[]), [node(2), node(3)], "that one was never met");
}

#[test]
fn a_neighbour_that_comes_to_lead_is_told_what_neighbours_were_still_to_hear() {
    let many: Vec<u8> = (10..80).collect();
    let mut scene = Scene::led(&many);
    scene.meets(&[]);
    scene.stores(0, None);
    scene.tells();
    scene.loses(9, Loss::Failed);
    scene.stores(4, Some(11));
    assert_eq!(scene.session.tell(&[], scene.now), [], "so many neighbours are told once in a while");
    scene.follows(10, &[11]);
    scene.now = scene.now + Duration::from_secs(60);
    let told = scene.tells();
    let is_told = |peer: u8| told.iter().any(|(nodes, it)| nodes.contains(&peer) && *it == have(&[4]));
    assert!(is_told(10) && is_told(12), "{told:?}");
}

#[test]
fn a_lead_that_forgets_this_agent_again_and_again_is_asked_no_more_unless_pieces_come_in_between() {
    let forgets = |scene: &mut Scene, times: u32| {
        for _ in 0..times {
            assert!(scene.follows(9, &[]) && scene.loses(9, Loss::Forgot));
        }
        scene.session.leadership.failed().next().is_some()
    };
    assert!(forgets(&mut Scene::new(), 5));
    let mut scene = Scene::new();
    assert!(!forgets(&mut scene, 4));
    scene.stores(0, Some(9));
    assert!(!forgets(&mut scene, 4), "it knows this agent after all");
    assert!(forgets(&mut scene, 1));
}

#[test]
fn a_member_that_let_this_agent_down_counts_as_a_holder_again_when_it_has_given_something() {
    let mut scene = Scene::new();
    scene.leads();
    scene.admits_with(1, &[3, 4], false);
    scene.session.doubts(node(1));
    let holders = |scene: &Scene| scene.lead().holders(PieceIndex(3));
    assert_eq!(holders(&scene), 0);
    scene.stores(4, None);
    assert_eq!(holders(&scene), 0, "that was the origin");
    scene.stores(5, Some(1));
    assert_eq!(holders(&scene), 1);
}

#[test]
fn a_node_that_begins_to_lead_counts_in_the_neighbours_that_are_connected_and_whoever_led_from_the_start_does_not() {
    for (start, holders) in [(Start::TakeOver, 1), (Start::Fresh, 0)] {
        let mut scene = Scene::led(&[1, 2]);
        scene.meets(&[]);
        [1, 2].iter().for_each(|peer| scene.met_by(*peer, &[0]));
        let Scene { session, known, now } = &mut scene;
        session.lost_lead(node(9), Loss::Failed, *now);
        session.leads(*now);
        assert!(session.open_books(start, desk(), known, *now));
        assert!(!session.open_books(start, desk(), known, *now), "they are open");
        assert_eq!(scene.lead().holders(PieceIndex(0)), holders, "one of them is connected");
    }
}

#[test]
fn the_lead_is_told_what_is_waited_for_here_and_each_change_once() {
    let mut scene = Scene::led(&[]);
    let told = |scene: &mut Scene| match scene.session.tell_wants(BLOB) {
        Some(Message::Want { everything, wishes, .. }) => {
            Some((everything, wishes.iter().map(|wish| wish.first).collect::<Vec<_>>()))
        }
        _ => None,
    };
    assert_eq!(told(&mut scene), None, "a lead takes it that everything is wanted");
    let mut scene = Scene::led(&[]);
    scene.session.wants_parts(scene.now);
    assert!(scene.session.is_at_rest() && !scene.session.is_all_wanted());
    let wish = |first| Some(Wish { first, end: first + 2, within: Duration::from_secs(1) });
    assert!(scene.session.wish(ReaderId(1), wish(4), scene.now));
    assert!(!scene.session.wish(ReaderId(1), wish(4), scene.now), "it was said before");
    assert_eq!((told(&mut scene), told(&mut scene)), (Some((false, vec![4])), None));
    assert!(!scene.session.is_at_rest());
    scene.loses(9, Loss::Failed);
    scene.follows(8, &[]);
    assert_eq!(told(&mut scene), Some((false, vec![4])), "another lead knows nothing of it");
    assert!(scene.session.wish(ReaderId(1), None, scene.now));
    assert_eq!(told(&mut scene), Some((false, vec![])));
    assert!(scene.session.wants_all(false, scene.now) && !scene.session.wants_all(false, scene.now));
    assert_eq!(told(&mut scene), Some((true, vec![])));
}

#[test]
fn what_members_wait_for_is_asked_for_first_by_whoever_follows_another_lead() {
    let mut scene = Scene::led(&[1]);
    scene.session.wants_parts(scene.now);
    scene.meets(&[]);
    scene.met_by(1, &[0, 1, 2, 3, 4, 5, 6, 7]);
    assert!(scene.hears(Input::OpensBooks(desk())));
    scene.admits_with(3, &[], false);
    let wishes = [darter_protocol::Wish { first: 5, end: 6, within_ms: 0 }];
    scene.session.member_wants(node(4), false, &wishes, scene.now);
    assert!(scene.session.is_at_rest(), "that one was not let in");
    scene.session.member_wants(node(3), false, &wishes, scene.now);
    assert!(!scene.session.is_at_rest() && !scene.session.is_all_wanted());
    scene.session.read_for_members(scene.now);
    let asked = |scene: &mut Scene| {
        let pieces = scene.polls().into_iter();
        pieces
            .filter_map(|it| if let Action::Request { piece, .. } = it { Some(piece.0) } else { None })
            .collect::<Vec<_>>()
    };
    assert_eq!(asked(&mut scene), [5]);
    scene.session.member_wants(node(3), true, &[], scene.now);
    assert!(scene.session.is_all_wanted(), "everything is wanted by somebody who is led");
}
