//! Passes each message of a peer to the transfer, request or list that it is about. Decides nothing, and never blocks.

use std::sync::Arc;

use async_trait::async_trait;
use darter_core::{BlobId, NodeId, PieceIndex, Source};
use darter_fleet::{Peer, PeerListener};
use darter_registries::Registries;
use darter_swarm::{Input, RequestId};
use darter_wire::{Answer, Message};

use super::{Swarms, refusal};
use crate::error::FetchError;
use crate::joins::{Joined, NotJoined};
use crate::transfer::dissolve::refuse;

/// [`Swarms`] as the fleet's listener, which needs a shared handle for its answers.
pub struct ListeningSwarms {
    /// The swarms.
    pub swarms: Arc<Swarms>,
    /// Answers requests about registries; `None` in an agent that runs for one download.
    pub registries: Option<Arc<Registries>>,
}

#[async_trait]
impl PeerListener for ListeningSwarms {
    fn peer_up(&self, peer: &Peer) {
        if peer.is_seed() {
            self.swarms.tell_inventory(peer.hello.node);
        }
        for transfer in self.swarms.all() {
            transfer.peer_came(peer.hello.node, peer.is_seed());
        }
    }

    fn peer_down(&self, node: NodeId) {
        self.swarms.house.joins.gone(node);
        self.swarms.inventory.gone(node);
        if let Some(registries) = &self.registries {
            registries.gone(node);
        }
        self.swarms.strangers.lock().values_mut().for_each(|met| met.said.retain(|(from, _)| *from != node));
        for transfer in self.swarms.all() {
            transfer.peer_gone(node);
        }
    }

    fn not_reached(&self, node: NodeId) {
        for transfer in self.swarms.all() {
            transfer.tell(Input::Unreached(node));
        }
    }

    fn said(&self, from: NodeId, message: Message) {
        let swarms = &self.swarms;
        match message {
            Message::Join { request, source, credentials, held, wants, size } => {
                let swarms = Arc::clone(swarms);
                let Some(taken_up) = swarms.questions.take_up(from) else {
                    let failure =
                        refusal("too many of your requests are in progress: ask again when some are answered");
                    swarms.house.fleet.say(from, &Message::Rejected { request, failure });
                    return;
                };
                let named_size = match (&source, size) {
                    (Source::Expanded(layer), Some(size)) => {
                        let before = swarms.house.context.expansions.names_size(&layer.digest, size);
                        Some((layer.digest, size, before))
                    }
                    _ => None,
                };
                let house_tasks = swarms.house.tasks.clone();
                house_tasks.spawn(async move {
                    let _taken_up = taken_up;
                    let (wanted, caller) = (source.clone(), credentials.clone());
                    let named = held.as_ref().map(|held| held.blob);
                    match swarms.open_saying_so(from, request, source, credentials, named, wants).await {
                        Ok(transfer) => {
                            swarms.count_use(transfer.blob);
                            transfer.small_is_whole().await;
                            let held = held.filter(|held| held.blob == transfer.blob).map(|held| held.pieces);
                            if let Err(error) = transfer.admit(from, request, &held.unwrap_or_default(), wants).await {
                                refuse(&swarms.house.fleet, from, Some(request), transfer.blob, &error);
                            }
                        }
                        Err(failure) => {
                            if let Some((layer, size, before)) = named_size {
                                swarms.house.context.expansions.takes_size_back(&layer, size, before);
                            }
                            let fleet = &swarms.house.fleet;
                            match (swarms.setback(&wanted, &caller, swarms.house.context.me), wanted.named_blob()) {
                                (Some(error), Some(blob)) => refuse(fleet, from, Some(request), blob, &error),
                                _ => {
                                    fleet.say(from, &Message::Rejected { request, failure });
                                }
                            }
                        }
                    }
                });
            }
            Message::Joined {
                request,
                blob,
                version,
                piece_length,
                length,
                hashes,
                key,
                members_ask,
                proof,
                neighbours,
                verdict,
                whole,
            } => {
                let joined = Joined {
                    blob,
                    version,
                    piece_length,
                    length,
                    hashes,
                    key,
                    members_ask,
                    proof,
                    neighbours,
                    verdict,
                    whole,
                };
                swarms.joined(from, request, joined);
            }
            Message::Rejected { request, failure } => {
                swarms.house.joins.answer(from, request, Err(NotJoined::Rejected(failure)));
            }
            Message::Refuted { request: Some(request), expected, got, reader, .. } => {
                let error = FetchError::refuted(expected, got, reader);
                swarms.house.joins.answer(from, request, Err(NotJoined::Refuted(error)));
            }
            Message::Leave { blob }
            | Message::Report { blob, .. }
            | Message::Grew { blob, .. }
            | Message::Neighbours { blob, .. }
            | Message::Whole { blob, .. }
            | Message::Dissolved { blob, .. }
            | Message::Refuted { request: None, blob, .. }
            | Message::Failed { blob, .. }
            | Message::Meet { blob, .. }
            | Message::Have { blob, .. }
            | Message::AskHashes { blob, .. }
            | Message::Run { blob, .. }
            | Message::Want { blob, .. }
            | Message::Lost { blob, .. }
            | Message::Unreached { blob, .. }
            | Message::Touched { blob, .. }
            | Message::Profile { blob, .. }
            | Message::Naming { blob, .. }
            | Message::Part { blob } => swarms.hear(blob, from, message),
            Message::Waiting { request } => swarms.house.joins.waits(from, request),
            Message::Inventory { blobs } => swarms.inventory.told(from, &blobs),
            // Only earlier releases ask the request for this answer: a manifest is never taken from a peer.
            Message::ManifestIs { .. } => {}
            Message::AskManifest { request, blob } => swarms.tell_manifest(from, request, blob),
            Message::AskLead { request, key, blob } => swarms.tell_part(from, request, key, blob),
            // The fleet itself handles these.
            Message::AskPeers
            | Message::Peers { .. }
            | Message::Seeds { .. }
            | Message::LeadIs { .. }
            | Message::SameId { .. } => {}
            Message::AskRegistry { request, question } => {
                if let Some(registries) = &self.registries {
                    registries.asked(from, request, question, None);
                }
            }
            Message::AskRegistryKnown { request, question, proof } => {
                if let Some(registries) = &self.registries {
                    registries.asked_for_known(from, request, question, proof);
                }
            }
            Message::AskRegistryAlike { request, question, proof } => {
                if let Some(registries) = &self.registries {
                    registries.asked(from, request, question, Some(proof));
                }
            }
            Message::RegistryIs { request, answer } => {
                if let Some(registries) = &self.registries {
                    registries.answered(from, request, answer);
                }
            }
        }
    }

    fn begun(&self, blob: BlobId, request: RequestId, piece: PieceIndex) {
        let transfer = self.swarms.transfers.lock().get(&blob).map(|entry| Arc::clone(&entry.transfer));
        if let Some(transfer) = transfer {
            transfer.tell(Input::Begun { request, piece });
        }
    }

    async fn answered(&self, from: &Peer, blob: BlobId, request: RequestId, answer: Answer) {
        let transfer = self.swarms.transfers.lock().get(&blob).map(|entry| Arc::clone(&entry.transfer));
        if let Some(transfer) = transfer {
            transfer.answered(from, request, answer).await;
        }
    }

    fn unanswered(&self, _: NodeId, blob: BlobId, request: RequestId) {
        let transfer = self.swarms.transfers.lock().get(&blob).map(|entry| Arc::clone(&entry.transfer));
        if let Some(transfer) = transfer {
            transfer.tell(Input::Unanswered { request });
        }
    }
}
