//! What a mount asks of an agent, in another process or in this one.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use darter_core::{BlobId, ByteRange, PieceHash, PieceLength};

/// The content's description. Two with the same `blob` have the same bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// The blob.
    pub blob: BlobId,
    /// The content's length in bytes.
    pub length: u64,
    /// The piece length.
    pub pieces: PieceLength,
    /// When it was last modified, in its origin's spelling.
    pub modified: Option<String>,
}

/// Verified bytes.
#[derive(Debug)]
pub enum Given {
    /// In this file, at the same offsets; with the hashes of the pieces that they touch, or without hashes.
    File(Arc<File>, Vec<PieceHash>),
    /// In memory.
    Bytes(Bytes),
}

/// Why bytes were not delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The bytes are not there in time.
    Late,
    /// The bytes can't be had in this way now, for this reason: another try may succeed, or another connection.
    Now(String),
}

/// Why a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Another one may be opened.
    Gone(String),
    /// The content has changed at its origin, or the bytes read are of several versions: the rest can't be had.
    Changed(String),
    /// The content does not match its digest: what was read is wrong, too.
    Wrong(String),
}

/// One connection to an agent, for one blob. While it exists, the blob is not evicted.
#[async_trait]
pub trait Supply: Send + Sync {
    /// The bytes of `range`, for which a program waits. `range` begins and ends at piece boundaries, or at the end.
    ///
    /// # Errors
    /// [`Refusal`].
    async fn read(&self, range: ByteRange, within: Duration) -> Result<Given, Refusal>;

    /// Fetches the bytes of `range`, after everything that programs wait for. Returns the hashes of their pieces.
    ///
    /// # Errors
    /// [`Refusal`].
    async fn fetch(&self, range: ByteRange, within: Duration) -> Result<Vec<PieceHash>, Refusal>;

    /// Fetches the whole blob from now on, after everything that programs wait for.
    async fn everything(&self);

    /// Reports that programs have read these bytes, in this order, since the blob was opened: for hosts that open it later.
    async fn touched(&self, ranges: &[ByteRange]);

    /// False if the agent has no use for reports with [`touched`](Self::touched): then none are made.
    fn takes_touches(&self) -> bool {
        true
    }

    /// How many bytes are there, and whether they are complete and checked; `None` if unknown.
    async fn progress(&self) -> Option<(u64, bool)>;

    /// Waits until nothing more can be had, and returns why.
    async fn ended(&self) -> End;
}

/// Opens connections.
#[async_trait]
pub trait Supplier: Send + Sync {
    /// Opens a connection.
    ///
    /// # Errors
    /// Why no connection can be opened now.
    async fn open(&self) -> Result<(Content, Arc<dyn Supply>), String>;
}

#[async_trait]
impl<S: Supplier + ?Sized> Supplier for Arc<S> {
    async fn open(&self) -> Result<(Content, Arc<dyn Supply>), String> {
        (**self).open().await
    }
}
