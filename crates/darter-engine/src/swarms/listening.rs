//! Passes each message of a peer to the transfer, request or list that it is about. Decides nothing, and never blocks.

use std::sync::Arc;

use async_trait::async_trait;
use darter_core::{BlobId, NodeId, PieceIndex};
use darter_fleet::{Peer, PeerListener};
use darter_registries::Registries;
use darter_swarm::{Input, RequestId};
use darter_wire::{Answer, Message};

use super::Swarms;
use crate::error::FetchError;
use crate::joins::{JoinQuestion, Joined, NotJoined};
use crate::transfer::Transfer;

/// [`Swarms`] as the fleet's listener, which needs a shared handle for its answers.
pub struct ListeningSwarms {
    /// The swarms.
    pub swarms: Arc<Swarms>,
    /// Answers requests about registries; `None` in an agent that runs for one download.
    pub registries: Option<Arc<Registries>>,
}

impl ListeningSwarms {
    /// The blob's transfer, also if it is over. Nobody uses it by asking.
    fn transfer(&self, blob: BlobId) -> Option<Arc<Transfer>> {
        self.swarms.transfers.lock().get(&blob).map(|entry| Arc::clone(&entry.transfer))
    }

    /// Passes on a question or an answer about registries.
    fn said_of_registries(&self, from: NodeId, message: Message) {
        let Some(registries) = &self.registries else { return };
        match message {
            Message::AskRegistry { request, question } => registries.asked(from, request, question, None),
            Message::AskRegistryKnown { request, question, proof } => {
                registries.asked_for_known(from, request, question, proof);
            }
            Message::AskRegistryAlike { request, question, proof } => {
                registries.asked(from, request, question, Some(proof));
            }
            Message::RegistryIs { request, answer } => registries.answered(from, request, answer),
            _ => {}
        }
    }
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
            Message::Join { request, source, credentials, held, wants: everything, size } => {
                swarms.asked_to_admit(from, request, JoinQuestion { source, credentials, held, everything, size });
            }
            Message::Joined { .. } => {
                if let Some((request, joined)) = Joined::heard(message) {
                    swarms.joined(from, request, joined);
                }
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
            | Message::InOrder { blob, .. }
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
            Message::AskRegistry { .. }
            | Message::AskRegistryKnown { .. }
            | Message::AskRegistryAlike { .. }
            | Message::RegistryIs { .. } => self.said_of_registries(from, message),
        }
    }

    fn begun(&self, blob: BlobId, request: RequestId, piece: PieceIndex) {
        if let Some(transfer) = self.transfer(blob) {
            transfer.tell(Input::Begun { request, piece });
        }
    }

    async fn answered(&self, from: &Peer, blob: BlobId, request: RequestId, answer: Answer) {
        if let Some(transfer) = self.transfer(blob) {
            transfer.answered(from, request, answer).await;
        }
    }

    fn unanswered(&self, _: NodeId, blob: BlobId, request: RequestId) {
        if let Some(transfer) = self.transfer(blob) {
            transfer.tell(Input::Unanswered { request });
        }
    }
}
