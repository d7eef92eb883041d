//! Nodes that don't give what they say they hold: what a request to one of them comes to. Decisions of the honest ones are
//! `darter-swarm`'s; a liar itself joins, asks and takes what it is given like any other node. One that leads gives nothing, and reads
//! nothing of the origin. Each liar among real agents (`tests/fleet/liars` in `darter-agent`) has a twin here.
//!
//! Not here: wrong pieces, which are found where they arrive (`links`), and nodes that die (`fleet`).

use std::time::Duration;

use darter_core::{PieceIndex, PieceSet};
use darter_protocol::{Failure, FailureKind, Message};
use darter_scenario::{Lie, SEED};
use darter_swarm::{Guilt, Input, RequestId, Session, SessionStart};

use crate::fleet::Fleet;
use crate::node::{BLOB, id_of, index_of};
use crate::queue::{Failed, Lied, What};
use crate::uploads::Upload;

/// How often a node that sends byte by byte sends one, and the receiver sees it.
const DRIP: Duration = Duration::from_millis(200);

/// The most bytes that a liar gives, one at a time.
const MAX_DRIPS: u16 = 600;

/// How long who answers late takes.
const LATE: Duration = Duration::from_secs(10);

/// How soon who takes a piece back says again that it holds it.
const AGAIN: Duration = Duration::from_millis(50);

impl Fleet {
    /// A node lies from now on. Nothing is owed to it.
    pub(crate) fn lie(&mut self, index: usize, lie: Lie) {
        if self.is_waited_for(index) {
            self.waiting_for -= 1;
        }
        let node = &mut self.nodes[index];
        node.honest = false;
        node.lie = Some(lie);
    }

    /// The seed makes up the hashes of all pieces.
    pub(crate) fn forges(&mut self) {
        self.lie(SEED as usize, Lie::Silent);
        self.nodes[SEED as usize].is_forged = true;
        self.learn(SEED, self.pieces);
    }

    /// The origin has other bytes than the hashes say that a node knows, which leads: its members are told that, and all begin anew.
    pub(crate) fn finds_forged(&mut self, leader: u32) {
        let (kind, text) = (FailureKind::Changed, "the origin has other bytes".to_owned());
        let failure = Failure { kind, status: None, text, challenge: None };
        self.tell_at_once(leader, Input::GivesUp(failure));
        if let Some(last) = self.nodes[leader as usize].session.leadership().last_followed() {
            self.is_let_down(leader, index_of(last), Guilt::Perhaps);
        }
        self.begin_anew(leader);
    }

    /// A node throws away all that its lead said of the blob, which let it down.
    pub(crate) fn start_over(&mut self, index: u32, lead: u32, guilt: Guilt) {
        self.is_let_down(index, lead, guilt);
        self.begin_anew(index);
    }

    /// A node takes note of a lead that let it down.
    pub(crate) fn is_let_down(&mut self, index: u32, lead: u32, guilt: Guilt) {
        let node = &mut self.nodes[index as usize];
        let now = node.clock(self.now);
        node.let_downs.note(BLOB, id_of(lead), lead == SEED, guilt, now);
    }

    /// True if a node does not follow another: that one, or too many, led it and let it down.
    pub(crate) fn is_barred(&self, index: u32, lead: u32) -> bool {
        let node = &self.nodes[index as usize];
        node.let_downs.is_barred(BLOB, id_of(lead), lead == SEED, node.clock(self.now))
    }

    /// A node forgets hashes and pieces, and comes as one that never was there.
    fn begin_anew(&mut self, index: u32) {
        self.kill(index);
        self.noticed(index);
        let node = &mut self.nodes[index as usize];
        (node.known, node.is_forged) = (0, false);
        let now = node.clock(self.now);
        node.session = Session::begin(SessionStart { now, ..node.start.clone() });
        node.session.record_decisions();
        self.join(index);
    }

    /// The pieces that a node says it holds.
    pub(crate) fn shown(&self, index: u32) -> PieceSet {
        let node = &self.nodes[index as usize];
        if node.lie.is_some_and(Lie::claims_all) {
            PieceSet::full(self.pieces)
        } else {
            node.session.picker().held().clone()
        }
    }

    /// True if a node lies in its answer to a request, which is taken from it then.
    pub(crate) fn is_lied_to(&mut self, liar: u32, asker: u32, id: u32, piece: PieceIndex) -> bool {
        let Some(lie) = self.nodes[liar as usize].lie else { return false };
        let soon = self.message_at(liar, asker);
        let later = Lied { liar, asker, id, piece: piece.0, times: 0 };
        let failed = |lost| What::Failed(Failed { node: asker, by: liar, id, wanted: Some(piece.0), lost });
        match lie {
            Lie::Wrong | Lie::Vanish => return false,
            Lie::Silent => {}
            Lie::Drip => self.queue.push(soon, What::Lied(later)),
            Lie::Refuse => self.queue.push(soon, failed(false)),
            Lie::Claim => self.queue.push(soon, failed(true)),
            Lie::Withdraw => {
                self.queue.push(soon, failed(true));
                self.queue.push(soon + AGAIN, What::Lied(later));
            }
            Lie::Late => self.queue.push(self.now + LATE, What::Lied(later)),
        }
        true
    }

    /// True if a node that leads lies in its answer to an ask, which is taken from it then. A liar that gives nothing by name gives nothing
    /// as a lead either.
    pub(crate) fn lies_as_lead(&mut self, liar: u32, asker: u32, id: u32) -> bool {
        match self.nodes[liar as usize].lie {
            None | Some(Lie::Wrong | Lie::Vanish) => false,
            Some(Lie::Refuse) => {
                let failed = Failed { node: asker, by: liar, id, wanted: None, lost: false };
                self.queue.push(self.message_at(liar, asker), What::Failed(failed));
                true
            }
            Some(_) => true,
        }
    }

    /// The time has come for what a liar does about a request.
    pub(crate) fn lies_on(&mut self, lied: Lied) {
        let Lied { liar, asker, id, piece, times } = lied;
        let node = &mut self.nodes[liar as usize];
        if !node.alive || !self.nodes[asker as usize].alive {
            return;
        }
        match self.nodes[liar as usize].lie {
            Some(Lie::Drip) if times < MAX_DRIPS => {
                self.tell(asker, Input::Moved { request: RequestId(id.into()), bytes: u32::from(times) + 1 });
                self.queue.push(self.now + DRIP, What::Lied(Lied { times: times + 1, ..lied }));
            }
            Some(Lie::Withdraw) if self.nodes[asker as usize].session.met().contains(&id_of(liar)) => {
                let known = self.nodes[liar as usize].session.hashes().shown();
                let again = Message::Have { blob: BLOB, pieces: vec![PieceIndex(piece)], known };
                self.post(liar, &[id_of(asker)], again);
            }
            Some(Lie::Late) if self.nodes[liar as usize].holds(PieceIndex(piece)) => {
                let upload = Upload { request: id, piece: Some(PieceIndex(piece)), urgent: false, last: false };
                self.nodes[liar as usize].uploads.push(asker, upload);
                self.fill_slots(liar);
            }
            _ => {}
        }
    }
}
