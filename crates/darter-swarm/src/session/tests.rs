//! Tests of the session, by what it decides. This file has what they share.

use std::time::Duration;

use darter_core::{BlobId, LeadKey, PieceIndex, PieceLength, PieceSet, Place, Signer, Tier};

use darter_protocol::{Message, PeerInfo};

use super::*;
use crate::facts::fixture::{BLOB, Known};
use crate::{Action, Course, Lead, Loss, PieceNews, ReaderId, RequestId, Start, Step, Teacher, Wish};

mod doubted;
mod driven;
mod ended;
mod giving;
mod leading;
mod led;
mod met;
mod origin;
mod sought;
mod told;
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
    Desk { place: Place::default(), seed: 1, signer: Signer::draw() }
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
        assert!(self.session.books.is_none());
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
        self.session.books.as_ref().expect("it leads").lead()
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
    fn tells(&mut self) -> Vec<(Vec<u8>, PieceNews)> {
        self.now = self.now + Duration::from_secs(1);
        let told = self.session.tell(&[], self.now);
        told.into_iter().map(|(nodes, told)| (nodes.iter().map(|it| it.0[0]).collect(), told)).collect()
    }
}

fn have(list: &[u32]) -> PieceNews {
    PieceNews::Have(list.iter().copied().map(PieceIndex).collect())
}
