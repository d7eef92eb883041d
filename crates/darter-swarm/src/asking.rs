//! A survey: if no agent knows all others, an agent asks some of them, in rounds, who leads the swarm of a blob. This decides whom it asks, and
//! what follows from the answers.
//!
//! An agent asks those that it is connected to and, of the others that it knows, those that rank first by rendezvous hashing. Each answer
//! says what the answering agent has to do with the blob, and names the lead and the agents that it ranks first; those are asked next. Only
//! the agents that rank first matter, since an agent that ranks behind them is not chosen while one of them lives. So all that ask come to the
//! same few agents after a round or two.
//!
//! While the survey waits for an agent that does not answer, another may begin to lead: so at the end, the agents that neither led nor held
//! pieces are asked once more.
//!
//! Invariants: except for that, nobody is asked twice; there are at most [`MAX_ROUNDS`] rounds, whatever is answered.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use darter_core::{BlobId, NodeId, rendezvous};
use darter_protocol::SwarmPart;

use crate::{Found, Leader};

/// Rounds of questions, at most.
pub const MAX_ROUNDS: usize = 5;

/// How many agents that rank first an answer names at most, and how many of all that were named are asked in the next round.
pub const MAX_NAMED: usize = 3;

/// Agents that are asked in the first round because they are connected, at most: as many as an agent keeps itself connected to.
pub const MAX_COMPANIONS: usize = 32;

/// Agents that are asked in the first round though they are not connected.
pub const MAX_STRANGERS: usize = 8;

/// The timeout for an agent to be connected and to answer.
pub const SURVEY_TIMEOUT: Duration = Duration::from_secs(1);

/// One agent's answer to a survey.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SurveyAnswer {
    /// The agent's part in the swarm of the blob.
    pub part: SwarmPart,
    /// The lead, as far as the agent knows.
    pub lead: Option<NodeId>,
    /// The agents that rank first of those that the agent knows.
    pub nearest: Vec<NodeId>,
}

/// A survey by one agent. Call [`Survey::next_round`], then [`Survey::answered`] for each answer, and [`Survey::next_round`] again when
/// all have answered or had their time, until a round is empty.
#[derive(Debug)]
pub struct Survey {
    key: BlobId,
    /// Agents that were asked, and agents that must not be asked.
    asked: HashSet<NodeId>,
    rounds: usize,
    next: Vec<NodeId>,
    /// Agents that the answers of this round named: as leads, and as ranking first.
    leads: Vec<NodeId>,
    named: BTreeSet<NodeId>,
    heard: Vec<(NodeId, SwarmPart)>,
    /// How many agents of this round have not answered.
    silent: usize,
    /// True once an agent was waited for in vain, and once the others were asked again since.
    has_waited: bool,
    has_asked_again: bool,
}

/// The result of a survey: agents that answered, each list in the order in which they rank.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// The agents that lead the swarm.
    pub leads: Vec<NodeId>,
    /// The agents that hold all of the blob.
    pub holders: Vec<NodeId>,
    /// The agents that hold a part of it or follow a lead.
    pub members: Vec<NodeId>,
    /// All agents that answered.
    pub alive: Vec<NodeId>,
}

/// The agents to ask first: `MAX_COMPANIONS` of the `connected` agents, seeds before others, and `MAX_STRANGERS` of the `known` agents that are not
/// connected, both by rank.
pub fn first_to_ask(key: BlobId, seeds: &[NodeId], connected: &[NodeId], known: &[NodeId]) -> Vec<NodeId> {
    let mut first = rendezvous::ranking(&key.0, connected);
    first.sort_by_key(|node| !seeds.contains(node));
    first.truncate(MAX_COMPANIONS);
    let strangers = rendezvous::ranking(&key.0, known.iter().filter(|node| !connected.contains(node)));
    first.extend(strangers.into_iter().take(MAX_STRANGERS));
    first
}

/// An agent's part in the swarm of a blob, from the lead that it follows and from whether it has all of the blob.
pub const fn part_of(leader: Leader, is_complete: bool) -> SwarmPart {
    match leader {
        _ if is_complete => SwarmPart::Holder,
        Leader::Me => SwarmPart::Lead,
        Leader::Node(_) | Leader::Nobody => SwarmPart::Member,
    }
}

/// The agents that a node names in its answer, of those that it knows.
pub fn nearest<'a>(key: BlobId, known: impl IntoIterator<Item = &'a NodeId>) -> Vec<NodeId> {
    let mut nearest = rendezvous::ranking(&key.0, known);
    nearest.truncate(MAX_NAMED);
    nearest
}

impl Survey {
    /// A survey that asks `first`, then the agents that these name, but none of `without`.
    pub fn new(key: BlobId, first: Vec<NodeId>, without: impl IntoIterator<Item = NodeId>) -> Self {
        let asked = without.into_iter().collect();
        Self {
            key,
            asked,
            rounds: 0,
            next: first,
            leads: Vec::new(),
            named: BTreeSet::new(),
            heard: Vec::new(),
            silent: 0,
            has_waited: false,
            has_asked_again: false,
        }
    }

    /// The agents to ask now, all at the same time; none when the survey is over.
    pub fn next_round(&mut self) -> Vec<NodeId> {
        if self.rounds == MAX_ROUNDS {
            return Vec::new();
        }
        self.rounds += 1;
        self.has_waited |= self.silent > 0;
        // The agents that were named as leads; then, of the others that were named, the first in rank.
        let first = nearest(self.key, &std::mem::take(&mut self.named));
        let mut round = std::mem::take(&mut self.next);
        round.append(&mut self.leads);
        round.extend(first);
        round.retain(|node| self.asked.insert(*node));
        if round.is_empty() && self.has_waited && !self.has_asked_again {
            self.has_asked_again = true;
            let may_lead = |part: &SwarmPart| !matches!(part, SwarmPart::Lead | SwarmPart::Holder);
            round.extend(self.heard.iter().filter(|(_, part)| may_lead(part)).map(|(node, _)| *node));
        }
        self.silent = round.len();
        round
    }

    /// An agent that was asked in this round has answered.
    pub fn answered(&mut self, node: NodeId, answer: SurveyAnswer) {
        self.silent = self.silent.saturating_sub(1);
        match self.heard.iter_mut().find(|(other, _)| *other == node) {
            Some((_, part)) => *part = answer.part,
            None => self.heard.push((node, answer.part)),
        }
        self.leads.extend(answer.lead);
        self.named.extend(answer.nearest);
    }

    /// The survey's result, without the agents for which `counts` returns false.
    pub fn heard(&self, counts: impl Fn(NodeId) -> bool) -> Heard {
        let heard: Vec<_> = self.heard.iter().filter(|(node, _)| counts(*node)).collect();
        let of = |part: SwarmPart| {
            let those = heard.iter().filter(|(_, it)| *it == part).map(|(node, _)| node);
            rendezvous::ranking(&self.key.0, those)
        };
        Heard {
            leads: of(SwarmPart::Lead),
            holders: of(SwarmPart::Holder),
            members: of(SwarmPart::Member),
            alive: rendezvous::ranking(&self.key.0, heard.iter().map(|(node, _)| node)),
        }
    }
}

impl Heard {
    /// The agents that this agent, when it begins a blob, asks to lead, in this order: those that lead already; those that hold all of it; those
    /// that have a part in it (and pass on the pieces of a lead that this agent can't reach); those that can reach a seed that this agent
    /// can't (`linked`); and those of all that answered that rank before this agent.
    pub fn candidates(&self, key: BlobId, me: NodeId, linked: &[NodeId]) -> Vec<NodeId> {
        let chosen = rendezvous::ranking(&key.0, self.alive.iter().chain([&me]));
        let before_me = chosen.iter().take_while(|node| **node != me);
        let all = self.leads.iter().chain(&self.holders).chain(&self.members).chain(linked).chain(before_me);
        let mut seen = HashSet::new();
        all.copied().filter(|node| seen.insert(*node)).collect()
    }

    /// The agents that could lead instead of this one, which ranks first but can't: those of all that answered that rank behind it, in this order.
    pub fn behind(&self, key: BlobId, me: NodeId) -> Vec<NodeId> {
        let chosen = rendezvous::ranking(&key.0, self.alive.iter().chain([&me]));
        chosen.into_iter().skip_while(|node| *node != me).skip(1).collect()
    }
}

impl From<Heard> for Found {
    fn from(Heard { leads, holders, members, .. }: Heard) -> Self {
        Self { leads, holders, members }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: BlobId = BlobId([7; 32]);

    fn nodes(names: std::ops::RangeInclusive<u8>) -> Vec<NodeId> {
        names.map(|name| NodeId([name; 16])).collect()
    }

    fn ranked(nodes: &[NodeId]) -> Vec<NodeId> {
        rendezvous::ranking(&KEY.0, nodes)
    }

    fn answer(part: SwarmPart, lead: Option<NodeId>, nearest: &[NodeId]) -> SurveyAnswer {
        SurveyAnswer { part, lead, nearest: nearest.to_vec() }
    }

    #[test]
    fn seeds_are_asked_first_then_connected_agents_and_some_others_that_rank_first() {
        let all = nodes(1..=80);
        let (connected, others) = all.split_at(40);
        let by_rank = ranked(connected);
        let seed = by_rank[39];
        let first = first_to_ask(KEY, &[seed], connected, &all);
        assert_eq!((first[0], &first[1..32]), (seed, &by_rank[..31]), "the last in rank is a seed");
        assert_eq!(first[32..], ranked(others)[..8]);
        assert_eq!(first_to_ask(KEY, &[], &[], &others[..3]), ranked(&others[..3]), "all that it knows");
    }

    #[test]
    fn leads_are_asked_next_and_of_those_named_the_first_in_rank_each_once() {
        let (named, lead, me) = (ranked(&nodes(1..=6)), NodeId([30; 16]), NodeId([40; 16]));
        let first = nodes(20..=21);
        let mut survey = Survey::new(KEY, vec![first[0], me, first[1], first[0]], [me, named[0]]);
        assert_eq!(survey.next_round(), first, "nobody twice, and not itself");
        survey.answered(first[0], answer(SwarmPart::Nothing, Some(lead), &named[..3]));
        survey.answered(first[1], answer(SwarmPart::Nothing, Some(lead), &[named[5], named[3], named[4]]));
        assert_eq!(survey.next_round(), [lead, named[1], named[2]], "of the first three one need not be asked");
        survey.answered(named[1], answer(SwarmPart::Nothing, None, &named[..3]));
        let once_more = [first[0], first[1], named[1]];
        assert_eq!(survey.next_round(), once_more, "the lead and another did not answer: somebody may lead by now");
        survey.answered(first[0], answer(SwarmPart::Lead, None, &[]));
        assert!(survey.next_round().is_empty(), "all of those were");
        let heard = survey.heard(|_| true);
        assert_eq!((heard.leads.as_slice(), heard.alive.len()), (&first[..1], 3));
    }

    #[test]
    fn where_all_answer_or_some_lead_nobody_is_asked_once_more() {
        let all = nodes(1..=3);
        let mut survey = Survey::new(KEY, all.clone(), []);
        survey.next_round();
        all.iter().for_each(|node| survey.answered(*node, answer(SwarmPart::Member, None, &[])));
        assert!(survey.next_round().is_empty());
        let mut survey = Survey::new(KEY, all.clone(), []);
        survey.next_round();
        survey.answered(all[0], answer(SwarmPart::Lead, None, &[]));
        survey.answered(all[1], answer(SwarmPart::Holder, None, &[]));
        assert!(survey.next_round().is_empty(), "these say the same again");
    }

    #[test]
    fn an_end_comes_though_every_answer_names_others() {
        let mut survey = Survey::new(KEY, nodes(1..=1), []);
        let mut rounds = 0;
        let mut name = 1;
        loop {
            let round = survey.next_round();
            if round.is_empty() {
                break;
            }
            rounds += 1;
            for node in round {
                name += 1;
                survey.answered(node, answer(SwarmPart::Nothing, Some(NodeId([name; 16])), &[]));
            }
        }
        assert_eq!(rounds, MAX_ROUNDS);
    }

    #[test]
    fn who_answers_is_told_by_its_part_and_in_the_order_of_ranks() {
        let all = nodes(1..=8);
        let mut survey = Survey::new(KEY, all.clone(), []);
        survey.next_round();
        let parts = [SwarmPart::Lead, SwarmPart::Holder, SwarmPart::Member, SwarmPart::Nothing];
        for (at, node) in all.iter().enumerate() {
            survey.answered(*node, answer(parts[at % 4], None, &[]));
        }
        let with = |at: usize| ranked(&[all[at], all[at + 4]]);
        let heard = survey.heard(|_| true);
        assert_eq!([heard.leads.clone(), heard.holders.clone(), heard.members.clone()], [with(0), with(1), with(2)]);
        assert_eq!(heard.alive, ranked(&all));
        let found = Found { leads: with(0), holders: with(1), members: with(2) };
        assert_eq!(Found::from(heard), found);
        let without = survey.heard(|node| node != all[0]);
        assert_eq!((without.leads.as_slice(), without.alive.len()), (&all[4..5], 7));
    }

    #[test]
    fn an_agent_that_has_all_is_a_holder_whoever_leads() {
        let leaders = [Leader::Me, Leader::Nobody, Leader::Node(NodeId([1; 16]))];
        assert_eq!(leaders.map(|leader| part_of(leader, true)), [SwarmPart::Holder; 3]);
        let parts = [SwarmPart::Lead, SwarmPart::Member, SwarmPart::Member];
        assert_eq!(leaders.map(|leader| part_of(leader, false)), parts);
        assert_eq!(nearest(KEY, &nodes(1..=9)), ranked(&nodes(1..=9))[..3]);
    }

    #[test]
    fn who_leads_is_asked_before_who_holds_and_that_before_who_ranks_first() {
        let ranking = ranked(&nodes(1..=5));
        let [first, second, me, fourth, last] = ranking[..] else { panic!() };
        let alive = vec![first, second, fourth, last];
        let heard = Heard { leads: vec![last], holders: vec![fourth], alive: alive.clone(), ..Heard::default() };
        assert_eq!(heard.candidates(KEY, me, &[]), [last, fourth, first, second]);
        let heard = Heard { members: vec![fourth], alive, ..Heard::default() };
        assert_eq!(heard.candidates(KEY, me, &[last, fourth]), [fourth, last, first, second], "then its seed reads");
        let heard = Heard { members: Vec::new(), ..heard };
        assert_eq!(heard.candidates(KEY, me, &[]), [first, second], "those behind this agent don't come before it");
        assert!(Heard::default().candidates(KEY, me, &[]).is_empty(), "who is alone leads");
        assert_eq!(heard.behind(KEY, me), [fourth, last], "where this agent can't lead, one of them does");
        assert!(Heard::default().behind(KEY, me).is_empty());
    }
}
