//! Uploads. A node sends at most four pieces at a time; what is under way shares the sender's link in order, and the
//! receiver's link likewise. A slow receiver therefore holds a slot, not the link.

use std::time::Duration;

use darter_core::{Moment, PieceIndex};
use darter_swarm::{Event, RequestId};

use crate::fleet::Fleet;
use crate::node::{SLOTS, content, id_of};
use crate::queue::What;
use crate::uploads::Upload;

/// A piece on its way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transfer {
    pub(crate) from: u32,
    pub(crate) to: u32,
    from_life: u32,
    to_life: u32,
    id: u64,
    piece: PieceIndex,
    content: u64,
    /// Whether the lead chose the piece.
    granted: bool,
    /// When its first byte left.
    start: Moment,
}

impl Fleet {
    /// A request for a named piece reached a node.
    pub(crate) fn requested(&mut self, to: u32, from: u32, id: u64, piece: PieceIndex, urgent: bool) {
        let node = &mut self.nodes[to as usize];
        if !node.alive || node.hung {
            return;
        }
        if !node.holds(piece) {
            self.queue.push(self.now + self.latency, What::Failed { node: from, id });
            return;
        }
        node.uploads.push(from, Upload { request: id, piece: Some(piece), urgent });
        self.fill_slots(to);
    }

    /// Starts uploads while a node has free slots and something to send.
    pub(crate) fn fill_slots(&mut self, from: u32) {
        loop {
            let now = self.now;
            let node = &mut self.nodes[from as usize];
            if !node.alive || node.hung || !node.uploads.has_room(SLOTS) {
                return;
            }
            let Some((to, upload)) = node.uploads.take_next() else { return };
            let receiver = id_of(to);
            match (upload.piece, &mut node.lead) {
                (Some(piece), lead) => {
                    if let Some(lead) = lead {
                        lead.sending(receiver, piece, now);
                    }
                    self.send(from, to, &upload, piece);
                }
                (None, Some(lead)) => match lead.choose(receiver, now) {
                    Some(piece) => self.send(from, to, &upload, piece),
                    None => {
                        node.uploads.park(to, upload);
                        self.wake_lead(from);
                    }
                },
                (None, None) => node.uploads.pass(to),
            }
        }
    }

    fn send(&mut self, from: u32, to: u32, upload: &Upload, piece: PieceIndex) {
        let sent = self.nodes[from as usize].store[piece.as_usize()].expect("only what is held is sent");
        let honest = self.nodes[from as usize].honest;
        let (from_life, to_life) = (self.nodes[from as usize].life, self.nodes[to as usize].life);
        let transfer = Transfer {
            from,
            to,
            from_life,
            to_life,
            id: upload.request,
            piece,
            content: if honest { sent } else { !sent },
            granted: upload.piece.is_none(),
            start: self.nodes[from as usize].up_free.max(self.now),
        };
        let bytes = self.piece_bytes as f64;
        let sender = &mut self.nodes[from as usize];
        sender.uploads.start();
        let sent_at = transfer.start + Duration::from_secs_f64(bytes / sender.up);
        sender.up_free = sent_at;
        let at = self.free_transfers.pop().unwrap_or_else(|| {
            self.transfers.push(transfer);
            u32::try_from(self.transfers.len() - 1).expect("fewer transfers than 2^32")
        });
        self.transfers[at as usize] = transfer;
        self.queue.push(self.now + self.latency, What::Started(at));
        self.queue.push(sent_at, What::Sent(at));
    }

    /// The sender's link is done with a transfer; the receiver's takes its time too, from when the first bytes came.
    pub(crate) fn transfer_sent(&mut self, at: u32) {
        let transfer = self.transfers[at as usize];
        let receiver = &mut self.nodes[transfer.to as usize];
        let took = Duration::from_secs_f64(self.piece_bytes as f64 / receiver.down);
        let end = (receiver.down_free.max(transfer.start) + took).max(self.now);
        receiver.down_free = end;
        self.queue.push(end + self.latency, What::Ended(at));
    }

    fn is_void(&self, transfer: &Transfer) -> bool {
        let (from, to) = (&self.nodes[transfer.from as usize], &self.nodes[transfer.to as usize]);
        from.life != transfer.from_life
            || to.life != transfer.to_life
            || !from.alive
            || !to.alive
            || self.is_cut(transfer.from, transfer.to)
    }

    pub(crate) fn transfer_started(&mut self, at: u32) {
        let transfer = self.transfers[at as usize];
        if !self.is_void(&transfer) {
            let event = Event::Started { request: RequestId(transfer.id), piece: transfer.piece };
            self.tell(transfer.to, event);
        }
    }

    pub(crate) fn transfer_ended(&mut self, at: u32) {
        let transfer = self.transfers[at as usize];
        self.free_transfers.push(at);
        let sender = &mut self.nodes[transfer.from as usize];
        let same_life = sender.life == transfer.from_life;
        if same_life {
            sender.uploads.done(transfer.to);
        }
        let void = self.is_void(&transfer);
        if void {
            let receiver = self.nodes[transfer.to as usize].id;
            if let Some(lead) = self.nodes[transfer.from as usize].lead.as_mut().filter(|_| same_life) {
                lead.unsent(receiver, transfer.piece);
            }
        } else {
            self.arrived(&transfer);
        }
        self.fill_slots(transfer.from);
    }

    /// Checks what arrived, and stores it if it is right.
    fn arrived(&mut self, transfer: &Transfer) {
        let (to, piece) = (transfer.to, transfer.piece);
        self.note_arrival(transfer.from, to, piece);
        let request = Some(RequestId(transfer.id));
        if transfer.content != content(piece.0) {
            let peer = self.nodes[transfer.from as usize].id;
            let receiver = self.nodes[to as usize].id;
            if let Some(lead) = &mut self.nodes[transfer.from as usize].lead {
                lead.unsent(receiver, piece);
            }
            self.tell(to, Event::Corrupt { peer, request, piece });
            return;
        }
        if transfer.granted {
            // The lead's answers carry the hashes known so far.
            self.tell_manifest(to);
        }
        let fresh = self.put(to, piece, transfer.content);
        self.tell(to, Event::Received { request, piece, bytes: self.piece_bytes });
        if fresh {
            self.stored(to, piece);
        } else {
            self.report.duplicates += 1;
        }
    }

    /// Forgets what `to` waits for at `from`.
    pub(crate) fn drop_queued(&mut self, from: u32, to: u32) {
        self.nodes[from as usize].uploads.forget(to);
    }
}
