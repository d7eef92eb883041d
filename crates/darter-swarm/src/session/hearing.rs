//! [`Session::handle`]: the consequences of each input.

use darter_core::{Moment, NodeId};
use darter_protocol::{Failure, FailureKind, Message, PeerInfo, Refusal, Wanted};

use super::seeking::Lost;
use super::{Came, Guilt, Input, Meeting, Output, Session};
use crate::{Event, Facts, Leader, Loss, RequestId, Start};

/// While this many outputs wait to be carried out, reports of other agents are not heard: they can be repeated for ever.
const MAX_OUTPUTS: usize = 4096;

/// A lead that gives this many pieces in a row that are here already counts as one that gives nothing. It may not know yet which pieces came from
/// others, but it gives each piece once, and not many at a time.
const MAX_REPEATED: u32 = 64;

/// A request under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct PendingRequest {
    pub(super) of: NodeId,
    wanted: Wanted,
    /// Bytes of the answer that have come.
    arrived: u32,
}

impl PendingRequest {
    pub(super) const fn new(of: NodeId, wanted: Wanted) -> Self {
        Self { of, wanted, arrived: 0 }
    }
}

impl Session {
    /// Handles an input. Returns true if anything follows from it now.
    pub(super) fn take_in(&mut self, input: Input, facts: &dyn Facts, now: Moment) -> bool {
        match input {
            Input::Said { by, message } => return self.hear(by, message, facts, now),
            Input::Found(infos) => self.dials(infos, &[], now),
            Input::Connected(_) => {}
            Input::Gone(peer) => self.loses_connection(peer, facts, now),
            Input::Unreached(peer) => {
                let Some(lead) = self.unreached(peer) else { return false };
                self.say(lead, Message::Unreached { blob: facts.blob(), peer });
            }
            Input::Begun { request, piece } => {
                let Some(asked) = self.asked.get(&request) else { return false };
                self.begun(request, piece, asked.of, now);
            }
            Input::Moved { request, bytes } => {
                self.moved(request, bytes, now);
                // A reader says this each time, and it changes nothing that would be done now.
                return false;
            }
            Input::Early { by, piece } => self.gives(by, piece),
            Input::LeadLost { lead, loss, why } => {
                let in_vain = loss == Loss::Failed && self.vigil.is_in_vain(now);
                return self.loses_it(lead, Lost { loss, in_vain, is_given_up: false }, why, facts, now);
            }
            Input::SeedCame(seed) => return self.seed_came(seed, facts),
            Input::LetIn(let_in) => return self.follow(let_in, facts, now),
            Input::Leads { start, desk } => self.begins_to_lead(start, desk, facts, now),
            Input::OpensBooks(desk) => return self.open_books(Start::TakeOver, desk, facts, now),
            Input::Resumes => self.goes_on(),
            Input::Sought(how) => self.sought(how, now),
            Input::Learned(run) => {
                self.learned(run, facts, now);
            }
            Input::Sized => self.sized(facts, now),
            Input::LeadTold { first, count, proof, members_ask, taken } => {
                if let Some(ask) = members_ask {
                    self.hashes.members_ask(ask);
                }
                if taken.is_some() {
                    self.learned(first..first + count, facts, now);
                }
                if taken.is_some_and(|new| new > 0) {
                    self.vigil.told(now);
                }
                self.lead_told(first, count, proof, facts);
            }
            Input::HashesAnswered { by, answer } => {
                self.answered(by, answer, now);
            }
            Input::RunTaken { by, run, pieces } => {
                self.took_run(by, run, facts);
                if self.following() == Some(by) {
                    self.vigil.told(now);
                }
                self.learned(pieces, facts, now);
            }
            Input::LeadWaits { lead, most } => return self.lead_waits(lead, most, facts, now),
            Input::Enters { entering, place, held, wants } => self.enters(entering, place, &held, wants),
            Input::CountsIn { node, place, held } => self.count_in(node, place, &held),
            Input::Passes => self.picker.handle(Event::Wants(false), now),
            Input::OriginBears { connections, known_until, piece_length, length } => {
                if let Some(books) = &mut self.books {
                    books.lead_mut().read_by(connections, known_until, piece_length, length);
                }
            }
            Input::OriginCame => {
                self.vigil.moved(now);
                return false;
            }
            Input::OriginGave(gave) => return self.gave(gave, facts, now),
            Input::ReadEnded { reader } => return self.read_ended(reader),
            Input::OriginFailed { began, why } => return self.narrows(why, |lead| lead.origin_failed(began, now)),
            Input::OriginRefused { why } => return self.narrows(why, |lead| lead.origin_refused(now)),
            Input::OriginShut => self.is_shut_out(),
            Input::ReadsAll { in_order } => self.reads_all(in_order, facts.blob(), now),
            Input::OriginRests(pause) => self.rests(pause, now),
            Input::OriginAsksForRest(pause) => {
                self.is_asked_to_rest(pause, now);
                return false;
            }
            Input::Compares(compares) => self.compares = compares,
            Input::Arrived => self.course.arrived(),
            Input::Sealed { verdict, by } => return self.completes(verdict, by),
            Input::CheckEnded => self.course.check_ended(),
            Input::GivesUp(failure) => self.gives_up(&failure, facts),
            Input::Dissolves { tells } => return self.dissolves(tells),
            Input::Fails => self.course.fails(),
            Input::Leaves => self.leaves(facts),
            Input::Refused { request, by, wanted, reason } => {
                let forgot = self.is_refused(request, by, wanted, reason, now);
                if forgot {
                    let why = "it no longer knows of this swarm or of its members".to_owned();
                    self.loses(by, Loss::Forgot, why, facts, now);
                }
            }
            Input::Unanswered { request } => match self.asked.remove(&request) {
                Some(PendingRequest { of, wanted: Wanted::Piece(piece), .. }) => self.failed(request, of, piece, now),
                _ => self.picker.handle(Event::Failed { request }, now),
            },
            Input::Stored(came) => {
                self.repeated = 0;
                self.is_answered(came.request);
                self.stored(came, now);
            }
            Input::Again(came) => self.came_again(came, facts, now),
            Input::Wrong { by, request, piece } => {
                self.is_answered(Some(request));
                self.picker.handle(Event::Corrupt { peer: by, request: Some(request), piece }, now);
            }
            Input::Lacking(pieces) => self.are_lacking(&pieces, now),
            Input::Forgotten(piece) => self.forgets(piece),
            Input::Sending { to, piece } => {
                self.sending(to, piece, now);
                return false;
            }
            Input::AskStands => return self.ask_stands(now),
            Input::Unsent { to, piece } => {
                self.unsent(to, piece);
                return false;
            }
            Input::ReaderAt { reader, piece, count, patience } => {
                self.picker.handle(Event::ReaderAt { reader, piece, count, patience }, now);
            }
            Input::Foreseen { reader, piece, count, by } => {
                self.picker.handle(Event::Foreseen { reader, piece, count, by }, now);
            }
            Input::ReaderGone(reader) => self.picker.handle(Event::ReaderGone { reader }, now),
            Input::Wish { reader, wish } => return self.wish(reader, wish, now),
            Input::WantsAll { passes } => return self.wants_all(passes, now),
        }
        true
    }

    /// Handles a peer's message about the blob.
    fn hear(&mut self, by: NodeId, message: Message, facts: &dyn Facts, now: Moment) -> bool {
        let is_lead = self.following() == Some(by);
        match message {
            Message::Neighbours { add, gone, .. } if is_lead => self.dials(add, &gone, now),
            Message::Whole { verdict, .. } if is_lead => self.told_verdict(verdict),
            Message::Dissolved { reason, .. } if is_lead => self.outputs.push(match facts.is_seed(by) {
                true => Output::Dissolve { reason: format!("{reason}, says seed {}", facts.address(by)) },
                false => Output::StartOver { lead: by, guilt: Guilt::Sure, reason },
            }),
            Message::InOrder { reason, .. } if is_lead => return self.lead_reads_in_order(by, reason, facts.blob()),
            Message::Failed { failure, .. } if is_lead => return self.given_up(by, failure, facts, now),
            // A lead that deletes the blob refuses requests for its pieces, and may be left for that before it says why.
            Message::Refuted { expected, got, reader, .. } if is_lead || self.was_lead(by) => {
                if !is_lead && self.has_read {
                    return false;
                }
                self.outputs.push(Output::Refuted { expected, got, reader });
            }
            Message::Refuted { request: None, expected, got, .. } => return self.is_refuted(by, expected, got),
            Message::Meet { held, known, wants, .. } => {
                let meeting = Meeting { tier: facts.tier(by), held, known, wants };
                self.met_by(by, meeting, facts, now);
            }
            Message::Have { pieces, known, .. } => {
                self.member_has(by, &pieces, now);
                // Most announcements change nothing for now.
                return self.has_more(by, known, &pieces, facts, now);
            }
            Message::Lost { pieces, .. } => pieces.iter().for_each(|piece| self.lost_by(by, *piece, now)),
            Message::Part { .. } => {
                self.parted(by, now);
                // An admitted agent says so to its lead by itself.
                if !self.has_member(by) {
                    self.left(by);
                }
            }
            Message::Leave { .. } => self.left(by),
            Message::Report { .. } if self.outputs.len() >= MAX_OUTPUTS => {}
            Message::Report { peer, piece, .. } if peer == self.me => return self.is_doubted(by, piece, now),
            Message::Report { peer, .. } if self.has_member(by) => {
                let put_aside = self.member_reports(by, peer);
                self.outputs.push(Output::Reported { peer, put_aside });
            }
            Message::Unreached { peer, .. } => self.member_misses(by, peer),
            Message::Want { everything, wishes, .. } => self.member_wants(by, everything, &wishes, now),
            Message::AskHashes { from, .. } => {
                self.questions.insert(by, from);
            }
            // Sent by a lead that is not followed any more, or about something that is over.
            _ => return false,
        }
        true
    }

    /// The lead can't go on reading the origin.
    fn given_up(&mut self, lead: NodeId, failure: Failure, facts: &dyn Facts, now: Moment) -> bool {
        match failure.kind {
            FailureKind::Changed if facts.may_change() => self.outputs.push(Output::Superseded { by: lead, failure }),
            // The next lead would ask an origin that asked to be left alone. But this is one agent's word, so the next one is asked once.
            FailureKind::RateLimited if self.limited_by.is_some_and(|before| before != lead) => {
                let text = format!("{}, says {}", failure.text, facts.address(lead));
                self.outputs.push(Output::GiveUp(Failure { text, ..failure }));
            }
            kind => {
                if kind == FailureKind::RateLimited && facts.is_seed(lead) {
                    self.limited_by = Some(lead);
                }
                let lost = Lost { loss: Loss::Failed, in_vain: false, is_given_up: facts.is_seed(lead) };
                return self.loses_it(lead, lost, failure.text, facts, now);
            }
        }
        true
    }

    /// A piece came that is here already.
    fn came_again(&mut self, came: Came, facts: &dyn Facts, now: Moment) {
        let Came { piece, bytes, request, from } = came;
        let asked = request.and_then(|request| self.asked.get(&request));
        let was_chosen = asked.is_some_and(|asked| asked.wanted == Wanted::Any);
        self.is_answered(request);
        if let Some(books) = self.books.as_mut().filter(|_| from.is_none()) {
            books.lead_mut().own(piece);
        }
        self.picker.handle(Event::Received { request, piece, bytes }, now);
        if let Some(lead) = self.following().filter(|lead| was_chosen && from == Some(*lead)) {
            // The lead is to know what is here before it chooses again.
            self.news.tell_lead_at_once();
            self.repeats(lead, facts, now);
        }
    }

    /// The lead gave a piece that is here. It chooses what it gives: if it gives nothing else, it keeps this agent from the other pieces and its link busy.
    fn repeats(&mut self, lead: NodeId, facts: &dyn Facts, now: Moment) {
        self.repeated += 1;
        if self.repeated >= MAX_REPEATED && !self.picker.is_complete() {
            self.repeated = 0;
            let why = format!("{} gave {MAX_REPEATED} pieces in a row that were here", facts.address(lead));
            self.loses(lead, Loss::Mute, why, facts, now);
        }
    }

    fn is_answered(&mut self, request: Option<RequestId>) {
        if let Some(request) = request {
            self.asked.remove(&request);
        }
    }

    pub(super) fn say(&mut self, to: NodeId, message: Message) {
        self.outputs.push(Output::Say { to: vec![to], message });
    }

    /// Some members are no longer neighbours; others are from now on, perhaps the same ones again.
    pub(super) fn dials(&mut self, add: Vec<PeerInfo>, gone: &[NodeId], now: Moment) {
        let named: Vec<NodeId> = add.iter().map(|info| info.node).collect();
        self.named(&named, gone, now);
        self.outputs.push(Output::Dial(add));
    }

    /// True if `node` was the last agent that led, and none has led since.
    pub fn was_lead(&self, node: NodeId) -> bool {
        self.leader() == Leader::Nobody && self.leadership.last_followed() == Some(node)
    }

    /// A request is refused. Returns true if that shows that the lead knows nothing of this agent's part in the swarm.
    fn is_refused(&mut self, request: RequestId, by: NodeId, wanted: Wanted, reason: Refusal, now: Moment) -> bool {
        let was_open = self.asked.remove(&request).is_some();
        if let (Wanted::Piece(piece), Refusal::UnknownBlob | Refusal::NotHeld) = (wanted, reason) {
            self.refused(request, by, piece, now);
            return false;
        }
        self.picker.handle(Event::Failed { request }, now);
        was_open && matches!((wanted, reason), (Wanted::Any, Refusal::UnknownBlob | Refusal::Refused))
    }

    fn moved(&mut self, request: RequestId, bytes: u32, now: Moment) {
        let Some(asked) = self.asked.get_mut(&request).filter(|asked| asked.arrived < bytes) else { return };
        let more = bytes - std::mem::replace(&mut asked.arrived, bytes);
        let of = asked.of;
        self.vigil.progressed(more.into(), now);
        if let Some(books) = &mut self.books {
            books.lead_mut().gave(of, false, now);
        }
        self.picker.handle(Event::Progress { request, bytes: bytes.into() }, now);
    }
}
