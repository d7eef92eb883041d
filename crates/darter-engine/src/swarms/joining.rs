//! Asks another agent to let this one into the swarm of a source, and acts on its answer.

use std::sync::Arc;

use darter_core::source::Credentials;
use darter_core::{Manifest, NodeId, Source};
use darter_origin::Requester;
use darter_swarm::Guilt;
use darter_wire::{Held, Message};

use super::Swarms;
use super::access::Caller;
use super::refused::Refused;
use crate::error::FetchError;
use crate::joins::{Entered, JoinQuestion, Joined, NotJoined, WAITING_EVERY};
use crate::setbacks::key_of;
use crate::transfer::dissolve::told_wrong;
use crate::transfer::{Beginning, Transfer};

impl Swarms {
    pub(super) async fn join(
        self: &Arc<Self>,
        seed: NodeId,
        source: &Source,
        caller: Caller<'_>,
    ) -> Result<Arc<Transfer>, Refused> {
        self.join_if(seed, source, caller, |_| true).await
    }

    /// Joins the swarm of a source for which this agent's stored content is not proven. This needs a seed that has all of the content, checked: a seed that has
    /// nothing lets in every agent that names a registry that has begun to answer.
    pub(super) async fn join_proven(
        self: &Arc<Self>,
        seed: NodeId,
        source: &Source,
        caller: Caller<'_>,
    ) -> Result<Arc<Transfer>, Refused> {
        self.join_if(seed, source, caller, |entered| match entered {
            Entered::New(joined) => joined.verdict.is_some(),
            Entered::Followed { is_same, is_checked, .. } => *is_checked && *is_same == Some(true),
        })
        .await
    }

    pub(super) async fn join_if(
        self: &Arc<Self>,
        seed: NodeId,
        source: &Source,
        caller: Caller<'_>,
        is_enough: impl Fn(&Entered) -> bool,
    ) -> Result<Arc<Transfer>, Refused> {
        let Caller { credentials, everything, .. } = caller;
        if let Some(error) = self.setback(source, credentials, seed) {
            return Err(Refused::Trouble(error.to_string()));
        }
        let is_seed = self.house.fleet.is_seed(seed);
        let (context, key) = (&self.house.context, key_of(source, credentials));
        if context.let_downs.lock().is_barred(key, seed, is_seed, context.now()) {
            return Err(Refused::Trouble("agents that led it gave nothing".to_owned()));
        }
        let on_trust = self.leads_on_trust(seed);
        let held = if on_trust { None } else { self.held_of(source, credentials).await? };
        let (credentials_shown, size) = (credentials.clone(), context.expansions.named_size(source));
        let asked = JoinQuestion { source: source.clone(), credentials: credentials_shown, held, everything, size };
        let asked = self.house.joins.ask(&self.house.fleet, seed, asked);
        let most = context.most_waiting(is_seed) + WAITING_EVERY;
        let answered = tokio::time::timeout(most, asked).await;
        let answer = match answered.unwrap_or(Err(NotJoined::Silent)) {
            Ok(answer) => answer,
            Err(refusal) => {
                if matches!(refusal, NotJoined::Silent) && !is_seed {
                    self.silent.note(seed, context.now());
                }
                let (text, origins) = (refusal.to_string(), refusal.is_of_the_origin());
                let otherwise = if origins { Refused::Origin(text) } else { Refused::Trouble(text) };
                return Err(match refusal.final_word() {
                    Some(wrong @ FetchError::WrongDigest { .. }) => {
                        self.read_wrong_by(seed, (source, credentials), wrong);
                        otherwise
                    }
                    Some(word) if word.is_of_access() && self.shows_own_keys(source, credentials).await => {
                        Refused::ToIt(word.to_string())
                    }
                    word => word.map_or(otherwise, Refused::Word),
                });
            }
        };
        let (blob, is_new) = match &answer {
            Entered::New(joined) => (joined.blob, true),
            Entered::Followed { blob, .. } => (*blob, false),
        };
        let taken = self.take(seed, source, caller, answer, is_enough).await;
        if taken.is_err() {
            self.early.lock().remove(&blob);
            if is_new {
                // Otherwise the lead would keep a member, and ask it for pieces, that has no transfer.
                self.house.fleet.say(seed, &Message::Leave { blob });
            }
        }
        taken
    }

    /// Handles a lead's answer, if it is for the requested content. Returns the transfer that follows the lead.
    async fn take(
        self: &Arc<Self>,
        seed: NodeId,
        source: &Source,
        caller: Caller<'_>,
        answer: Entered,
        is_enough: impl Fn(&Entered) -> bool,
    ) -> Result<Arc<Transfer>, Refused> {
        let Caller { credentials, everything, .. } = caller;
        let (blob, is_same) = match &answer {
            Entered::New(joined) => {
                let stored = self.stored(joined.blob).await?;
                (joined.blob, stored.map_or(Some(true), |stored| joined.is_same(&*stored)))
            }
            Entered::Followed { blob, is_same, .. } => (*blob, *is_same),
        };
        let is_other = match source {
            Source::Registry { .. } | Source::Expanded(_) => source.own_blob() != Some(blob),
            Source::Url { .. } if is_same.is_none() => !self.has_fetched(source, credentials, blob).await?,
            Source::Url { .. } => is_same == Some(false),
        };
        let is_seed = self.house.fleet.is_seed(seed);
        let is_made_up = match &answer {
            Entered::New(joined) if !is_seed => !self.agrees(source, caller, joined.length).await,
            _ => false,
        };
        if is_made_up {
            let context = &self.house.context;
            context.let_downs.lock().note(key_of(source, credentials), seed, is_seed, Guilt::Sure, context.now());
        }
        let is_other = is_other || is_made_up;
        if is_other || !is_enough(&answer) {
            let text = match source {
                Source::Url { .. } if is_other => NotJoined::Otherwise.to_string(),
                _ => "it does not hold all of what was asked for".to_owned(),
            };
            return Err(Refused::Trouble(text));
        }
        let joined = match answer {
            Entered::New(joined) => *joined,
            Entered::Followed { .. } => {
                // The blob's transfer existed, and follows the seed already.
                let known = self.get(blob);
                let transfer = known.ok_or_else(|| Refused::Trouble("the blob was removed meanwhile".to_owned()))?;
                // A lead may let in two agents that asked for different registries. Bytes from an untrusted registry show that the other registry has the
                // same only once the lead has checked the whole.
                if transfer.source != *source && !self.may_come_to_this(&transfer) && !transfer.has_verdict() {
                    return Err(Refused::Final(FetchError::Unproven { name: source.to_string() }));
                }
                transfer.renew_credentials(source, credentials.clone());
                self.proven(source);
                if matches!(source, Source::Url { .. }) {
                    self.remember_joined(source, credentials, blob, &transfer.version);
                }
                return Ok(transfer);
            }
        };
        self.enter(seed, source, (credentials, everything), joined).await.map_err(|error| {
            // If the blob can't be stored, a node may have made up its length.
            if is_seed { error.into() } else { Refused::Trouble(error.to_string()) }
        })
    }

    /// Makes the transfer for which a lead let this agent in, and follows the lead.
    pub(super) async fn enter(
        self: &Arc<Self>,
        seed: NodeId,
        source: &Source,
        (credentials, everything): (&Credentials, bool),
        joined: Joined,
    ) -> Result<Arc<Transfer>, FetchError> {
        let (blob, version) = (joined.blob, joined.version.clone());
        let manifest = Manifest::new(joined.piece_length, joined.length);
        let on_trust = self.leads_on_trust(seed);
        let _turn = self.beginnings.turn(blob).await;
        let stored = self.create(blob, source, &version, manifest, on_trust).await?;
        if matches!(source, Source::Url { .. }) {
            self.remember_joined(source, credentials, blob, &version);
        }
        if on_trust {
            self.proven(source);
        }
        // The kind of requester of each caller is noted once the transfer
        // exists.
        let requester = Requester::Here;
        let beginning = Beginning {
            source: source.clone(),
            version,
            credentials: credentials.clone(),
            requester,
            stored,
            everything,
            on_trust,
        };
        Ok(self.register(Transfer::begin(&self.house, beginning).await, Some((seed, joined))))
    }

    pub(super) async fn held_of(&self, source: &Source, credentials: &Credentials) -> Result<Option<Held>, FetchError> {
        let Some(blob) = self.known_blob(source, credentials).await? else { return Ok(None) };
        let stored = self.stored(blob).await?;
        // An unfinished part from an untrusted registry is thrown away when this source's transfer begins.
        let is_begun = self.get(blob).is_some();
        let kept = stored.filter(|it| is_begun || it.is_complete() || self.may_go_on_with(it, source));
        Ok(kept.map(|stored| Held { blob, pieces: stored.held() }).filter(|held| !held.pieces.is_empty()))
    }

    /// An agent that was asked to lead read the origin, and got other content than the source's name says.
    pub(super) fn read_wrong_by(
        &self,
        lead: NodeId,
        (source, credentials): (&Source, &Credentials),
        mut error: FetchError,
    ) {
        let culprit = told_wrong(source, &self.house.fleet, lead, &error);
        let (FetchError::WrongDigest { from, .. }, Some(blob)) = (&mut error, source.named_blob()) else { return };
        from.clone_from(&culprit.from);
        self.house.context.wrong_content(key_of(source, credentials), blob, &culprit, &error);
    }
}
