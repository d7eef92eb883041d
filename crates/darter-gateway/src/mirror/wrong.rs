//! Blobs whose content came wrong, or encoded, a short time ago: they are answered with an error up front, so that engines go round.
//!
//! Wrong content is found out at the end of a blob, when an engine has read nearly all of it; an engine that is cut off
//! there asks the mirror again. An engine that is refused at once reads its next source: containerd goes on to the next host for
//! each blob, on any error. Podman and its family go on only while they look for a manifest, so one that names such a blob
//! is refused, too.
//!
//! A blob that is whole here by now is refused no more: another agent has read it right.
//!
//! By repository: what one registry sends wrong, made up or not, is no reason to refuse another's. And by caller, where the
//! registry has not shown that the caller may read it: the bytes may be those that are shown to callers that have to log in.

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
/// Digests remembered.
const MAX_DIGESTS: u64 = 1000;

/// The content that came in the place of a digest's.
#[derive(Clone, Copy, Debug)]
enum Came {
    Other,
    Encoded,
}

/// When something came, and what.
type Noted = (Moment, Came);

/// Content that came wrong, and when. Cheap to clone.
#[derive(Clone)]
pub(crate) struct WrongDigests {
    seen: Arc<Mutex<Recent<Key, Noted>>>,
    clock: Arc<dyn Clock>,
    /// The caller to whom alone what is noted here matters.
    only_for: Option<Fingerprint>,
}

/// The caller that is refused a digest, and in which repository; every caller, if `None`.
type Key = (Scope, Option<Fingerprint>, Digest);

impl WrongDigests {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { seen: Arc::new(Mutex::new(Recent::new(MAX_DIGESTS))), clock, only_for: None }
    }

    /// This place, where what is noted matters to this caller alone.
    pub(crate) fn only_for(&self, caller: Fingerprint) -> Self {
        Self { only_for: Some(caller), ..self.clone() }
    }

    /// Notes that what came for this digest of a repository was something else.
    pub(crate) fn note(&self, scope: &Scope, digest: Digest) {
        tracing::warn!(%digest, for_s = REFUSED_FOR.as_secs(), "refusing a digest whose content came wrong");
        self.insert(scope, digest, Came::Other);
    }

    /// Notes that this digest's content comes in an encoding that nobody asked for. Engines that decode it get it from the registry
    /// itself.
    pub(crate) fn note_encoded(&self, scope: &Scope, digest: Digest) {
        tracing::warn!(%digest, for_s = REFUSED_FOR.as_secs(), "refusing a digest whose content came encoded");
        self.insert(scope, digest, Came::Encoded);
    }

    fn insert(&self, scope: &Scope, digest: Digest, came: Came) {
        self.seen.lock().insert((scope.clone(), self.only_for, digest), (self.clock.now(), came), 1);
    }

    /// Its content is here, and right. A refusal for a single caller depends on what the registry shows that caller.
    pub(crate) fn forget(&self, scope: &Scope, digest: Digest) {
        self.seen.lock().remove(&(scope.clone(), None, digest));
    }

    /// The answer to a request for this digest, or for a manifest that names it, if it is refused.
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
            Came::Encoded => "had a Content-Encoding that nobody asked for",
        };
        let text = format!(
            "what came for {digest} {ago} s ago {what}: read it from the registry itself, or ask again in {more} s"
        );
        Some(Problem::bad_upstream(Code::DigestInvalid, text))
    }
}
