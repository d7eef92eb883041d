//! Asking around among the nodes, when no seed can say who leads a swarm: who leads it, who holds it, and who of those
//! alive should lead it. Likewise, who of those alive should ask a registry about a repository.
//!
//! Where a seed is connected and could not do it, it is asked for nodes: it knows them all. That some of them are
//! connected with a seed is no reason to ask these first then.
//!
//! Everybody ranks nodes by rendezvous hashing over the source's key, so those who see the same nodes choose the same
//! lead. What one does not see, others tell: each answer names the nodes that the answering one ranks first, and those
//! are asked next. So even in a fleet in which nobody knows everybody, everybody comes to the same few nodes after a
//! round or two. Views that differ all the same cost a copy read from the origin, never the blob.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use darter_core::{BlobId, NodeId, rendezvous};
use darter_swarm::asking::{self, MAX_NAMED, MAX_ROUNDS, SURVEY_TIMEOUT};
use darter_wire::{Message, PeerInfo, SwarmPart};
use futures_util::future::join_all;
use tokio::sync::oneshot;

use super::circle::MAX_COMPANIONS;
use super::{Fleet, Peer};

/// The version of the protocol that brought the question.
const SINCE: u8 = 3;

/// Nodes that are asked although they are not connected yet, in each round.
const MAX_STRANGERS: usize = 8;

/// What a node answered.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) part: SwarmPart,
    pub(crate) lead: Option<PeerInfo>,
    pub(crate) seeds: Vec<PeerInfo>,
    pub(crate) nearest: Vec<PeerInfo>,
}

/// Questions under way.
#[derive(Default)]
pub(super) struct Surveys {
    last: u32,
    waiting: HashMap<u32, (NodeId, oneshot::Sender<Answer>)>,
}

/// What was found out.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// Nodes that lead the swarm, the one that ranks first before the others.
    pub(crate) leads: Vec<NodeId>,
    /// Nodes that hold all of it, ranked likewise.
    pub(crate) holders: Vec<PeerInfo>,
    /// Nodes that hold a part of it or follow a lead, ranked likewise.
    pub(crate) members: Vec<NodeId>,
    /// Nodes that are connected to a seed while this agent is not, ranked likewise.
    pub(crate) linked: Vec<NodeId>,
    /// All nodes that answered, ranked likewise.
    pub(crate) alive: Vec<NodeId>,
    /// Seeds that others know and that have been connected meanwhile.
    pub(crate) found_seeds: Vec<NodeId>,
}

impl Survey {
    /// Whom to ask to lead, in this order: who leads already, who holds all of it, who has a part in it (and passes on
    /// what a lead gives that this agent can't reach), who can reach a seed that this agent can't, and of all that are
    /// alive those that rank before this agent.
    pub(crate) fn candidates(&self, key: &[u8], me: NodeId) -> Vec<NodeId> {
        let chosen = rendezvous::ranking(key, self.alive.iter().chain([&me]));
        let before_me = chosen.into_iter().take_while(|node| *node != me);
        let holders = self.holders.iter().map(|info| info.node);
        let others = self.members.iter().chain(&self.linked).copied();
        let all = self.leads.iter().copied().chain(holders).chain(others).chain(before_me);
        let mut seen = HashSet::new();
        all.filter(|node| seen.insert(*node)).collect()
    }
}

impl Fleet {
    /// Asks the nodes about a source; `blob` is its blob where the source alone names it.
    pub(crate) async fn survey(self: &Arc<Self>, key: BlobId, blob: Option<BlobId>) -> Survey {
        self.survey_without(key, blob, HashSet::new()).await
    }

    /// The same, without asking these.
    pub(crate) async fn survey_without(
        self: &Arc<Self>,
        key: BlobId,
        blob: Option<BlobId>,
        mut asked: HashSet<NodeId>,
    ) -> Survey {
        let seeds_before = self.seeds();
        asked.insert(self.me().node);
        let mut answers: Vec<(PeerInfo, Answer)> = Vec::new();
        let mut next = self.first_to_ask(key);
        for _ in 0..MAX_ROUNDS {
            next.retain(|info| asked.insert(info.node));
            if next.is_empty() {
                break;
            }
            let round = next.drain(..).map(|info| async move {
                let answer = self.ask_lead(&info, key, blob).await;
                answer.map(|answer| (info, answer))
            });
            let round: Vec<_> = join_all(round).await.into_iter().flatten().collect();
            next = next_to_ask(key, &round, &asked);
            self.learn_of(round.iter().flat_map(|(_, answer)| &answer.nearest).cloned());
            answers.extend(round);
        }
        let seeds = answers.iter().flat_map(|(_, answer)| &answer.seeds).cloned().collect();
        self.reach_a_seed(seeds).await;
        answers.retain(|(info, _)| !self.peer(info.node).is_some_and(|peer| peer.is_seed()));
        let ranking = rendezvous::ranking(&key.0, answers.iter().map(|(info, _)| &info.node));
        let place = |node: &NodeId| ranking.iter().position(|ranked| ranked == node);
        answers.sort_by_key(|(info, _)| place(&info.node));
        let of = |part| answers.iter().filter(move |(_, answer)| answer.part == part).map(|(info, _)| info);
        let linked = answers.iter().filter(|(_, answer)| seeds_before.is_empty() && !answer.seeds.is_empty());
        Survey {
            leads: of(SwarmPart::Lead).map(|info| info.node).collect(),
            holders: of(SwarmPart::Holder).cloned().collect(),
            linked: linked.map(|(info, _)| info.node).collect(),
            members: of(SwarmPart::Member).map(|info| info.node).collect(),
            alive: ranking,
            found_seeds: self.seeds().into_iter().filter(|seed| !seeds_before.contains(seed)).collect(),
        }
    }

    /// Whom to ask first: connected agents, and nodes that rank first among the known ones.
    fn first_to_ask(&self, key: BlobId) -> Vec<PeerInfo> {
        let able = |peer: &Peer| peer.version >= SINCE;
        let connected: Vec<_> = self.peers().iter().filter(|peer| able(peer)).map(Peer::info).collect();
        let ranking = rendezvous::ranking(&key.0, connected.iter().map(|info| &info.node));
        let place = |node: &NodeId| ranking.iter().position(|ranked| ranked == node);
        let is_seed = |node| self.peer(node).is_some_and(|peer| peer.is_seed());
        let mut first = connected;
        first.sort_by_key(|info| (!is_seed(info.node), place(&info.node)));
        first.truncate(MAX_COMPANIONS);
        let known = self.known.lock().ranked(&key.0, self.context.now());
        let strangers = known.into_iter().filter(|info| self.peer(info.node).is_none());
        first.extend(strangers.take(MAX_STRANGERS));
        first
    }

    /// One node's answer; none if it can't be reached or does not answer in time.
    async fn ask_lead(self: &Arc<Self>, info: &PeerInfo, key: BlobId, blob: Option<BlobId>) -> Option<Answer> {
        let asking = async {
            if !self.reach(info).await {
                return None;
            }
            let (sender, answer) = oneshot::channel();
            let request = {
                let mut surveys = self.surveys.lock();
                surveys.last = surveys.last.wrapping_add(1);
                let request = surveys.last;
                surveys.waiting.insert(request, (info.node, sender));
                request
            };
            let _forgotten = Forget { fleet: self, request };
            if !self.say(info.node, &Message::AskLead { request, key, blob }) {
                return None;
            }
            answer.await.ok()
        };
        tokio::time::timeout(SURVEY_TIMEOUT, asking).await.ok().flatten()
    }

    /// A node answered. An answer that nobody waits for from this one is dropped.
    pub(super) fn lead_is(&self, from: NodeId, request: u32, answer: Answer) {
        let mut surveys = self.surveys.lock();
        if surveys.waiting.get(&request).is_some_and(|(asked, _)| *asked == from)
            && let Some((_, sender)) = surveys.waiting.remove(&request)
        {
            // Whoever asked may have given up just now.
            let _ = sender.send(answer);
        }
    }

    /// Connects to the first of these seeds that is not connected and can be reached.
    async fn reach_a_seed(self: &Arc<Self>, mut seeds: Vec<PeerInfo>) {
        seeds.retain(|info| self.peer(info.node).is_none());
        let mut tried = HashSet::new();
        for info in seeds.into_iter().filter(|info| tried.insert(info.node)).take(MAX_STRANGERS) {
            if tokio::time::timeout(SURVEY_TIMEOUT, self.reach(&info)).await.unwrap_or(false) {
                break;
            }
        }
    }

    /// Of the connected seeds, one that leads the swarm or holds all of it.
    pub(crate) async fn seed_with(self: &Arc<Self>, key: BlobId, blob: Option<BlobId>) -> Option<NodeId> {
        let seeds: Vec<_> = self.peers().into_iter().filter(|peer| peer.is_seed() && peer.version >= SINCE).collect();
        let asked = seeds.iter().map(|seed| async move {
            let part = self.ask_lead(&seed.info(), key, blob).await?.part;
            matches!(part, SwarmPart::Holder | SwarmPart::Lead).then_some(seed.hello.node)
        });
        let able: Vec<_> = join_all(asked).await.into_iter().flatten().collect();
        rendezvous::owner(&key.0, &able)
    }

    /// Nodes that hold all of a blob, as far as the connected seeds know. Nobody else is asked: in a large fleet everybody may want to know
    /// at once.
    pub(crate) async fn holders_by_seeds(self: &Arc<Self>, key: BlobId, blob: BlobId) -> Vec<PeerInfo> {
        let seeds: Vec<_> = self.peers().into_iter().filter(|peer| peer.is_seed() && peer.version >= SINCE).collect();
        let infos: Vec<_> = seeds.iter().map(Peer::info).collect();
        let told = join_all(infos.iter().map(|seed| self.ask_lead(seed, key, Some(blob)))).await;
        let mut named: Vec<_> = told.into_iter().flatten().filter_map(|answer| answer.lead).collect();
        named.retain(|info| info.node != self.me().node);
        named.sort_by_key(|info| info.node);
        named.dedup_by_key(|info| info.node);
        let asked = named.iter().map(|info| async move {
            let part = self.ask_lead(info, key, Some(blob)).await?.part;
            (part == SwarmPart::Holder).then(|| info.clone())
        });
        join_all(asked).await.into_iter().flatten().collect()
    }

    /// What this agent answers about the seeds and nodes that it knows.
    pub(crate) fn who_else(&self, key: BlobId) -> (Vec<PeerInfo>, Vec<PeerInfo>) {
        let seeds = self.peers().iter().filter(|peer| peer.is_seed()).map(Peer::info).take(MAX_STRANGERS).collect();
        (seeds, self.tellable(&key.0, MAX_NAMED))
    }
}

/// Of the nodes that were named, the leads, and those that rank first, as far as they were not asked yet.
fn next_to_ask(key: BlobId, round: &[(PeerInfo, Answer)], asked: &HashSet<NodeId>) -> Vec<PeerInfo> {
    let leads = round.iter().filter_map(|(_, answer)| answer.lead.as_ref());
    let nearest = round.iter().flat_map(|(_, answer)| &answer.nearest);
    let infos: HashMap<_, _> = nearest.clone().chain(leads.clone()).map(|info| (info.node, info)).collect();
    let next = asking::next_to_ask(&key.0, leads.map(|info| info.node), nearest.map(|info| info.node), asked);
    next.iter().filter_map(|node| infos.get(node).copied().cloned()).collect()
}

/// Forgets a question when nobody waits any more.
struct Forget<'a> {
    fleet: &'a Fleet,
    request: u32,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.fleet.surveys.lock().waiting.remove(&self.request);
    }
}

#[cfg(test)]
mod tests {
    use darter_core::Place;

    use super::*;

    fn info(node: u8) -> PeerInfo {
        PeerInfo { node: NodeId([node; 16]), addr: String::new(), place: Place::default() }
    }

    #[test]
    fn who_leads_is_asked_before_who_holds_and_that_before_who_ranks_first() {
        let nodes: Vec<_> = (1..=5).map(|node| info(node).node).collect();
        let ranking = rendezvous::ranking(b"key", &nodes);
        let [first, second, me, fourth, last] = ranking[..] else { panic!() };
        let alive = vec![first, second, fourth, last];
        let holder = PeerInfo { node: fourth, ..info(0) };
        let survey = Survey { leads: vec![last], holders: vec![holder], alive: alive.clone(), ..Survey::default() };
        assert_eq!(survey.candidates(b"key", me), [last, fourth, first, second]);
        let survey = Survey { alive, ..Survey::default() };
        assert_eq!(survey.candidates(b"key", me), [first, second], "those behind this agent don't come before it");
        let survey = Survey { linked: vec![last], ..survey };
        assert_eq!(survey.candidates(b"key", me), [last, first, second], "its seed reads the origin for all");
        assert!(Survey::default().candidates(b"key", me).is_empty(), "who is alone leads");
    }

    #[test]
    fn those_named_first_are_asked_next_once() {
        let key = BlobId([7; 32]);
        let answer = |nearest: Vec<PeerInfo>, lead| Answer { part: SwarmPart::Nothing, lead, seeds: vec![], nearest };
        let named: Vec<_> = (1..=6).map(info).collect();
        let ranking = rendezvous::ranking(&key.0, named.iter().map(|it| &it.node));
        let round =
            [(info(20), answer(named[..3].to_vec(), None)), (info(21), answer(named[3..].to_vec(), Some(info(30))))];
        let asked = HashSet::from([ranking[0]]);
        let next: Vec<_> = next_to_ask(key, &round, &asked).iter().map(|it| it.node).collect();
        assert_eq!(next, [info(30).node, ranking[1], ranking[2]]);
    }
}
