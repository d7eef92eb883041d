//! The holder's side of a data channel.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use darter_core::{BlobId, NodeId, PieceIndex};
use tokio::sync::{Semaphore, watch};

use super::Wanted;
use crate::{Budget, PeerStream, Result};

/// What a holder decides when it has room to send.
#[derive(Debug)]
pub enum Bind {
    /// Send this piece. [`Uploads::sent`] is called for it exactly once.
    Send {
        /// Which piece.
        piece: PieceIndex,
        /// Its bytes.
        payload: Payload,
    },
    /// Nothing to give yet: keep the request open and ask again after the next change.
    Wait,
    /// The piece is not here.
    NotHeld,
    /// Too much to do.
    Busy,
    /// Not for this peer.
    Refused,
    /// The blob is not known here.
    UnknownBlob,
}

/// A piece's bytes.
#[derive(Clone, Debug)]
pub enum Payload {
    /// Part of a file.
    File {
        /// The file.
        file: Arc<File>,
        /// Where the piece starts in it, in bytes.
        offset: u64,
        /// Length of the piece in bytes.
        length: u32,
    },
    /// Bytes at hand.
    Bytes(Bytes),
}

/// The holder's decisions: called on async threads, so they must not block.
pub trait Uploads: Send + Sync + 'static {
    /// Chooses what to send, at the moment at which there is room to send it.
    fn bind(&self, peer: NodeId, blob: BlobId, wanted: Wanted) -> Bind;

    /// A piece that was bound is through: `delivered` if all of it was handed to the connection.
    fn sent(&self, peer: NodeId, blob: BlobId, piece: PieceIndex, delivered: bool);

    /// Marked as changed whenever something that was [`Bind::Wait`] may have become something else.
    fn changes(&self) -> watch::Receiver<()>;
}

/// Room to send: so many pieces at a time, for all connections of a process, first come first served.
#[derive(Clone, Debug)]
pub struct Slots(Arc<Semaphore>);

impl Slots {
    /// Room for `count` pieces at a time.
    pub fn new(count: usize) -> Self {
        Self(Arc::new(Semaphore::new(count)))
    }
}

/// What the sending side needs; all connections of a process share one.
#[derive(Clone)]
pub struct Sending {
    /// Room to send.
    pub slots: Slots,
    /// Meters the bytes sent.
    pub budget: Arc<dyn Budget>,
    /// A connection whose other side takes nothing for so long is closed.
    pub stall: Duration,
}

/// Answers the requests of one connection, after its preface, until the peer closes it (`Ok`). Dropping the future
/// closes it too, and reports what was under way as not delivered.
///
/// # Errors
/// [`WireError::Silent`](crate::WireError::Silent) for a peer that takes nothing, [`WireError::Violation`](crate::WireError::Violation), [`WireError::Io`](crate::WireError::Io), [`WireError::Closed`](crate::WireError::Closed).
pub async fn serve_data(stream: PeerStream, peer: NodeId, uploads: Arc<dyn Uploads>, sending: &Sending) -> Result<()> {
    todo!("{stream:?} {peer} {} {:?}", Arc::strong_count(&uploads), sending.stall)
}
