//! Surveys: if no seed can say who leads a swarm, this agent asks the nodes who leads it, who holds the blob, and which nodes are
//! alive, of which one should lead. A survey also finds the node that should send a repository's requests to its registry.
//!
//! A connected seed that could not lead is asked for nodes, since it knows all of them. Then nodes that are connected with
//! a seed are not preferred.
//!
//! All nodes use the same rendezvous hashing over the source's key, so nodes that see the same nodes choose the same
//! lead. The survey waits while most of the nodes that it asked have not answered: on busy hosts all answers are late, and a node that
//! gets no answers would read the origin although another one reads it. A few silent nodes do not delay it.
//!
//! Answers name nodes that this agent does not know: [`asking`] decides which of them to ask next, and what follows from the answers. If two nodes still choose
//! different leads, the origin is read twice, but both get the blob.

use std::collections::{HashMap, HashSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use darter_core::{BlobId, NodeId, rendezvous};
use darter_swarm::asking::{self, Heard, MAX_NAMED, MAX_STRANGERS, SURVEY_TIMEOUT};
use darter_wire::{Message, PeerInfo, SwarmPart};
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use tokio::sync::oneshot;

use super::{Fleet, Peer};

/// The first version of the protocol with this request.
const SINCE: u8 = 3;

/// How long to wait for answers while most of them have not arrived. Only if at least [`MANY`] agents were asked: otherwise one or two silent ones would be most.
const MAX_SURVEY_TIMEOUT: Duration = Duration::from_secs(5);
const MANY: usize = 4;

/// A node's answer about the lead.
#[derive(Clone, Debug)]
pub(crate) struct LeadAnswer {
    pub(crate) part: SwarmPart,
    pub(crate) lead: Option<PeerInfo>,
    pub(crate) seeds: Vec<PeerInfo>,
    pub(crate) nearest: Vec<PeerInfo>,
}

/// The requests for which a survey waits.
#[derive(Default)]
pub(super) struct Surveys {
    last: u32,
    waiting: HashMap<u32, (NodeId, oneshot::Sender<LeadAnswer>)>,
}

/// The result of a survey.
#[derive(Debug, Default)]
pub struct SurveyResult {
    /// The agents that answered, and their answers.
    pub heard: Heard,
    /// The nodes that hold everything, as in `heard`, with their addresses.
    pub holders: Vec<PeerInfo>,
    /// Nodes that are connected to a seed while this agent is not, in the order of their ranks.
    linked: Vec<NodeId>,
    /// Seeds that others know and to which this agent has connected meanwhile.
    pub found_seeds: Vec<NodeId>,
}

impl SurveyResult {
    /// The agents to ask to lead, in order; see [`Heard::candidates`].
    pub fn candidates(&self, key: BlobId, me: NodeId) -> Vec<NodeId> {
        self.heard.candidates(key, me, &self.linked)
    }

    /// The agents to ask if this agent can't lead; see [`Heard::behind`].
    pub fn behind(&self, key: BlobId, me: NodeId) -> Vec<NodeId> {
        self.heard.behind(key, me)
    }
}

/// The answers of one round: all that arrive in time. While more than half are missing, it waits longer, since the agents may be busy.
async fn answers_of<A>(asked: Vec<impl Future<Output = Option<A>>>) -> Vec<A> {
    let count = asked.len();
    let are_enough = |open: usize| count < MANY || open * 2 <= count;
    let mut asked: FuturesUnordered<_> = asked.into_iter().collect();
    let mut soon = pin!(tokio::time::sleep(SURVEY_TIMEOUT));
    let (mut answers, mut is_late) = (Vec::new(), false);
    while !(is_late && are_enough(asked.len())) {
        tokio::select! {
            biased;
            answer = asked.next() => match answer {
                Some(answer) => answers.extend(answer),
                None => break,
            },
            () = &mut soon, if !is_late => is_late = true,
        }
    }
    answers
}

impl Fleet {
    /// Surveys the nodes about a source; `blob` is its blob if the source names it.
    pub async fn survey(self: &Arc<Self>, key: BlobId, blob: Option<BlobId>) -> SurveyResult {
        self.survey_without(key, blob, HashSet::new()).await
    }

    /// Surveys the nodes about a source, except those in `without`.
    pub async fn survey_without(
        self: &Arc<Self>,
        key: BlobId,
        blob: Option<BlobId>,
        without: HashSet<NodeId>,
    ) -> SurveyResult {
        let seeds_before = self.seeds();
        let first = self.first_to_ask(key);
        let mut infos: HashMap<NodeId, PeerInfo> = first.iter().map(|info| (info.node, info.clone())).collect();
        let first = first.into_iter().map(|info| info.node).collect();
        let mut survey = asking::Survey::new(key, first, without.into_iter().chain([self.me().node]));
        let mut answers: Vec<(NodeId, LeadAnswer)> = Vec::new();
        loop {
            let round = survey.next_round();
            if round.is_empty() {
                break;
            }
            let round = round.iter().filter_map(|node| infos.get(node)).map(|info| async move {
                // A connected agent is alive, or was a moment ago.
                let is_connected = self.peer(info.node).is_some();
                let most = if is_connected { MAX_SURVEY_TIMEOUT } else { SURVEY_TIMEOUT };
                let answer = self.ask_lead(info, key, blob, most).await;
                answer.map(|answer| (info.node, answer))
            });
            let round = answers_of(round.collect()).await;
            self.learn_of(round.iter().flat_map(|(_, answer)| &answer.nearest).cloned());
            for (node, answer) in round {
                for info in answer.lead.iter().chain(&answer.nearest) {
                    infos.entry(info.node).or_insert_with(|| info.clone());
                }
                survey.answered(node, answer.decided());
                answers.push((node, answer));
            }
        }
        let seeds = answers.iter().flat_map(|(_, answer)| &answer.seeds).cloned().collect();
        self.reach_a_seed(seeds).await;
        let heard = survey.heard(|node| !self.peer(node).is_some_and(|peer| peer.is_seed()));
        let has_seeds = |node: &NodeId| answers.iter().any(|(of, answer)| of == node && !answer.seeds.is_empty());
        let linked = heard.alive.iter().filter(|node| seeds_before.is_empty() && has_seeds(node)).copied();
        SurveyResult {
            holders: heard.holders.iter().filter_map(|node| infos.get(node).cloned()).collect(),
            linked: linked.collect(),
            heard,
            found_seeds: self.seeds().into_iter().filter(|seed| !seeds_before.contains(seed)).collect(),
        }
    }

    /// The agents to ask first: connected agents, and the known nodes with the highest ranks.
    fn first_to_ask(&self, key: BlobId) -> Vec<PeerInfo> {
        let able = |peer: &Peer| peer.version >= SINCE;
        let mut infos: Vec<_> = self.peers().iter().filter(|peer| able(peer)).map(|peer| peer.info()).collect();
        let connected: Vec<_> = infos.iter().map(|info| info.node).collect();
        let known = self.known.lock().ranked(&key.0, self.context.now());
        infos.extend(known.into_iter().filter(|info| self.peer(info.node).is_none()));
        let known: Vec<_> = infos.iter().map(|info| info.node).collect();
        let first = asking::first_to_ask(key, &self.seeds(), &connected, &known);
        let place = |info: &PeerInfo| first.iter().position(|node| *node == info.node);
        infos.retain(|info| place(info).is_some());
        infos.sort_by_key(place);
        infos
    }

    /// One node's answer; `None` if it can't be reached or does not answer in time.
    async fn ask_lead(
        self: &Arc<Self>,
        info: &PeerInfo,
        key: BlobId,
        blob: Option<BlobId>,
        most: Duration,
    ) -> Option<LeadAnswer> {
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
        tokio::time::timeout(most, asking).await.ok().flatten()
    }

    /// Handles a node's answer. An answer that is not expected from this node is dropped.
    pub(super) fn lead_is(&self, from: NodeId, request: u32, answer: LeadAnswer) {
        let mut surveys = self.surveys.lock();
        if surveys.waiting.get(&request).is_some_and(|(asked, _)| *asked == from)
            && let Some((_, sender)) = surveys.waiting.remove(&request)
        {
            // The asker may have given up just now.
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

    /// A connected seed that leads the swarm or holds everything.
    pub async fn seed_with(self: &Arc<Self>, key: BlobId, blob: Option<BlobId>) -> Option<NodeId> {
        let seeds: Vec<_> = self.peers().into_iter().filter(|peer| peer.is_seed() && peer.version >= SINCE).collect();
        let asked = seeds.iter().map(|seed| async move {
            let part = self.ask_lead(&seed.info(), key, blob, SURVEY_TIMEOUT).await?.part;
            matches!(part, SwarmPart::Holder | SwarmPart::Lead).then_some(seed.hello.node)
        });
        let able: Vec<_> = join_all(asked).await.into_iter().flatten().collect();
        rendezvous::owner(&key.0, &able)
    }

    /// Agents that hold all of a blob, as far as the connected seeds or this agent (`known`) know: a seed may have got the blob by now.
    /// No other agents are asked, since in a large fleet all nodes may ask at once.
    pub async fn holders_by_seeds(self: &Arc<Self>, key: BlobId, blob: BlobId, known: Vec<PeerInfo>) -> Vec<PeerInfo> {
        let seeds: Vec<_> = self.peers().into_iter().filter(|peer| peer.is_seed() && peer.version >= SINCE).collect();
        let infos: Vec<_> = seeds.iter().map(|peer| peer.info()).collect();
        let told = join_all(infos.iter().map(|seed| self.ask_lead(seed, key, Some(blob), SURVEY_TIMEOUT))).await;
        let (mut named, mut holders) = (known, Vec::new());
        for (seed, answer) in infos.iter().zip(told) {
            let Some(answer) = answer else { continue };
            named.extend(answer.lead);
            if answer.part == SwarmPart::Holder {
                holders.push(seed.clone());
            }
        }
        named.retain(|info| info.node != self.me().node && holders.iter().all(|seed| seed.node != info.node));
        named.sort_by_key(|info| info.node);
        named.dedup_by_key(|info| info.node);
        let asked = named.iter().map(|info| async move {
            let part = self.ask_lead(info, key, Some(blob), SURVEY_TIMEOUT).await?.part;
            (part == SwarmPart::Holder).then(|| info.clone())
        });
        holders.extend(join_all(asked).await.into_iter().flatten());
        holders
    }

    /// This agent's answer with the seeds and nodes that it knows.
    pub fn who_else(&self, key: BlobId) -> (Vec<PeerInfo>, Vec<PeerInfo>) {
        let seeds =
            self.peers().iter().filter(|peer| peer.is_seed()).map(|peer| peer.info()).take(MAX_STRANGERS).collect();
        (seeds, self.tellable(&key.0, MAX_NAMED))
    }
}

impl LeadAnswer {
    /// The part of the answer that matters for decisions.
    fn decided(&self) -> asking::SurveyAnswer {
        let nearest = self.nearest.iter().map(|info| info.node).collect();
        asking::SurveyAnswer { part: self.part, lead: self.lead.as_ref().map(|info| info.node), nearest }
    }
}

/// Removes a request when the survey no longer waits for its answer.
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
    use tokio::time::{Instant, sleep};

    use super::*;

    /// How many seconds a survey takes if agents answer after `answers` seconds, and how many answers it gets.
    async fn asks(answers: &[u64]) -> (u64, usize) {
        let begun = Instant::now();
        let answer = |seconds: &u64| {
            let seconds = *seconds;
            async move {
                sleep(Duration::from_secs(seconds).min(MAX_SURVEY_TIMEOUT)).await;
                (seconds < MAX_SURVEY_TIMEOUT.as_secs()).then_some(())
            }
        };
        let heard = answers_of(answers.iter().map(answer).collect()).await.len();
        (begun.elapsed().as_secs(), heard)
    }

    #[tokio::test(start_paused = true)]
    async fn a_few_silent_agents_hold_up_nobody_and_most_that_are_busy_are_waited_for() {
        assert_eq!(asks(&[]).await, (0, 0));
        assert_eq!(asks(&[0; 20]).await, (0, 20));
        assert_eq!(asks(&[[0; 10], [99; 10]].concat()).await, (1, 10));
        assert_eq!(asks(&[[3; 15], [99; 15]].concat()).await, (3, 15));
        assert_eq!(asks(&[99; 20]).await, (5, 0));
        assert_eq!(asks(&[99, 3, 3]).await, (1, 0), "these may be two that lie");
    }
}
