//! Checks a part of a resource, while it passes, against the hashes that its answer declares of it: the last chunk is held back until then.
//!
//! A part that breaks off can't be checked: its bytes are passed on.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};

use super::Promise;
use crate::body::Body;
use crate::error::OriginError;

/// `body`, which ends with an error instead of its last bytes if the bytes don't match the `promises`.
pub(super) fn checked(body: Body, promises: Vec<Promise>, what: String) -> Body {
    let part = CheckedPart { body, promises, what, held: None, end: None };
    stream::unfold(part, |mut part| async move {
        let item = part.next().await?;
        Some((item, part))
    })
    .boxed()
}

struct CheckedPart {
    body: Body,
    promises: Vec<Promise>,
    what: String,
    /// The last chunk, which is held back until the next one comes.
    held: Option<Bytes>,
    /// The error with which the body ended, if it did.
    end: Option<Result<(), OriginError>>,
}

impl CheckedPart {
    async fn next(&mut self) -> Option<Result<Bytes, OriginError>> {
        while self.end.is_none() {
            match self.body.next().await {
                Some(Ok(chunk)) => {
                    self.promises.iter_mut().for_each(|promise| promise.hasher.update(&chunk));
                    if let Some(before) = self.held.replace(chunk) {
                        return Some(Ok(before));
                    }
                }
                // The bytes before it are as good as without the check.
                Some(Err(error)) => self.end = Some(Err(error)),
                None => {
                    if let Err(error) = self.settle() {
                        self.held = None;
                        self.end = Some(Err(error));
                    } else {
                        self.end = Some(Ok(()));
                    }
                }
            }
        }
        if let Some(chunk) = self.held.take() {
            return Some(Ok(chunk));
        }
        self.end.replace(Ok(())).and_then(Result::err).map(Err)
    }

    /// All of the part has come: compares the hashes.
    fn settle(&mut self) -> Result<(), OriginError> {
        for Promise { hash, hasher, not_of_part } in self.promises.drain(..) {
            match (hasher.finish() == hash.value, not_of_part) {
                (true, _) => {}
                (false, Some(not_of_part)) => not_of_part.store(true, Ordering::Relaxed),
                (false, None) => return Err(hash.contradicted(&self.what)),
            }
        }
        Ok(())
    }
}
