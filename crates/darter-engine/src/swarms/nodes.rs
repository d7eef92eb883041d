//! A swarm without a seed: which node leads it.
//!
//! A node that is connected to no seed, or to none that can take the source on, asks the nodes it knows ([`Fleet::survey`](darter_fleet::Fleet)). It follows
//! a node that leads already; else a node that holds everything leads; else the one that rendezvous hashing chooses among the living,
//! which reads the origin once for all; or, if that is this node and it has no space for a layer that it would have to expand, the next ones. Each of these is asked with [`Message::Join`], exactly as a seed is, and
//! does what a seed does: it asks the origin with the caller's credentials whether the caller may have the content.
//!
//! A host's own login, headers or certificate may be wrong or missing. A refusal that may be due to them does not count for
//! others: the next node leads, and hosts with the same configuration still read the origin once.
//!
//! A node that is asked to lead while a seed is connected to it joins that seed, again with the caller's credentials, and
//! passes on what it gets, or the origin's refusal as the seed reports it: some node can reach a seed that others can't. Without a seed it follows a node that leads already or holds
//! everything; otherwise it leads by itself, and asks no other node, so that no request goes round in a circle.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use darter_core::source::Credentials;
use darter_core::{Blamed as _, BlobId, Fault, NodeId, Source, rendezvous};
use darter_swarm::asking::part_of;
use darter_wire::{Failure, Message, PeerInfo, SwarmPart};

use super::access::Caller;
use super::refused::{Refused, SeedsWords, was_patient};
use super::{Swarms, failure_of, refusal};
use crate::error::FetchError;
use crate::transfer::{Lead, Outcome, Transfer};

/// How many nodes an origin may refuse before a node with a login for it reads the origin itself: each of them asks the origin.
const MAX_REFUSALS: usize = 3;

/// How long the result of a survey counts: later, a node may lead that the survey did not find.
const SURVEY_LASTS: Duration = Duration::from_secs(1);

/// How long a node that leads or holds everything may take to let in a node that was asked to lead. The asker waits meanwhile.
const FOUND_TIMEOUT: Duration = Duration::from_secs(2);

/// How often the nodes are surveyed about one source, at most.
const MAX_SURVEYS: usize = 3;

/// The result of asking the nodes.
pub(super) enum Settled {
    /// Another node leads, and this node follows.
    Transfer(Arc<Transfer>),
    /// This node is the one to lead.
    NotHere,
    /// The origin refuses the agent that was asked; this agent, which has another configuration, may not be refused.
    Refused,
    /// A node reports that the origin refuses. A node's report is not enough: this agent asks the origin itself.
    Hearsay,
    /// A seed reports that the origin refuses. Another seed may not agree; if none can be asked, that is the answer, and the origin is not asked again.
    Word(FetchError),
    /// Another node has retried the origin for long enough: this node need not retry it for as long.
    OriginAway,
}

impl Swarms {
    /// Opens a source through the nodes. Agents that could not lead are added to `troubles`, with the reason. Unless `patient` (a seed has waited for the
    /// origin without success), only agents that hold everything are asked.
    pub(super) async fn open_by_nodes(
        self: &Arc<Self>,
        source: &Source,
        caller: Caller<'_>,
        patient: bool,
        troubles: &mut Vec<String>,
    ) -> Result<Settled, FetchError> {
        if self.is_all_here(source, caller.credentials).await? {
            return Ok(Settled::NotHere);
        }
        let has_asked = !troubles.is_empty();
        let (fleet, key) = (&self.house.fleet, source.record_key(&Credentials::none()));
        let blob = source.own_blob();
        let (mut asked, mut words) = (HashSet::new(), SeedsWords::default());
        for _ in 0..MAX_SURVEYS {
            let survey = fleet.survey_without(key, blob, asked.clone()).await;
            let (seeds, me) = (rendezvous::ranking(&key.0, &survey.found_seeds), self.house.context.me);
            let nodes = match patient {
                true => survey.candidates(key, me),
                false => survey.heard.holders.clone(),
            };
            // If this agent has no space for the blob, another one may have it.
            let has_no_room = patient && self.house.context.expansions.lacks_room(source);
            let others = if has_no_room { survey.behind(key, me) } else { Vec::new() };
            let candidates = seeds.into_iter().chain(nodes).chain(others);
            let (surveyed, mut refusals) = (self.house.context.now(), 0);
            for lead in candidates.filter(|lead| self.may_lead(*lead, source)) {
                if self.silent.has(lead, self.house.context.now()) || !asked.insert(lead) {
                    continue;
                }
                if !survey.found_seeds.contains(&lead) {
                    words.believe()?;
                }
                match self.try_lead(lead, source, caller, troubles).await? {
                    Settled::Transfer(transfer) => {
                        let why = if has_asked { "no seed could take it on" } else { "no seed is connected" };
                        self.follow_also(&transfer, lead, &survey.holders, why);
                        return Ok(Settled::Transfer(transfer));
                    }
                    Settled::OriginAway => return Ok(Settled::OriginAway),
                    Settled::NotHere => {}
                    Settled::Hearsay => return Ok(Settled::NotHere),
                    Settled::Word(error) => words.add(error)?,
                    Settled::Refused => {
                        refusals += 1;
                        if refusals == MAX_REFUSALS {
                            return Ok(Settled::NotHere);
                        }
                    }
                }
            }
            // If an answer took long, another agent may lead by now.
            if self.house.context.now().since(surveyed) < SURVEY_LASTS {
                break;
            }
        }
        words.believe()?;
        Ok(Settled::NotHere)
    }

    /// Notes why this node follows an agent that was found, and connects with the others that hold everything.
    pub(super) fn follow_also(&self, transfer: &Arc<Transfer>, lead: NodeId, holders: &[PeerInfo], why: &str) {
        transfer.note(format!("{why}; {} leads", self.house.fleet.address(lead)));
        let others: Vec<_> = holders.iter().filter(|info| info.node != lead).cloned().collect();
        transfer.meet_also(&others);
    }

    /// Asks one agent to lead.
    pub(super) async fn try_lead(
        self: &Arc<Self>,
        lead: NodeId,
        source: &Source,
        caller: Caller<'_>,
        troubles: &mut Vec<String>,
    ) -> Result<Settled, FetchError> {
        let asked = self.house.context.now();
        let (text, settled) = match self.join(lead, source, caller).await {
            Ok(transfer) => return Ok(Settled::Transfer(transfer)),
            Err(Refused::Word(error) | Refused::Final(error)) if !self.house.fleet.is_seed(lead) => {
                (error.to_string(), Settled::Hearsay)
            }
            Err(Refused::Word(error)) => {
                (error.to_string(), Settled::Word(error.said_by(&self.house.fleet.title(lead))))
            }
            Err(Refused::Final(error)) => return Err(error),
            Err(Refused::Origin(text)) => {
                let has_tried = was_patient(self.house.context.now().since(asked));
                (text, if has_tried { Settled::OriginAway } else { Settled::NotHere })
            }
            Err(Refused::ToIt(text)) => (text, Settled::Refused),
            Err(Refused::Trouble(text)) => (text, Settled::NotHere),
        };
        let addr = self.house.fleet.address(lead);
        tracing::info!(node = addr, reason = text, "a node could not take on this download; trying the next one");
        troubles.push(format!("{addr}: {text}"));
        Ok(settled)
    }

    /// True if everything is here, or is being fetched: then no other agent need be asked.
    async fn is_all_here(&self, source: &Source, credentials: &Credentials) -> Result<bool, FetchError> {
        let Some(blob) = self.known_blob(source, credentials).await? else { return Ok(false) };
        Ok(self.get(blob).is_some() || self.stored(blob).await?.is_some_and(|stored| stored.is_complete()))
    }

    /// Opens a source for a member that asks this node to lead.
    pub(super) async fn open_as_node(
        self: &Arc<Self>,
        member: NodeId,
        source: &Source,
        caller: Caller<'_>,
        held: Option<BlobId>,
    ) -> Result<Arc<Transfer>, Failure> {
        let key = source.key();
        let (mut troubles, mut patient, mut words) = (Vec::new(), true, SeedsWords::default());
        for seed in rendezvous::ranking(&key.0, &self.house.fleet.seeds()) {
            if seed == member || !self.may_ask(seed, source, caller) {
                continue;
            }
            let joined = self.try_lead(seed, source, caller, &mut troubles).await;
            match joined.map_err(|error| failure_of(&error))? {
                Settled::Transfer(transfer) => return Ok(transfer),
                Settled::NotHere | Settled::Refused | Settled::Hearsay => {}
                Settled::OriginAway => patient = false,
                Settled::Word(error) => words.add(error).map_err(|first| failure_of(&first))?,
            }
        }
        words.believe().map_err(|word| failure_of(&word))?;
        if self.house.fleet.seeds().is_empty()
            && let Some(transfer) = self.open_by_lead(member, source, caller).await
        {
            return Ok(transfer);
        }
        match self.lead(source, caller, patient).await {
            Ok(transfer) => Ok(transfer),
            // This agent's configuration may be wrong, and the member may not need it or have a better one.
            Err(error) if error.is_of_access() && self.shows_own_keys(source, caller.credentials).await => {
                Err(refusal(format!("what is configured there does not open it: {error}")))
            }
            // Members of an existing swarm can go on among themselves while the origin fails.
            Err(error) if !error.is_final() || error.blame().fault == Fault::Origin => {
                let under_way = held.and_then(|blob| self.get(blob)).filter(|transfer| transfer.source == *source);
                let open = under_way.filter(|transfer| matches!(transfer.outcome(), Outcome::Open));
                open.ok_or_else(|| failure_of(&error))
            }
            Err(error) => Err(failure_of(&error)),
        }
    }

    /// Follows a node that leads already or holds everything, if there is one: a member that asks this node to lead may not know that node,
    /// and a member that asked every node would make each of them read the origin. Two nodes never wait for each other here: the node that is followed leads.
    async fn open_by_lead(
        self: &Arc<Self>,
        member: NodeId,
        source: &Source,
        Caller { credentials, requester, everything }: Caller<'_>,
    ) -> Option<Arc<Transfer>> {
        if self.is_all_here(source, credentials).await.unwrap_or(true) {
            return None;
        }
        let key = source.record_key(&Credentials::none());
        let blob = source.own_blob();
        let survey = self.house.fleet.survey_without(key, blob, HashSet::from([member])).await;
        let found = survey.heard.leads.iter().chain(&survey.heard.holders).copied();
        for lead in found.filter(|lead| self.may_lead(*lead, source)) {
            if self.silent.has(lead, self.house.context.now()) {
                continue;
            }
            // The join is completed even if the caller goes away, as with holders that seeds name.
            let (swarms, source, credentials) = (Arc::clone(self), source.clone(), credentials.clone());
            let asking = self.house.tasks.spawn(async move {
                let caller = Caller { credentials: &credentials, requester, everything };
                swarms.try_lead(lead, &source, caller, &mut Vec::new()).await
            });
            if let Ok(Ok(Ok(Settled::Transfer(transfer)))) = tokio::time::timeout(FOUND_TIMEOUT, asking).await {
                return Some(transfer);
            }
        }
        None
    }

    /// Answers a node that asks for this one's part in a swarm.
    pub(super) fn tell_part(self: &Arc<Self>, to: NodeId, request: u32, key: BlobId, blob: Option<BlobId>) {
        let Some(taken_up) = self.questions.take_up(to) else {
            let (part, seeds, nearest) = (SwarmPart::Nothing, Vec::new(), Vec::new());
            self.house.fleet.say(to, &Message::LeadIs { request, part, lead: None, seeds, nearest });
            return;
        };
        let swarms = Arc::clone(self);
        self.house.tasks.spawn(async move {
            let _taken_up = taken_up;
            let (part, lead) = swarms.part_in(key, blob).await;
            let lead = match (lead, blob, part) {
                (None, Some(blob), SwarmPart::Nothing | SwarmPart::Member) => swarms.known_holder(key, blob),
                (lead, ..) => lead,
            };
            let (seeds, nearest) = swarms.house.fleet.who_else(key);
            swarms.house.fleet.say(to, &Message::LeadIs { request, part, lead, seeds, nearest });
        });
    }

    async fn part_in(&self, key: BlobId, blob: Option<BlobId>) -> (SwarmPart, Option<PeerInfo>) {
        let nothing = (SwarmPart::Nothing, None);
        if self.is_draining() {
            return nothing;
        }
        let blob = match blob {
            Some(blob) => Some(blob),
            None => self.recall_key(key).await.ok().flatten().map(|record| record.blob),
        };
        let Some(blob) = blob else { return nothing };
        if let Some(transfer) = self.get(blob) {
            let leader = transfer.lead();
            let part = part_of(leader, transfer.is_complete());
            let lead = match leader {
                Lead::Node(lead) if part == SwarmPart::Member => self.house.fleet.peer(lead).map(|it| it.info()),
                _ => None,
            };
            return (part, lead);
        }
        match self.stored(blob).await.ok().flatten() {
            Some(stored) if stored.is_complete() => (SwarmPart::Holder, None),
            Some(stored) if !stored.held().is_empty() => (SwarmPart::Member, None),
            _ => nothing,
        }
    }
}
