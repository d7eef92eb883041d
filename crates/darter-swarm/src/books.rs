//! A lead's books on one swarm: its members, the nodes that are about to become members, and what each is told, in which order.
//!
//! Members are told of new hashes, of the length and of the verdict in the order in which these came to be known. A newcomer is admitted by
//! one message that holds all that the others were told before, and the neighbours to connect to. The lead asks [`Books::speak`] for the
//! messages to send after every change, and at the moment that [`Books::due`] names.
//!
//! Invariants: a newcomer is told nothing before the answer that admits it, and afterwards everything that comes to be known; messages
//! for all members go out before those for single ones.
//!
//! Non-goals: which piece goes to which member ([`Lead`]); whether a node may be admitted at all ([`Leadership::may_admit`](crate::Leadership)).

use std::collections::BTreeSet;
use std::time::Duration;

use darter_core::{HashChain, Moment, NodeId, PieceSet, Place, Proof, Signer};
use darter_protocol::{Message, PeerInfo, Verdict};

use crate::runs::{Teller, ToldRuns};
use crate::{Facts, Lead, MAX_HASHES, NewNeighbour, Notice, Start, Teaching, Telling, Tuning, Wish};

/// How soon a lead looks again for a piece to give to a member after there was none for it: half the shortest pause between two copies
/// of a piece.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Books {
    lead: Lead,
    /// Signs hashes.
    signer: Signer,
    teaching: Teaching,
    /// True once every member has been told the length, and the verdict.
    told_length: bool,
    told_verdict: bool,
    /// The hashes behind gaps that members were told.
    told_runs: ToldRuns,
    entering: Vec<Entering>,
    /// The members that were admitted and have not
    /// left.
    inside: BTreeSet<NodeId>,
    members: usize,
    /// The moment that was last named, at which there may be more to give only because time has passed.
    wakes: Option<Moment>,
    /// When to look again for pieces to give to members for which there was none.
    looks_again: Option<Moment>,
}

/// A node that waits to be admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entering {
    /// The node.
    pub node: NodeId,
    /// The number of its request, which the answer repeats.
    pub request: u32,
    /// All bytes of the blob, if they are few and here. The bytes are told together with the verdict.
    pub whole: Option<Vec<u8>>,
}

/// The state of a blob when its agent begins to lead.
#[derive(Debug)]
pub(crate) struct Opening<'a> {
    /// The agent that leads.
    pub me: NodeId,
    /// Its place: rack, zone and region.
    pub place: Place,
    /// How the agent came to lead.
    pub start: Start,
    /// The pieces that the lead's store has.
    pub held: &'a PieceSet,
    /// True if everything is to be read, false for only what readers wait for.
    pub everything: bool,
    /// The pieces that the lead's own readers wait for.
    pub wishes: &'a [Wish],
    /// Agents that sent it wrong pieces.
    pub dropped: Vec<NodeId>,
    /// True if the lead knows the root and digest that the whole must have.
    pub has_verdict: bool,
    /// Chooses among what is equal.
    pub seed: u64,
    /// Signs hashes.
    pub signer: Signer,
    /// Constants.
    pub tuning: Tuning,
}

/// Messages that a lead has to send.
#[derive(Debug, Default)]
pub(crate) struct Speech {
    /// Messages with their receivers, in this order.
    pub messages: Vec<(NodeId, Message)>,
    /// A change of this agent's own neighbours.
    pub own: Option<Notice>,
}

impl Books {
    /// Begins the books of an agent that leads from now on.
    pub(crate) fn open(opening: Opening<'_>, facts: &dyn Facts, now: Moment) -> Self {
        let Opening { me, place, start, held, everything, wishes, dropped, has_verdict, seed, signer, tuning } =
            opening;
        let mut lead = Lead::new(me, place.clone(), start, tuning, seed, now);
        let total = facts.pieces();
        if let Some(total) = total {
            lead.set_total(total);
        }
        held.iter().for_each(|piece| lead.own(piece));
        if !everything {
            lead.read_on_errands_only();
        }
        if facts.is_headed_last() {
            lead.read_head_last();
        }
        lead.wish(me, wishes, now);
        lead.join(me, place, held, true);
        for suspect in dropped {
            lead.report(me, suspect);
        }
        Self {
            lead,
            signer,
            teaching: Teaching::new(facts.prefix(), tuning, now),
            told_length: total.is_some(),
            told_verdict: has_verdict,
            told_runs: ToldRuns::default(),
            entering: Vec::new(),
            inside: BTreeSet::new(),
            members: 0,
            wakes: None,
            looks_again: None,
        }
    }

    /// The lead that decides what is sent and read.
    pub(crate) const fn lead(&self) -> &Lead {
        &self.lead
    }

    /// The same, for changes.
    pub(crate) const fn lead_mut(&mut self) -> &mut Lead {
        &mut self.lead
    }

    /// The number of members, this agent included; zero before the first one came.
    pub(crate) const fn member_count(&self) -> usize {
        self.members
    }

    /// True if a node was admitted, or is about to be, and has not left.
    pub(crate) fn has(&self, node: NodeId) -> bool {
        self.inside.contains(&node)
    }

    /// True if members have to ask each other for hashes.
    pub(crate) const fn members_ask(&self) -> bool {
        self.teaching.members_ask()
    }

    /// The members besides this agent: those that were admitted, those that are about to be, and those that were only counted in.
    pub(crate) fn others(&self) -> Vec<NodeId> {
        others(&self.lead, &self.inside, &self.entering)
    }

    /// Admits a node at `place` that holds the pieces `held`, and `wants` the others or not. [`Books::speak`] gives the answer to it.
    pub(crate) fn admit(&mut self, entering: Entering, place: Place, held: &PieceSet, wants: bool) {
        self.inside.insert(entering.node);
        self.lead.let_in(entering.node, place, held, wants);
        self.entering.push(entering);
        self.members = self.lead.member_count();
    }

    /// Counts a node as a member that holds the pieces `held` and asks for none; the node need not know of this.
    pub(crate) fn count_in(&mut self, node: NodeId, place: Place, held: &PieceSet) {
        self.lead.join(node, place, held, false);
        self.members = self.lead.member_count();
    }

    /// A node left or was lost.
    pub(crate) fn left(&mut self, node: NodeId) {
        self.lead.leave(node);
        self.inside.remove(&node);
        self.members = self.lead.member_count();
    }

    /// Takes the nodes that wait to be admitted: none of them is admitted any more.
    pub(crate) fn take_entering(&mut self) -> Vec<Entering> {
        std::mem::take(&mut self.entering)
    }

    /// The members other than this agent, and how many pieces each holds.
    pub(crate) fn holdings(&self) -> impl Iterator<Item = (NodeId, u32)> + '_ {
        let me = self.lead.node();
        let members = self.lead.members().into_iter().filter(move |node| *node != me);
        members.filter_map(|node| Some((node, self.lead.held_by(node)?)))
    }

    /// There was no piece to give to a member; a copy may be worth sending after a while although nothing happens until then. Returns true
    /// for the first such member since [`Books::may_give_more`] last returned true.
    pub(crate) fn gave_nothing(&mut self, now: Moment) -> bool {
        let is_first = self.looks_again.is_none();
        self.looks_again.get_or_insert(now + LOOK_AGAIN);
        is_first
    }

    /// True if there may be more to give only because time has passed; true once.
    pub(crate) fn may_give_more(&mut self, now: Moment) -> bool {
        let looks = self.looks_again.take_if(|at| *at <= now).is_some();
        let due = std::mem::replace(&mut self.wakes, self.lead.next_wakeup(now));
        looks || due.is_some_and(|due| due <= now)
    }

    /// When there is a message to send, or may be more to give, although nothing happens.
    pub(crate) fn next_wakeup(&self, now: Moment) -> Option<Moment> {
        self.lead.next_wakeup(now).into_iter().chain(self.looks_again).chain(self.due()).min()
    }

    /// When there is a message to send although nothing happens.
    pub(crate) fn due(&self) -> Option<Moment> {
        self.lead.notices_due().into_iter().chain(self.teaching.due()).min()
    }

    /// The messages to send now: news to members, then the answers to those that are admitted. `chain` is the chain over
    /// the hashes known in order from the first.
    pub(crate) fn speak(
        &mut self,
        facts: &dyn Facts,
        chain: &HashChain,
        verdict: Option<&Verdict>,
        now: Moment,
    ) -> Speech {
        let mut messages = Vec::new();
        for message in self.news(facts, chain, verdict, now) {
            messages.extend(self.others().into_iter().map(|node| (node, message.clone())));
        }
        messages.extend(self.tell_runs(facts, chain.count()));
        let own = self.lead.take_notice(self.lead.node());
        let mut answers = Vec::new();
        for entering in self.take_entering() {
            let node = entering.node;
            let answer = self.let_in(facts, chain, verdict, entering, now);
            answers.extend(answer.into_iter().map(|message| (node, message)));
        }
        // Nodes that are being admitted are told of their neighbours in the answer.
        for Notice { to, lost, gained } in self.lead.take_notices(now) {
            let add = gained.into_iter().map(|peer| info(facts, peer)).collect();
            messages.push((to, Message::Neighbours { blob: facts.blob(), add, gone: lost }));
        }
        messages.extend(answers);
        Speech { messages, own }
    }

    /// News for all members.
    fn news(&mut self, facts: &dyn Facts, chain: &HashChain, verdict: Option<&Verdict>, now: Moment) -> Vec<Message> {
        let mut messages = Vec::new();
        let length = facts.length();
        let learns_length = length.is_some() && !self.told_length;
        let nothing = Telling { from: 0, count: 0, signed: false };
        let are_all = facts.pieces() == Some(chain.count());
        let telling = self.teaching.tell(chain.count(), are_all, self.members, now);
        let telling = telling.or(learns_length.then_some(nothing));
        if let Some(telling) = telling {
            self.told_length = length.is_some();
            messages.extend(growth(facts, telling, self.word(chain, telling)));
        }
        if let Some(verdict) = verdict.filter(|_| !self.told_verdict) {
            messages.push(Message::Whole { blob: facts.blob(), verdict: verdict.clone() });
            self.told_verdict = true;
        }
        messages
    }

    /// The answer to a node that is admitted, and further messages with the hashes that do not fit into it.
    fn let_in(
        &mut self,
        facts: &dyn Facts,
        chain: &HashChain,
        verdict: Option<&Verdict>,
        Entering { node, request, whole }: Entering,
        now: Moment,
    ) -> Vec<Message> {
        let telling = self.teaching.greet(self.members, now);
        let first = telling.count.min(MAX_HASHES);
        let (lost, gained) = self.lead.take_notice(node).map_or_else(Default::default, |it| (it.lost, it.gained));
        // A peer in both lists is a neighbour anew: the node must not forget it.
        let lost: Vec<_> = lost.into_iter().filter(|peer| gained.iter().all(|it| it.node != *peer)).collect();
        let neighbours = gained.into_iter().map(|peer| info(facts, peer)).collect();
        let joined = Message::Joined {
            request,
            blob: facts.blob(),
            version: facts.version(),
            piece_length: facts.piece_length(),
            length: facts.length(),
            hashes: facts.hashes_from(0, first as usize),
            key: self.signer.key(),
            members_ask: self.teaching.members_ask(),
            proof: (telling.signed && telling.count == first).then(|| self.signer.prove(chain)),
            neighbours,
            verdict: verdict.cloned(),
            whole: verdict.and(whole),
        };
        let rest = Telling { from: first, count: telling.count - first, ..telling };
        let mut messages = Vec::new();
        if !lost.is_empty() {
            // The node was a member before: it first forgets the neighbours that it had then.
            messages.push(Message::Neighbours { blob: facts.blob(), add: Vec::new(), gone: lost });
        }
        messages.push(joined);
        if rest.count > 0 {
            messages.extend(growth(facts, rest, self.word(chain, rest)));
        }
        if !self.teaching.members_ask() {
            messages.extend(self.teller(facts).runs_from(chain.count()));
        }
        messages
    }

    /// The answer to a member that asks for hashes from the one of piece `from` on. The last message ends the answer.
    pub(crate) fn answer(&mut self, from: u32, facts: &dyn Facts, chain: &HashChain) -> Vec<Message> {
        let telling = Teaching::answer(chain.count(), from);
        let word = self.word(chain, telling);
        let mut answer = self.teller(facts).runs_from(chain.count());
        answer.extend(growth(facts, telling, word).pop());
        answer
    }

    fn tell_runs(&mut self, facts: &dyn Facts, prefix: u32) -> Vec<(NodeId, Message)> {
        let signs = self.teaching.members_ask();
        let (lead, inside, entering) = (&self.lead, &self.inside, &self.entering);
        let others = || others(lead, inside, entering);
        let wishes = || lead.wishes_by_node().filter(|(node, _)| *node != lead.node()).collect();
        let teller = Teller { facts, signer: signs.then_some(&mut self.signer) };
        self.told_runs.tell(teller, prefix, others, wishes)
    }

    fn teller<'a>(&'a mut self, facts: &'a dyn Facts) -> Teller<'a> {
        let signs = self.teaching.members_ask();
        Teller { facts, signer: signs.then_some(&mut self.signer) }
    }

    /// The fields that accompany hashes: whether members ask each other, and the lead's proof for the hashes.
    fn word(&mut self, chain: &HashChain, telling: Telling) -> (bool, Option<Proof>) {
        (self.teaching.members_ask(), telling.signed.then(|| self.signer.prove(chain)))
    }
}

fn others(lead: &Lead, inside: &BTreeSet<NodeId>, entering: &[Entering]) -> Vec<NodeId> {
    let is_entering = |node: &NodeId| entering.iter().any(|entering| entering.node == *node);
    lead.members().into_iter().filter(|node| inside.contains(node) && !is_entering(node)).collect()
}

/// News of hashes and length, in messages that stay below the protocol's limit.
fn growth(facts: &dyn Facts, telling: Telling, (members_ask, proof): (bool, Option<Proof>)) -> Vec<Message> {
    let (blob, length) = (facts.blob(), facts.length());
    // One message even without hashes: it may be there only for the length.
    let messages = telling.count.div_ceil(MAX_HASHES).max(1);
    let message = |nth| {
        let from = telling.from + nth * MAX_HASHES;
        let rest = telling.from + telling.count - from;
        let hashes = facts.hashes_from(from, rest.min(MAX_HASHES) as usize);
        let proof = proof.filter(|_| nth + 1 == messages);
        Message::Grew { blob, from, hashes, length, members_ask, proof }
    };
    (0..messages).map(message).collect()
}

/// The introduction of a neighbour to a member.
fn info(facts: &dyn Facts, peer: NewNeighbour) -> PeerInfo {
    PeerInfo { node: peer.node, addr: facts.address(peer.node), place: peer.place }
}

#[cfg(test)]
mod tests;
