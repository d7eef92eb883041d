//! Which agent leads a swarm, as one of its agents sees it, and how that agent finds another lead when the one that it followed is gone.
//!
//! Every agent decides for itself, by what it knows. A seed that is up leads. Without one, of this agent and the members that it has met, the
//! one that rendezvous hashing ranks first leads: all that see the same members choose the same lead. In a large swarm a member knows few
//! others: there every member asks around first ([`asking`](crate::asking)), and in a small one the member that ranks first among those it knows
//! does so before it leads. An agent follows an agent that leads already, else one that holds all of the blob, else the member found that ranks
//! first. If views differ nevertheless, the cost is another copy read from the origin, never the blob.
//!
//! An agent may be asked to lead while it follows another, or looks for a lead itself. It admits the asking agent and passes on what it
//! receives, so that followers form a tree; the agent at its root leads and reads the origin.
//!
//! Invariants: one candidate is asked at a time; a candidate that failed is not asked again before it comes back; among members an agent
//! follows only those that rank before it, so that, except by the results of a survey, no agent follows itself by way of others; two agents never
//! follow each other.
//!
//! Non-goals: what a lead does (`Lead`); connections, messages and timeouts, which are the caller's.

use std::collections::BTreeSet;
use std::time::Duration;

use darter_core::{BlobId, NodeId, rendezvous};

use self::trace::{Decided, TraceInput};

pub mod trace;

/// How long a candidate may take to answer before the next one is asked, in a swarm that already exists.
pub const JOIN_TIMEOUT: Duration = Duration::from_secs(3);

/// How many times leads may forget this agent's part in the swarm before one that does so counts as failed.
const MAX_FORGOTTEN: u32 = 5;

/// Half the pause before a lead is asked again after leads have forgotten this agent twice.
const JOIN_PAUSE: Duration = Duration::from_millis(50);

/// The pause is doubled each time that a lead forgot this agent, but no more than this many times.
const MAX_DOUBLINGS: u32 = 6;

/// How many members that a survey finds are asked to lead before this agent does: each may take [`JOIN_TIMEOUT`].
const MAX_MEMBERS_FOUND: usize = 3;

/// The number of nodes that led and gave nothing after which this agent follows no other: it leads by itself, unless there is a
/// seed.
const MAX_MUTE_LEADS: u32 = 2;

/// A member that knows this many others may be in a swarm in which nobody knows everybody.
const MIN_MET_IN_LARGE: usize = 10;

/// The lead of a swarm, as an agent sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leader {
    /// This agent.
    Me,
    /// Another agent.
    Node(NodeId),
    /// No agent for the moment; one is being looked for.
    Nobody,
}

/// How a lead was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// It is gone, gave up, or does what no lead may do.
    Failed,
    /// It let this agent in and gave nothing ([`Vigil`](crate::Vigil)).
    Mute,
    /// Nothing came for the time after which a blob counts as stalled, and the lead did not say that it waits: an honest one may have been cut off.
    /// (An honest lead says when it waits for its origin.)
    Stalled,
    /// It is up, but knows nothing of this agent's part in the swarm, for example since the blob was removed there. It may be asked again.
    Forgot,
}

/// The next step in finding a lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing: some agent leads, or none is looked for.
    End,
    /// Wait for this time, and check whether anybody still wants the blob. Then ask for the next step.
    Rest(Duration),
    /// Ask this agent to lead, and follow it; or call [`Leadership::refused`]. Then ask for the next step.
    Ask(NodeId),
    /// Make a survey of which agents lead, hold or have a part of the blob, without those of [`Leadership::failed`], and call [`Leadership::found`].
    /// Then ask for the next step.
    Survey,
    /// No other agent can lead: lead.
    Lead,
}

/// The agents that a survey found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Agents that lead the swarm.
    pub leads: Vec<NodeId>,
    /// Agents that hold all of the blob.
    pub holders: Vec<NodeId>,
    /// Agents that hold a part of it, or follow a lead.
    pub members: Vec<NodeId>,
}

/// See the module's text.
#[derive(Debug)]
pub struct Leadership {
    me: NodeId,
    source: BlobId,
    blob: BlobId,
    may_follow: bool,
    leader: Leader,
    /// The last other agent that this one followed.
    followed: Option<NodeId>,
    failed: BTreeSet<NodeId>,
    /// How many times a lead forgot this agent since a piece last came.
    forgotten: u32,
    /// How many leads gave nothing.
    mute: u32,
    search: Option<Search>,
    recorded: Option<Vec<(TraceInput, Decided)>>,
}

/// A search for a lead.
#[derive(Debug, Default)]
struct Search {
    has_rested: bool,
    /// The survey's candidates; `None` before the survey.
    found: Option<Candidates>,
}

/// The agents that a survey found and that are to be asked, in order.
#[derive(Debug)]
struct Candidates {
    /// Agents that lead, then agents that hold all.
    sure: Vec<NodeId>,
    /// Members that rank before this agent.
    members: Vec<NodeId>,
}

impl Leadership {
    /// For an agent that follows nobody yet. Seeds are ranked for `source`, members for `blob`. An agent that may not follow others leads
    /// whenever no other does.
    pub const fn new(me: NodeId, source: BlobId, blob: BlobId, may_follow: bool) -> Self {
        let failed = BTreeSet::new();
        let leader = Leader::Nobody;
        Self {
            me,
            source,
            blob,
            may_follow,
            leader,
            followed: None,
            failed,
            forgotten: 0,
            mute: 0,
            search: None,
            recorded: None,
        }
    }

    /// The present lead.
    pub const fn leader(&self) -> Leader {
        self.leader
    }

    /// The agent that is followed, if one is.
    pub const fn following(&self) -> Option<NodeId> {
        if let Leader::Node(lead) = self.leader { Some(lead) } else { None }
    }

    /// The last other agent that this one followed.
    pub const fn last_followed(&self) -> Option<NodeId> {
        self.followed
    }

    /// From now on `leader` leads.
    pub fn set(&mut self, leader: Leader) {
        self.leader = leader;
        self.followed = self.following().or(self.followed);
        self.keep(|| TraceInput::Leads(leader), Decided::Nothing);
    }

    /// `lead` is lost. Returns false if it was not followed.
    pub fn lost(&mut self, lead: NodeId, loss: Loss) -> bool {
        let is_lost = self.lose(lead, loss);
        self.keep(|| TraceInput::Lost(lead, loss), Decided::Whether(is_lost));
        is_lost
    }

    fn lose(&mut self, lead: NodeId, loss: Loss) -> bool {
        if self.leader != Leader::Node(lead) {
            return false;
        }
        self.leader = Leader::Nobody;
        self.forgotten += u32::from(loss == Loss::Forgot);
        self.mute += u32::from(matches!(loss, Loss::Mute | Loss::Stalled));
        if loss != Loss::Forgot || self.forgotten >= MAX_FORGOTTEN {
            self.failed.insert(lead);
        }
        // Answers to a search that is under way are older than this loss.
        if let Some(search) = &mut self.search {
            *search = Search::default();
        }
        true
    }

    /// A piece came, so the lead knows this agent.
    pub fn piece_came(&mut self) {
        if self.forgotten > 0 {
            self.forgotten = 0;
            self.keep(|| TraceInput::PieceCame, Decided::Nothing);
        }
    }

    /// True if `node`, which asks to be admitted, may be: two agents that follow each other would wait for each other.
    pub fn may_admit(&self, node: NodeId) -> bool {
        self.leader != Leader::Node(node)
    }

    /// True if this agent goes on to lead `other`, although each has just admitted the other because both asked at the same time: the
    /// one with the lower id leads.
    pub fn stays_lead_of(&self, other: NodeId) -> bool {
        !matches!(self.leader, Leader::Node(_)) && self.me < other
    }

    /// A seed is connected, perhaps again. Returns true if the seed is to be asked to lead; `is_seed` says of the present lead whether it
    /// is one.
    pub fn seed_came(&mut self, seed: NodeId, is_seed: impl FnOnce(NodeId) -> bool) -> bool {
        self.failed.remove(&seed);
        let follows_seed = self.following().is_some_and(is_seed);
        let may_lead = match self.leader {
            Leader::Node(_) => !follows_seed,
            Leader::Me => self.may_follow,
            Leader::Nobody => true,
        };
        self.keep(|| TraceInput::SeedCame(seed, follows_seed), Decided::Whether(may_lead));
        may_lead
    }

    /// `node` is not asked to lead any more: it refused, did not answer, or sent wrong pieces.
    pub fn refused(&mut self, node: NodeId) {
        self.failed.insert(node);
        self.keep(|| TraceInput::Refused(node), Decided::Nothing);
    }

    /// `node` was asked to lead and did not answer in time. Another agent may lead by now, so this one makes another survey before it leads itself.
    pub fn silent(&mut self, node: NodeId) {
        self.failed.insert(node);
        if let Some(search) = &mut self.search {
            search.found = None;
        }
        self.keep(|| TraceInput::Silent(node), Decided::Nothing);
    }

    /// Agents that this one does not ask to lead, and so need not include in a survey.
    pub fn failed(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.failed.iter().copied()
    }

    /// Begins to look for a lead. Returns false if a search is under way.
    pub fn begin_search(&mut self) -> bool {
        let begins = self.search.is_none();
        self.search.get_or_insert_default();
        self.keep(|| TraceInput::BeginSearch, Decided::Whether(begins));
        begins
    }

    /// No lead is looked for any more.
    pub fn end_search(&mut self) {
        self.search = None;
        self.keep(|| TraceInput::EndSearch, Decided::Nothing);
    }

    /// True while a lead is looked for.
    pub const fn is_searching(&self) -> bool {
        self.search.is_some()
    }

    /// The next step, with these seeds connected, and these members met and connected. Ends the search when an agent leads.
    pub fn next(&mut self, seeds: &[NodeId], members: &[NodeId]) -> Step {
        let step = self.step(seeds, members);
        self.keep(|| TraceInput::Next(seeds.to_vec(), members.to_vec()), Decided::Do(step));
        step
    }

    fn step(&mut self, seeds: &[NodeId], members: &[NodeId]) -> Step {
        if self.leader != Leader::Nobody {
            self.search = None;
        }
        let pause = self.pause();
        let Some(search) = &mut self.search else { return Step::End };
        if !std::mem::replace(&mut search.has_rested, true)
            && let Some(pause) = pause
        {
            return Step::Rest(pause);
        }
        if !self.may_follow {
            return Step::Lead;
        }
        let able = |node: &&NodeId| !self.failed.contains(*node);
        if let Some(seed) = rendezvous::owner(&self.source.0, seeds.iter().filter(able)) {
            return Step::Ask(seed);
        }
        if self.mute >= MAX_MUTE_LEADS {
            return Step::Lead;
        }
        let found = match &search.found {
            None if members.len() >= MIN_MET_IN_LARGE => return Step::Survey,
            found => found.as_ref(),
        };
        if let Some(sure) = found.and_then(|found| found.sure.iter().find(able)) {
            return Step::Ask(*sure);
        }
        let others = members.iter().chain(found.into_iter().flat_map(|found| &found.members));
        match rendezvous::owner(&self.blob.0, others.filter(able).chain([&self.me])) {
            Some(first) if first != self.me => Step::Ask(first),
            _ if found.is_none() => Step::Survey,
            _ => Step::Lead,
        }
    }

    /// The answer to [`Step::Survey`].
    pub fn found(&mut self, found: Found) {
        self.keep(|| TraceInput::Found(found.clone()), Decided::Nothing);
        let rank = |node: &NodeId| (rendezvous::weight(&self.blob.0, node), *node);
        let mine = rank(&self.me);
        let by_rank = |mut nodes: Vec<NodeId>| {
            nodes.sort_unstable_by_key(|node| std::cmp::Reverse(rank(node)));
            nodes
        };
        let Found { leads, holders, mut members } = found;
        members.retain(|node| rank(node) > mine && !self.failed.contains(node));
        let mut members = by_rank(members);
        members.truncate(MAX_MEMBERS_FOUND);
        let mut sure = [by_rank(leads), by_rank(holders)].concat();
        sure.retain(|node| *node != self.me);
        if let Some(search) = &mut self.search {
            search.found = Some(Candidates { sure, members });
        }
    }

    /// How long to wait before the next search begins: the more often leads forgot this agent, the longer.
    fn pause(&self) -> Option<Duration> {
        (self.forgotten >= 2).then(|| JOIN_PAUSE * 2_u32.pow(self.forgotten.min(MAX_DOUBLINGS)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: BlobId = BlobId([1; 32]);
    const BLOB: BlobId = BlobId([2; 32]);

    fn nodes(count: u8) -> Vec<NodeId> {
        (1..=count).map(|name| NodeId([name; 16])).collect()
    }

    /// An agent with this id that has just lost its lead, and looks for another.
    fn searching(me: NodeId) -> Leadership {
        let mut leadership = Leadership::new(me, SOURCE, BLOB, true);
        leadership.set(Leader::Node(NodeId([99; 16])));
        assert!(leadership.lost(NodeId([99; 16]), Loss::Failed) && leadership.begin_search());
        leadership
    }

    #[test]
    fn a_living_seed_is_asked_first_then_the_member_that_ranks_first_and_each_once() {
        let all = nodes(6);
        let ranked = rendezvous::ranking(&BLOB.0, &all[2..]);
        let seeds = rendezvous::ranking(&SOURCE.0, &all[..2]);
        let mut leadership = searching(ranked[2]);
        let others: Vec<_> = ranked.iter().copied().filter(|node| *node != ranked[2]).collect();
        for candidate in [seeds[0], seeds[1], ranked[0], ranked[1]] {
            assert_eq!(leadership.next(&all[..2], &others), Step::Ask(candidate));
            leadership.refused(candidate);
        }
        let mut failed = vec![NodeId([99; 16]), seeds[0], seeds[1], ranked[0], ranked[1]];
        failed.sort_unstable();
        assert!(leadership.failed().eq(failed), "nor need these be asked who leads");
        assert_eq!(leadership.next(&all[..2], &others), Step::Survey, "the one behind it is not asked");
        leadership.found(Found::default());
        assert_eq!(leadership.next(&all[..2], &others), Step::Lead);
        leadership.set(Leader::Me);
        assert_eq!(leadership.next(&all[..2], &others), Step::End);
        assert!(!leadership.is_searching());
    }

    #[test]
    fn all_that_see_the_same_members_choose_the_same_lead() {
        let all = nodes(7);
        let first = rendezvous::owner(&BLOB.0, &all).unwrap();
        for me in &all {
            let others: Vec<_> = all.iter().copied().filter(|node| node != me).collect();
            let step = searching(*me).next(&[], &others);
            assert_eq!(step, if *me == first { Step::Survey } else { Step::Ask(first) });
        }
    }

    #[test]
    fn who_leads_is_followed_before_who_holds_all_and_that_before_members_that_rank_first() {
        let ranked = rendezvous::ranking(&BLOB.0, &nodes(9));
        let me = ranked[6];
        let mut leadership = searching(me);
        leadership.refused(ranked[1]);
        assert_eq!(leadership.next(&[], &[]), Step::Survey);
        leadership.found(Found {
            leads: vec![ranked[8], me],
            holders: vec![ranked[7]],
            members: vec![ranked[8], ranked[4], ranked[3], ranked[2], ranked[1], ranked[0]],
        });
        let mut asked = Vec::new();
        while let Step::Ask(node) = leadership.next(&[], &[]) {
            asked.push(node);
            leadership.refused(node);
        }
        assert_eq!(asked, [ranked[8], ranked[7], ranked[0], ranked[2], ranked[3]], "one that failed is left out");
        assert_eq!(leadership.next(&[], &[]), Step::Lead);
    }

    #[test]
    fn a_member_that_may_not_know_everybody_asks_around_first() {
        let ranked = rendezvous::ranking(&BLOB.0, &nodes(16));
        let me = ranked[8];
        let mut leadership = searching(me);
        let met: Vec<_> = ranked[3..].iter().copied().filter(|node| *node != me).collect();
        assert_eq!(leadership.next(&[], &met), Step::Survey);
        leadership.found(Found { members: ranked[1..3].to_vec(), ..Found::default() });
        for candidate in [1, 2, 3, 4] {
            assert_eq!(leadership.next(&[], &met), Step::Ask(ranked[candidate]));
            leadership.refused(ranked[candidate]);
        }
    }

    #[test]
    fn a_lead_that_is_lost_while_it_is_found_begins_the_search_anew() {
        let mut leadership = searching(NodeId([1; 16]));
        assert_eq!(leadership.next(&[], &[]), Step::Survey);
        let other = NodeId([7; 16]);
        leadership.found(Found { leads: vec![other], ..Found::default() });
        assert_eq!(leadership.next(&[], &[]), Step::Ask(other));
        leadership.set(Leader::Node(other));
        assert!(leadership.lost(other, Loss::Failed), "before anybody asked for the next step");
        assert!(!leadership.begin_search(), "it is under way");
        assert_eq!(leadership.next(&[], &[]), Step::Survey, "what was found then is not gone by");
        assert!(!leadership.lost(other, Loss::Failed), "it was not followed any more");
    }

    #[test]
    fn a_lead_that_forgets_is_asked_again_after_ever_longer_pauses_and_not_for_ever() {
        let (seed, me) = (NodeId([9; 16]), NodeId([1; 16]));
        let mut leadership = Leadership::new(me, SOURCE, BLOB, true);
        let mut pauses = Vec::new();
        for _ in 0..4 {
            leadership.set(Leader::Node(seed));
            leadership.lost(seed, Loss::Forgot);
            leadership.begin_search();
            let mut step = leadership.next(&[seed], &[]);
            if let Step::Rest(pause) = step {
                pauses.push(pause.as_millis());
                step = leadership.next(&[seed], &[]);
            }
            assert_eq!(step, Step::Ask(seed));
            leadership.set(Leader::Node(seed));
            leadership.next(&[seed], &[]);
        }
        assert_eq!(pauses, [200, 400, 800]);
        leadership.lost(seed, Loss::Forgot);
        leadership.begin_search();
        assert!(matches!(leadership.next(&[seed], &[]), Step::Rest(_)));
        assert_eq!(leadership.next(&[seed], &[]), Step::Survey, "the fifth time it counts as failed");
        assert!(leadership.seed_came(seed, |_| false), "until it comes back");
        leadership.piece_came();
        assert_eq!(leadership.next(&[seed], &[]), Step::Ask(seed));
    }

    #[test]
    fn whoever_followed_two_that_gave_nothing_leads_unless_there_is_a_seed() {
        let all = nodes(6);
        let me = all[0];
        let mut leadership = Leadership::new(me, SOURCE, BLOB, true);
        for lead in [all[3], all[4]] {
            leadership.set(Leader::Node(lead));
            assert!(leadership.lost(lead, Loss::Mute) && leadership.begin_search());
            assert_ne!(leadership.next(&[], &all[1..3]), Step::Ask(lead), "it is not asked again");
            leadership.end_search();
        }
        leadership.begin_search();
        assert_eq!(leadership.next(&all[5..], &all[1..3]), Step::Ask(all[5]));
        leadership.refused(all[5]);
        assert_eq!(leadership.next(&all[5..], &all[1..3]), Step::Lead, "and asks nobody who might lead");
    }

    #[test]
    fn whoever_waited_in_vain_asks_around_anew_before_it_leads() {
        let ranked = rendezvous::ranking(&BLOB.0, &nodes(4));
        let mut leadership = searching(ranked[1]);
        assert_eq!(leadership.next(&[], &[]), Step::Survey);
        leadership.found(Found { holders: vec![ranked[2]], ..Found::default() });
        assert_eq!(leadership.next(&[], &[]), Step::Ask(ranked[2]));
        leadership.silent(ranked[2]);
        assert_eq!(leadership.next(&[], &[]), Step::Survey, "another may lead by now");
        leadership.found(Found { leads: vec![ranked[3]], holders: vec![ranked[2]], ..Found::default() });
        assert_eq!(leadership.next(&[], &[]), Step::Ask(ranked[3]));
        leadership.refused(ranked[3]);
        assert_eq!(leadership.next(&[], &[]), Step::Lead, "one that refuses costs no time");
    }

    #[test]
    fn two_never_follow_each_other_and_of_two_that_ask_each_other_the_lower_leads() {
        let (low, high) = (NodeId([1; 16]), NodeId([2; 16]));
        let mut leadership = Leadership::new(low, SOURCE, BLOB, true);
        assert!(leadership.stays_lead_of(high), "though it looks for a lead itself");
        leadership.set(Leader::Node(high));
        assert!(!leadership.may_admit(high) && leadership.may_admit(NodeId([3; 16])));
        leadership.set(Leader::Me);
        assert!(leadership.may_admit(high) && leadership.stays_lead_of(high));
        let mut other = Leadership::new(high, SOURCE, BLOB, true);
        other.set(Leader::Me);
        assert!(!other.stays_lead_of(low));
        assert_eq!((leadership.last_followed(), other.last_followed()), (Some(high), None));
    }

    #[test]
    fn a_seed_that_comes_back_leads_unless_a_seed_does() {
        let [seed, other, node] = [9, 8, 1].map(|name| NodeId([name; 16]));
        let mut member = Leadership::new(node, SOURCE, BLOB, true);
        assert!(member.seed_came(seed, |_| true), "nobody leads");
        member.set(Leader::Me);
        assert!(member.seed_came(seed, |_| true), "a stand-in hands over");
        member.set(Leader::Node(other));
        assert!(member.seed_came(seed, |_| false) && !member.seed_came(seed, |lead| lead == other));
        let mut leads = Leadership::new(other, SOURCE, BLOB, false);
        leads.set(Leader::Me);
        assert!(!leads.seed_came(seed, |_| true), "a seed does not hand over to another");
    }
}
