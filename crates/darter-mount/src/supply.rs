//! Supplies: the questions that a mount asks an agent, in another process or in this one.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use darter_core::{BlobId, ByteRange, PieceHash, PieceLength};

/// The content's description. Two with the same `blob` are the same bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// The blob.
    pub blob: BlobId,
    /// The content's length in bytes.
    pub length: u64,
    /// How it is cut.
    pub pieces: PieceLength,
    /// When it was last modified, as its origin writes it.
    pub modified: Option<String>,
}

/// Verified bytes.
#[derive(Debug)]
pub enum Given {
    /// In this file, at their own offsets; the hashes of the pieces that they touch, or none.
    File(Arc<File>, Vec<PieceHash>),
    /// In memory.
    Bytes(Bytes),
}

/// Why bytes were not given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The bytes are not there in time.
    Late,
    /// The bytes can't be had in this way now: another try may succeed, or another connection. In words.
    Now(String),
}

/// Why a connection ended, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Another one may be opened.
    Gone(String),
    /// The content is another one at its origin by now, or what was read is of several: the rest can't be had.
    Changed(String),
    /// The content is another than its digest says: what was read is wrong, too.
    Wrong(String),
}

/// One connection to an agent, about one blob. While it lasts, the blob is not evicted.
#[async_trait]
pub trait Supply: Send + Sync {
    /// The bytes of `range`, for which a program waits. `range` begins and ends where pieces do, or at the end.
    ///
    /// # Errors
    /// [`Refusal`].
    async fn read(&self, range: ByteRange, within: Duration) -> Result<Given, Refusal>;

    /// Sees to it that the bytes of `range` are there, after everything that programs wait for; the hashes of their pieces.
    ///
    /// # Errors
    /// [`Refusal`].
    async fn fetch(&self, range: ByteRange, within: Duration) -> Result<Vec<PieceHash>, Refusal>;

    /// All of it is to be fetched, after everything that programs wait for.
    async fn everything(&self);

    /// Tells that programs have touched these bytes, in this order, since the blob was opened: for those that open it later.
    async fn touched(&self, ranges: &[ByteRange]);

    /// How many bytes are there, and whether that is all and was checked; `None` when nobody tells.
    async fn progress(&self) -> Option<(u64, bool)>;

    /// Waits until nothing more comes, and says why.
    async fn ended(&self) -> End;
}

/// Opens connections.
#[async_trait]
pub trait Supplier: Send + Sync {
    /// Opens one.
    ///
    /// # Errors
    /// Why there is none now, in words.
    async fn open(&self) -> Result<(Content, Arc<dyn Supply>), String>;
}

#[async_trait]
impl<S: Supplier + ?Sized> Supplier for Arc<S> {
    async fn open(&self) -> Result<(Content, Arc<dyn Supply>), String> {
        (**self).open().await
    }
}
