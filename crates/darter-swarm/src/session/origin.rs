//! The pieces that this agent reads from the origin while it leads, and its readers ([`OriginReader`]).
//!
//! A reader is *at work* from the moment in which it is told to read something ([`Output::Read`]) until its driver says that it has ended
//! ([`Input::ReadEnded`](super::Input::ReadEnded)); however it ended, the session then says what is to be read next. The [`Lead`](crate::Lead) plans
//! the pieces and the number of connections; this module decides when a reader is told to read some of them.
//!
//! [`Session::poll_origin`] is polled apart from all else: a lead reads on with each piece that comes, also when it has nothing to say.
//! [`Session::reads_on`] is a question with an answer and no outputs: a reader that comes to a piece has the next bytes in hand, and either
//! takes or drops them.
//!
//! An origin that can only be read from its first byte on makes everybody wait for the pieces in front: a lead that finds this out tells its members, and they tell theirs
//! ([`Message::InOrder`]).
//!
//! Invariants: only a lead reads, and only while something is lacking or to be compared; no reader is told to read while it is at
//! work; an origin that does not give single parts is read by the reader of everything alone.

use std::collections::BTreeSet;
use std::time::Duration;

use darter_core::{BlobId, Moment, NodeId, PieceIndex};
use darter_protocol::Message;

use super::{Output, Session};
use crate::lead::OriginRun;
use crate::{Books, Facts, Lead, Leader, OriginReader};

/// Which parts of the blob an origin gives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Access {
    /// Any part.
    #[default]
    Parts,
    /// It is read from its first byte on: it serves no ranges, or nothing tells its versions apart.
    InOrder,
}

/// The origin, as far as this agent knows it, and the readers that are at work.
#[derive(Debug, Default)]
pub(super) struct Origin {
    access: Access,
    /// Why this agent, when it leads, can only read it from its first byte on, if it found that out by reading.
    in_order: Option<String>,
    /// The same of the lead that is followed, as the lead says.
    lead_in_order: Option<String>,
    /// True if it refuses the credentials of every caller: it gives nothing but answers that are open already.
    is_shut_out: bool,
    at_work: BTreeSet<OriginReader>,
}

impl Origin {
    /// Nothing is known of the new lead, if there is one.
    pub(super) fn lead_changed(&mut self) {
        self.lead_in_order = None;
    }
}

/// A reader with an open answer comes to a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AtPiece {
    /// The reader.
    pub reader: OriginReader,
    /// The piece that comes next.
    pub piece: PieceIndex,
    /// True if all of the answer is read, and the pieces of it that are here are compared.
    pub through: bool,
    /// True if the answer goes on to the blob's end.
    pub to_the_end: bool,
}

/// Whether a reader goes on with its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadsOn {
    /// It ends here.
    Ends,
    /// It goes on, as the plan says.
    Planned,
    /// It goes on to the end of its answer, whichever pieces are here or at other agents.
    Through,
}

/// Bytes that came from the origin.
#[derive(Clone, Copy, Debug)]
pub struct Gave {
    /// The reader to which they came, or the one that tries.
    pub reader: OriginReader,
    /// How many bytes.
    pub bytes: u64,
    /// How long the reader waited for them.
    pub waited: Duration,
    /// True if this agent's own limit delayed them.
    pub is_held_up: bool,
    /// True if, since this was last said, another blob has ended that took a part of the link to the origin.
    pub others_gave_back: bool,
}

impl Session {
    /// True while this agent is to read by `reader`, though there may be nothing to read at the moment.
    pub fn reads(&self, reader: OriginReader) -> bool {
        let lacks = !self.picker.is_complete();
        let gives_parts = self.origin.access == Access::Parts;
        self.may_read()
            && match reader {
                OriginReader::Everything => lacks || self.compares,
                OriginReader::Errands => lacks && gives_parts && self.lead().is_some_and(has_wishes),
                OriginReader::Beside(_) => lacks && gives_parts && !self.compares,
            }
    }

    /// True if a reader is at work.
    pub fn is_at_work(&self, reader: OriginReader) -> bool {
        self.origin.at_work.contains(&reader)
    }

    /// True if connections besides the first one are at work.
    pub fn is_read_beside(&self) -> bool {
        self.origin.at_work.iter().any(|reader| matches!(reader, OriginReader::Beside(_)))
    }

    /// True if any reader is at work.
    pub(super) fn is_reading(&self) -> bool {
        self.may_read() && !self.origin.at_work.is_empty()
    }

    /// How many connections read the origin now, without those that only try.
    pub fn origin_readers(&self) -> usize {
        self.lead().map_or(0, Lead::readers)
    }

    /// True if pieces for which a reader waits can be read before those in front of them, by this agent as the lead, or as far as the lead has
    /// said.
    pub fn gives_parts(&self) -> bool {
        match self.leader() {
            Leader::Me => self.origin.access == Access::Parts,
            Leader::Node(_) => self.origin.lead_in_order.is_none(),
            Leader::Nobody => true,
        }
    }

    /// What members are told of an origin that can only be read from its first byte on, while pieces are lacking.
    pub(super) fn tells_order(&self, blob: BlobId) -> Option<Message> {
        let reason = match self.leader() {
            Leader::Me => self.origin.in_order.clone(),
            Leader::Node(_) => self.origin.lead_in_order.clone(),
            Leader::Nobody => None,
        };
        reason.filter(|_| !self.picker.is_complete()).map(|reason| Message::InOrder { blob, reason })
    }

    /// The lead says that it can only read the origin from its first byte on. Returns true if this is new.
    pub(super) fn lead_reads_in_order(&mut self, lead: NodeId, reason: String, blob: BlobId) -> bool {
        if self.origin.lead_in_order.is_some() {
            return false;
        }
        self.origin.lead_in_order = Some(reason.clone());
        self.outputs.push(Output::LeadReadsInOrder { lead, reason });
        self.tell_order(blob);
        true
    }

    fn tell_order(&mut self, blob: BlobId) {
        let to = self.member_nodes();
        if let Some(message) = self.tells_order(blob).filter(|_| !to.is_empty()) {
            self.outputs.push(Output::Say { to, message });
        }
    }

    fn may_read(&self) -> bool {
        self.leader() == Leader::Me && self.course.is_open() && self.books.is_some()
    }

    fn lead(&self) -> Option<&Lead> {
        self.books.as_deref().map(Books::lead)
    }

    fn lead_mut(&mut self) -> Option<&mut Lead> {
        self.books.as_deref_mut().map(Books::lead_mut)
    }

    /// Puts out what the readers are to read now.
    pub(super) fn read_next(&mut self, facts: &dyn Facts, now: Moment, outputs: &mut Vec<Output>) {
        if !self.may_read() {
            return;
        }
        if self.lead().is_some_and(|lead| lead.connections() > 1) && facts.is_read_alone() {
            // Otherwise the reader of everything would ask for a stretch at a time, as if there were other readers.
            self.lead_mut().into_iter().for_each(|lead| lead.origin_refused(now));
        }
        if let Some(number) = self.may_try(facts)
            && let Some(run) = self.lead_mut().and_then(|lead| lead.origin_trial(number, &facts.known(), now))
        {
            let reader = OriginReader::Beside(number);
            self.origin.at_work.insert(reader);
            outputs.push(Output::Read { reader, run });
        }
        let connections = self.lead().map_or(1, Lead::connections);
        let beside = (0..connections - 1).map(OriginReader::Beside);
        for reader in [OriginReader::Everything, OriginReader::Errands].into_iter().chain(beside) {
            if let Some(run) = self.next_run(reader, facts, now) {
                self.origin.at_work.insert(reader);
                outputs.push(Output::Read { reader, run });
            }
        }
    }

    /// The run that a reader is to begin now.
    fn next_run(&mut self, reader: OriginReader, facts: &dyn Facts, now: Moment) -> Option<OriginRun> {
        if self.is_at_work(reader) || !self.reads(reader) {
            return None;
        }
        if let OriginReader::Beside(number) = reader
            && !facts.may_read_beside(number)
        {
            return None;
        }
        let first = self.picker.held().first_missing_from(PieceIndex(0));
        // All pieces here behind the first gap are to be compared.
        let all = OriginRun { first, end: None };
        let all = (reader == OriginReader::Everything && self.compares).then_some(all);
        let lead = self.lead_mut()?;
        let run = all.or_else(|| lead.origin_plan(reader, &facts.known(), now))?;
        lead.begins(reader, run);
        Some(run)
    }

    /// The number of the connection that may try now whether it gets more. The one that tried before may still read its stretch.
    fn may_try(&self, facts: &dyn Facts) -> Option<u8> {
        let is_due = self.lead().is_some_and(Lead::is_origin_trial_due);
        let number = (0..2).find(|number| !self.is_at_work(OriginReader::Beside(*number)))?;
        let may = is_due && self.reads(OriginReader::Beside(number));
        (may && !facts.is_read_alone() && facts.may_read_beside(number)).then_some(number)
    }

    /// The answer to a reader that comes to a piece.
    pub(super) fn comes_to(&mut self, at: AtPiece, facts: &dyn Facts, now: Moment) -> ReadsOn {
        let AtPiece { reader, piece, through, to_the_end } = at;
        if !self.may_read() {
            return ReadsOn::Ends;
        }
        let is_needed = !self.picker.is_complete() || self.compares;
        let is_compared = self.compares && reader == OriginReader::Everything;
        let through_all = through || is_compared || to_the_end && self.origin.is_shut_out;
        let Some(lead) = self.lead_mut() else { return ReadsOn::Ends };
        if !through && lead.goes_on(reader, piece, &facts.known(), now) {
            return ReadsOn::Planned;
        }
        if !through_all || !is_needed {
            return ReadsOn::Ends;
        }
        lead.reads(reader, Some(piece.0..piece.0 + 1));
        ReadsOn::Through
    }

    /// A reader has ended, or could not begin. Returns true if it was at work.
    pub(super) fn read_ended(&mut self, reader: OriginReader) -> bool {
        let was_at_work = self.origin.at_work.remove(&reader);
        if let Some(lead) = self.lead_mut() {
            lead.reads(reader, None);
        }
        was_at_work
    }

    /// Bytes came from the origin. Returns true if the number of connections changes because of this.
    pub(super) fn gave(&mut self, gave: Gave, facts: &dyn Facts, now: Moment) -> bool {
        let Gave { reader, bytes, waited, is_held_up, others_gave_back } = gave;
        let Some(lead) = self.lead_mut() else { return false };
        if is_held_up {
            lead.origin_held_up();
        }
        if others_gave_back {
            lead.origin_given_back(now);
        }
        let widening = lead.origin_came(reader, bytes, waited, now);
        self.outputs.extend(widening.map(Output::Widened));
        widening.is_some() || self.may_try(facts).is_some()
    }

    /// Lets fewer connections read from now on; puts out that, if fewer do.
    pub(super) fn narrows(&mut self, why: String, narrow: impl FnOnce(&mut Lead)) -> bool {
        let Some(lead) = self.lead_mut() else { return false };
        let before = lead.connections() + u8::from(lead.is_origin_tried());
        narrow(lead);
        let after = lead.connections();
        if after < before {
            self.outputs.push(Output::Narrowed { before, after, why });
        }
        true
    }

    /// All of the origin is to be read, and, if there is a reason for `in_order`, from its first byte on and by one reader.
    pub(super) fn reads_all(&mut self, in_order: Option<String>, blob: BlobId, now: Moment) {
        let is_in_order = in_order.is_some();
        if is_in_order {
            self.gives_no_parts();
        }
        if let Some(lead) = self.lead_mut() {
            lead.read_everything();
            if is_in_order {
                lead.origin_refused(now);
            }
        }
        if is_in_order && self.origin.in_order.is_none() {
            self.origin.in_order = in_order;
            self.tell_order(blob);
        }
    }

    /// The origin can only be read from its first byte on.
    pub(super) const fn gives_no_parts(&mut self) {
        self.origin.access = Access::InOrder;
    }

    /// The origin no longer accepts any caller's credentials.
    pub(super) const fn is_shut_out(&mut self) {
        self.origin.is_shut_out = true;
    }
}

fn has_wishes(lead: &Lead) -> bool {
    lead.wishes().next().is_some()
}
