//! Doors: while one caller opens a source, others that want it wait for the result, as far as that applies to them, too.
//! And turns: only one transfer of a blob begins at a time, whichever source it is for.
//!
//! Not here: what is done behind a door ([`open`](super::open), [`seeds`](super::seeds)).

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use darter_core::{BlobId, Source};
use darter_origin::{ErrorKind, Requester};
use parking_lot::Mutex;

use super::access::Caller;
use crate::error::FetchError;
use crate::transfer::Transfer;

/// Turns to begin a transfer of a blob, from creating its place in the store until it is in the table. Otherwise one opener would take a place that
/// another has just created, and in which nothing has been stored yet, for a leftover.
#[derive(Default)]
pub(super) struct BlobTurns(Mutex<HashMap<BlobId, Arc<tokio::sync::Mutex<()>>>>);

impl BlobTurns {
    pub(super) async fn turn(&self, blob: BlobId) -> tokio::sync::OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.0.lock();
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(turns.entry(blob).or_default())
        };
        turn.lock_owned().await
    }
}

/// One door for each source, or for each digest: an opener waits for the one that is opening it. Callers of one source
/// with the same credentials share the result, and all its callers share the failure that the origin could not be reached: a
/// slow or dead origin is asked once.
#[derive(Default)]
pub(super) struct Doors(Mutex<HashMap<BlobId, Arc<Door>>>);

#[derive(Default)]
pub(super) struct Door {
    /// How many openers have come out so far.
    left: AtomicU64,
    /// Held while somebody is opening; contains the result of the last opener.
    opening: tokio::sync::Mutex<Option<Found>>,
}

/// The result of an opener.
struct Found {
    /// The source that was opened.
    source: Source,
    /// The fingerprint of the credentials that opened it.
    caller: [u8; 32],
    /// The caller that opens.
    requester: Requester,
    /// Weak, since a door may stay in the table when nobody waits any more, and must not keep a blob in use.
    outcome: Result<Weak<Transfer>, FetchError>,
}

/// The right to open a source, between entering and leaving a door.
pub(super) struct Opening<'a> {
    door: &'a Door,
    source: &'a Source,
    caller: [u8; 32],
    requester: Requester,
    last: tokio::sync::MutexGuard<'a, Option<Found>>,
}

impl Doors {
    pub(super) fn at(&self, key: BlobId) -> Arc<Door> {
        let mut doors = self.0.lock();
        // A door that only the table refers to has nobody waiting.
        doors.retain(|_, door| Arc::strong_count(door) > 1);
        Arc::clone(doors.entry(key).or_default())
    }
}

impl Door {
    /// Waits for the opener. `Err` has its result, if that applies to this caller, too.
    pub(super) async fn enter<'a>(
        &'a self,
        source: &'a Source,
        Caller { credentials, requester, .. }: Caller<'_>,
    ) -> Result<Opening<'a>, Result<Arc<Transfer>, FetchError>> {
        let (caller, before) = (credentials.fingerprint(), self.left.load(Ordering::Relaxed));
        let last = self.opening.lock().await;
        let found = last.as_ref().filter(|found| found.source == *source && self.left.load(Ordering::Relaxed) > before);
        match found {
            Some(Found { outcome: Err(error), .. }) => Err(Err(error.clone())),
            Some(Found { outcome: Ok(transfer), caller: opener, requester: its, .. })
                if *opener == caller && *its == requester =>
            {
                match transfer.upgrade() {
                    Some(transfer) => Err(Ok(transfer)),
                    None => Ok(Opening { door: self, source, caller, requester, last }),
                }
            }
            _ => Ok(Opening { door: self, source, caller, requester, last }),
        }
    }
}

impl Opening<'_> {
    /// Gives those who wait the result. If the origin could not be reached, all of them get it.
    pub(super) fn leave(mut self, found: Result<Arc<Transfer>, FetchError>) -> Result<Arc<Transfer>, FetchError> {
        let is_for_others = match &found {
            Ok(_) => true,
            Err(FetchError::Origin(failure)) => {
                let is_away = failure.kind == ErrorKind::UnknownName || failure.blame().retry.is_later();
                is_away && !failure.blame().is_final()
            }
            Err(_) => false,
        };
        *self.last = is_for_others.then(|| Found {
            source: self.source.clone(),
            caller: self.caller,
            requester: self.requester,
            outcome: found.as_ref().map(Arc::downgrade).map_err(Clone::clone),
        });
        self.door.left.fetch_add(1, Ordering::Relaxed);
        found
    }
}
