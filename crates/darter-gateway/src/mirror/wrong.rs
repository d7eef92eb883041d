//! Blobs whose content was wrong, or unexpectedly encoded, a short time ago: requests for them are refused at once, so that engines use their next source.
//!
//! Wrong content is found only at the end of a blob, when an engine has read nearly all of it; an engine whose connection is closed
//! there asks the mirror again. An engine that is refused at once reads its next source: containerd goes on to the next host for
//! each blob, on any error. Podman, skopeo and CRI-O go on only while they look for a manifest, so a manifest that names such a blob
//! is refused, too.
//!
//! A blob that is complete here by now is no longer refused: another agent has read the right content.
//!
//! Refusals are kept by repository, since wrong content from one registry, accidental or not, is no reason to refuse another's. They are also kept by caller, if the
//! registry has not shown that the caller may read the blob: the bytes may be an answer to callers that have to log in.

use std::sync::Arc;
use std::time::Duration;

use darter_core::recent::Recent;
use darter_core::{Clock, Digest, Moment};
use darter_oci::error::Code;
use parking_lot::Mutex;

use crate::mirror::grants::{Fingerprint, Scope};
use crate::mirror::problem::Problem;

/// How long a digest is refused.
const REFUSED_FOR: Duration = Duration::from_secs(300);
/// How many digests are remembered.
const MAX_DIGESTS: u64 = 1000;

/// What was delivered instead of the right content.
#[derive(Clone, Copy, Debug)]
enum Came {
    Other,
    Encoded,
}

/// When that happened, and what was delivered.
type Noted = (Moment, Came);

/// The digests with wrong content. Cheap to clone.
#[derive(Clone)]
pub(crate) struct WrongDigests {
    seen: Arc<Mutex<Recent<Key, Noted>>>,
    clock: Arc<dyn Clock>,
    /// If set, new entries apply only to this caller.
    only_for: Option<Fingerprint>,
}

/// Which requests are refused: for a digest in a repository, of one caller, or of every caller if `None`.
type Key = (Scope, Option<Fingerprint>, Digest);

impl WrongDigests {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { seen: Arc::new(Mutex::new(Recent::new(MAX_DIGESTS))), clock, only_for: None }
    }

    /// The same table; entries made through it apply to this caller only.
    pub(crate) fn only_for(&self, caller: Fingerprint) -> Self {
        Self { only_for: Some(caller), ..self.clone() }
    }

    /// Notes that content with another digest was delivered for this digest of a repository.
    pub(crate) fn note(&self, scope: &Scope, digest: Digest) {
        tracing::warn!(%digest, for_s = REFUSED_FOR.as_secs(), "refusing a digest whose content was wrong");
        self.insert(scope, digest, Came::Other);
    }

    /// Notes that this digest's content is delivered in an encoding that was not requested. An engine that decodes it can get it from the registry
    /// itself.
    pub(crate) fn note_encoded(&self, scope: &Scope, digest: Digest) {
        tracing::warn!(%digest, for_s = REFUSED_FOR.as_secs(), "refusing a digest whose content was encoded");
        self.insert(scope, digest, Came::Encoded);
    }

    fn insert(&self, scope: &Scope, digest: Digest, came: Came) {
        self.seen.lock().insert((scope.clone(), self.only_for, digest), (self.clock.now(), came), 1);
    }

    /// Removes the entries for content that is here, and right. Entries for a single caller stay, since they depend on what the registry serves to that caller.
    pub(crate) fn forget(&self, scope: &Scope, digest: Digest) {
        self.seen.lock().remove(&(scope.clone(), None, digest));
    }

    /// The answer to a request for this digest, or for a manifest that names it, if the digest is refused.
    pub(crate) fn refusal(&self, scope: &Scope, caller: Fingerprint, digest: Digest) -> Option<Problem> {
        let last = {
            let mut seen = self.seen.lock();
            let noted =
                [None, Some(caller)].into_iter().filter_map(|who| seen.get(&(scope.clone(), who, digest)).copied());
            noted.max_by_key(|(then, _)| *then)
        };
        let (then, came) = last?;
        let since = self.clock.now() - then;
        if since >= REFUSED_FOR {
            return None;
        }
        let (ago, more) = (since.as_secs(), (REFUSED_FOR - since).as_secs());
        let what = match came {
            Came::Other => "was other content",
            Came::Encoded => "had a Content-Encoding that was not requested",
        };
        let text = format!(
            "the content received for {digest} {ago} s ago {what}: read it from the registry itself, or ask again in {more} s"
        );
        Some(Problem::bad_upstream(Code::DigestInvalid, text))
    }
}
