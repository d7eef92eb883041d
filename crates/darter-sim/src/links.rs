//! Uploads. A node sends at most four pieces at a time; what is under way shares the sender's link in order, and the
//! receiver's link likewise. A slow receiver therefore holds a slot, not the link.

use std::time::Duration;

use darter_core::PieceIndex;
use darter_swarm::{Event, RequestId};

use crate::fleet::Fleet;
use crate::node::{Waiting, content, id_of, index_of};
use crate::queue::What;

/// Pieces that a node sends at a time.
const SLOTS: u32 = 4;

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
        let waiting = Waiting { to: from, id, piece, urgent };
        if urgent {
            node.queue.push_front(waiting);
        } else {
            node.queue.push_back(waiting);
        }
        self.fill_slots(to);
    }

    /// Starts uploads while a node has free slots and something to send.
    pub(crate) fn fill_slots(&mut self, from: u32) {
        loop {
            let now = self.now;
            let node = &mut self.nodes[from as usize];
            if !node.alive || node.hung || node.uploads >= SLOTS {
                return;
            }
            if let Some(waiting) = node.queue.pop_front() {
                if let Some(lead) = &mut node.lead {
                    lead.sending(id_of(waiting.to), waiting.piece, now);
                }
                self.send(from, waiting, false);
                continue;
            }
            let Some(lead) = &mut node.lead else { return };
            let Some(grant) = lead.serve(now) else {
                self.wake_lead(from);
                return;
            };
            let waiting = Waiting { to: index_of(grant.node), id: grant.ask, piece: grant.piece, urgent: false };
            self.send(from, waiting, true);
        }
    }

    fn send(&mut self, from: u32, waiting: Waiting, granted: bool) {
        let to = waiting.to;
        let sent = self.nodes[from as usize].store[waiting.piece.as_usize()];
        let Some(sent) = sent else { return };
        let honest = self.nodes[from as usize].honest;
        let (from_life, to_life) = (self.nodes[from as usize].life, self.nodes[to as usize].life);
        let transfer = Transfer {
            from,
            to,
            from_life,
            to_life,
            id: waiting.id,
            piece: waiting.piece,
            content: if honest { sent } else { !sent },
            granted,
        };
        let bytes = self.piece_bytes as f64;
        let sender = &mut self.nodes[from as usize];
        sender.uploads += 1;
        let start = sender.up_free.max(self.now);
        sender.up_free = start + Duration::from_secs_f64(bytes / sender.up);
        let up_end = sender.up_free;
        let receiver = &mut self.nodes[to as usize];
        receiver.down_free = receiver.down_free.max(start) + Duration::from_secs_f64(bytes / receiver.down);
        let end = receiver.down_free.max(up_end) + self.latency;
        let at = self.free_transfers.pop().unwrap_or_else(|| {
            self.transfers.push(transfer);
            u32::try_from(self.transfers.len() - 1).expect("fewer transfers than 2^32")
        });
        self.transfers[at as usize] = transfer;
        self.queue.push(start + self.latency, What::Started(at));
        self.queue.push(end, What::Ended(at));
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
            sender.uploads -= 1;
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
        self.nodes[from as usize].queue.retain(|waiting| waiting.to != to);
    }
}
