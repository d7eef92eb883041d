//! Uploads to peers: pieces of blobs that are being fetched, and of blobs that were completed long ago and are only
//! stored. The piece is chosen when there is room to send it, so that a lead gives what is rarest *then*.
//!
//! A verified piece in the page cache is sent at once; for any other, a disk thread reads and hashes it first, as for all pieces after a restart,
//! and it is sent when it is ready. A piece of an expanded layer may be sent [packed](crate::packing).

use std::sync::Arc;

use bytes::Bytes;
use darter_core::layer::expanded_name;
use darter_core::{BlobId, NodeId, PieceIndex, Tier, in_full};
use darter_metrics::Packed;
use darter_store::{PieceFile, StoredBlob};
use darter_wire::{Bind, Later, Message, Payload, Request, Sent, Uploads, Wanted};
use tokio::sync::watch;

use super::{RestingBlob, ServedBlob, ServedState, Swarms};
use crate::packing::Way;
use crate::transfer::Transfer;

/// Most blobs without a transfer that are open for peers; ids that a peer makes up count, too.
const MAX_SERVED: usize = 4096;

/// Asks a connection how many bytes it takes in a second; `None` if the piece has to be sent plain.
type Rate<'a> = Option<&'a dyn Fn() -> Option<u64>>;

/// [`Swarms`] as the source of pieces for the wire.
pub struct GivingSwarms(pub Arc<Swarms>);

impl Uploads for GivingSwarms {
    fn bind(&self, peer: NodeId, request: &Request, rate: &dyn Fn() -> Option<u64>) -> Bind {
        let (swarms, &Request { blob, wanted, takes_packed, .. }) = (&self.0, request);
        let transfer = swarms.get(blob);
        let rate: Rate<'_> = takes_packed.then_some(rate);
        match (wanted, transfer) {
            (Wanted::Any, None) => Bind::UnknownBlob,
            (Wanted::Any, Some(transfer)) => match transfer.choose_for(peer, || !swarms.has_fresh_for(peer, blob)) {
                Ok(Some(piece)) => {
                    let stored = Arc::clone(&transfer.stored);
                    let rate = rate.filter(|_| transfer.is_expanded());
                    swarms.give(&stored, Gift { of: Some(transfer), peer, piece, chosen: true }, rate)
                }
                Ok(None) => Bind::Wait,
                Err(()) => Bind::Refused,
            },
            (Wanted::Piece(piece), Some(transfer)) => {
                if !transfer.stored.holds(piece) {
                    return Bind::NotHeld;
                }
                let stored = Arc::clone(&transfer.stored);
                let rate = rate.filter(|_| transfer.is_expanded());
                swarms.give(&stored, Gift { of: Some(transfer), peer, piece, chosen: false }, rate)
            }
            (Wanted::Piece(piece), None) => swarms.from_shelf(blob, peer, piece, rate),
        }
    }

    fn goes_last(&self, peer: NodeId, blob: BlobId, piece: PieceIndex) -> bool {
        self.0.get(blob).is_some_and(|transfer| transfer.goes_last(peer, piece))
    }

    fn sent(&self, peer: NodeId, blob: BlobId, piece: PieceIndex, sent: Option<Sent>) {
        let swarms = &self.0;
        let transfer = swarms.transfers.lock().get(&blob).map(|entry| Arc::clone(&entry.transfer));
        let Some(sent) = sent else {
            if let Some(transfer) = transfer {
                transfer.not_sent(peer, piece);
            }
            return;
        };
        swarms.count_sent(peer, sent);
        if let Some(transfer) = transfer {
            transfer.count_sent(peer, sent.plain);
        }
    }

    fn changes(&self) -> watch::Receiver<()> {
        self.0.house.sendable.subscribe()
    }
}

impl Swarms {
    /// True if some other blob has a piece for this peer that no peer has yet. If many blobs are being transferred, a second copy of a piece must not
    /// take the link from the first copy of another.
    fn has_fresh_for(&self, peer: NodeId, besides: BlobId) -> bool {
        let (transfers, now) = (self.all(), self.house.context.now());
        transfers.iter().any(|transfer| transfer.blob != besides && transfer.has_fresh_for(peer, now))
    }

    /// Gives a held piece: at once if it can be sent, else when the disk has read it and its hash is right. With a `rate` it may be
    /// sent packed.
    fn give(&self, stored: &Arc<dyn StoredBlob>, gift: Gift, rate: Rate<'_>) -> Bind {
        let context = &self.house.context;
        let way = rate.map_or(Way::Plain, |rate| context.packed.way(&**stored, gift.piece, rate()));
        match way {
            Way::Packed(packed) => return gift.end(Some(Payload::Packed(packed))),
            Way::ToPack(hash) => {
                let (context, stored) = (Arc::clone(context), Arc::clone(stored));
                return Bind::Later(Later::new(async move {
                    let (disk, piece) = (&context.disk, gift.piece);
                    let packed = context.packed.pack(disk, Arc::clone(&stored), piece, hash).await;
                    let payload = match packed {
                        Some(packed) => Some(Payload::Packed(packed)),
                        None => disk.run(move || payload(&*stored, piece)).await,
                    };
                    gift.end(payload)
                }));
            }
            Way::Plain => {}
        }
        if let Some(part) = stored.ready_file(gift.piece) {
            return gift.end(Some(file(part)));
        }
        let (stored, piece) = (Arc::clone(stored), gift.piece);
        let reading = self.house.context.disk.run(move || payload(&*stored, piece));
        Bind::Later(Later::new(async move { gift.end(reading.await) }))
    }

    /// A piece of a blob that has no transfer. Opening the blob takes a disk access, so the first request waits for that.
    fn from_shelf(self: &Arc<Self>, blob: BlobId, peer: NodeId, piece: PieceIndex, rate: Rate<'_>) -> Bind {
        let now = self.house.context.now();
        let mut served = self.served.lock();
        let evicted =
            |kept: &ServedBlob| matches!(&kept.state, ServedState::Open(shared, _) if shared.0.is_discarded());
        if served.get(&blob).is_some_and(evicted) {
            served.remove(&blob);
        }
        if let Some(kept) = served.get_mut(&blob) {
            kept.used = now;
            return match &kept.state {
                ServedState::Open(shared, may_be_packed) => {
                    let (stored, rate) = (Arc::clone(&shared.0), rate.filter(|_| *may_be_packed));
                    drop(served);
                    self.give(&stored, Gift { of: None, peer, piece, chosen: false }, rate)
                }
                ServedState::Opening => Bind::Wait,
                ServedState::Absent => Bind::UnknownBlob,
            };
        }
        if served.len() >= MAX_SERVED {
            // Made-up ids must not displace blobs that are here.
            served.retain(|_, kept| !matches!(kept.state, ServedState::Absent));
            if served.len() >= MAX_SERVED {
                return Bind::Busy;
            }
        }
        served.insert(blob, ServedBlob { state: ServedState::Opening, used: now });
        drop(served);
        let swarms = Arc::clone(self);
        self.house.tasks.spawn(async move { swarms.shelve(blob).await });
        Bind::Wait
    }

    /// Counts a piece that was sent to a peer: the bytes that crossed the wire.
    fn count_sent(&self, to: NodeId, sent: Sent) {
        let context = &self.house.context;
        context.metrics.peer_sent_bytes.inc_by(sent.wire);
        if sent.wire != sent.plain {
            context.metrics.packed(Packed::Sent, sent.plain, sent.wire);
        }
        let tier = self.house.fleet.peer(to).map_or(Tier::Far, |peer| peer.tier);
        context.tiers.went(tier, sent.wire);
    }

    /// Opens a stored blob for peers.
    async fn shelve(&self, blob: BlobId) {
        let stored = self.stored(blob).await.unwrap_or_else(|error| {
            tracing::warn!(blob = %blob.short(), error = %in_full(&error), "a blob could not be opened for a peer");
            None
        });
        let state = match stored {
            Some(stored) => {
                let may_be_packed = expanded_name(&stored.info().name).is_some();
                ServedState::Open(RestingBlob::new(stored), may_be_packed)
            }
            None => ServedState::Absent,
        };
        let used = self.house.context.now();
        self.served.lock().insert(blob, ServedBlob { state, used });
        self.house.sendable.send_replace(());
    }

    /// Tells a newcomer which pieces are stored here of a blob without a transfer.
    pub(super) fn meet_from_shelf(self: &Arc<Self>, blob: BlobId, newcomer: NodeId) {
        let Some(taken_up) = self.questions.take_up(newcomer) else { return };
        let swarms = Arc::clone(self);
        self.house.tasks.spawn(async move {
            let _taken_up = taken_up;
            if let Ok(Some(stored)) = swarms.stored(blob).await {
                // Without a transfer no proof of hashes can be sent, so the newcomer should not ask for hashes here.
                let meet = Message::Meet { blob, held: stored.held(), known: 0, wants: false };
                swarms.house.fleet.say(newcomer, &meet);
            }
        });
    }
}

/// A piece that is about to be sent. If it is dropped before that, it counts as not sent.
struct Gift {
    /// The transfer of its blob, if there is one.
    of: Option<Arc<Transfer>>,
    peer: NodeId,
    piece: PieceIndex,
    /// True if the transfer chose it, and counts it as being sent.
    chosen: bool,
}

impl Gift {
    /// The answer to the peer, after the store has been asked.
    fn end(mut self, payload: Option<Payload>) -> Bind {
        let (peer, piece) = (self.peer, self.piece);
        let chosen = std::mem::take(&mut self.chosen);
        match (payload, &self.of) {
            (Some(payload), of) => {
                if let Some(transfer) = of.as_ref().filter(|_| !chosen) {
                    transfer.sending(peer, piece);
                }
                Bind::Send { piece, payload }
            }
            (None, Some(transfer)) => {
                if chosen {
                    transfer.not_sent(peer, piece);
                }
                transfer.could_not_give(piece);
                Bind::NotHeld
            }
            (None, None) => Bind::NotHeld,
        }
    }
}

impl Drop for Gift {
    fn drop(&mut self) {
        if let Some(transfer) = self.of.take().filter(|_| self.chosen) {
            transfer.not_sent(self.peer, self.piece);
        }
    }
}

fn file(PieceFile { file, range }: PieceFile) -> Payload {
    let length = u32::try_from(range.len()).expect("at most 16 MiB");
    Payload::File { file, offset: range.start(), length }
}

/// The bytes of a held piece, verified and in memory; `None` if it can't be read. Blocking.
fn payload(stored: &dyn StoredBlob, piece: PieceIndex) -> Option<Payload> {
    match stored.piece_file(piece).ok()? {
        Some(part) => Some(file(part)),
        None => {
            let mut bytes = Vec::new();
            stored.read_piece(piece, &mut bytes).ok()?;
            Some(Payload::Bytes(Bytes::from(bytes)))
        }
    }
}
