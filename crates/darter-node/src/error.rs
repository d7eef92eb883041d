//! What can go wrong, whose fault it is, and what to do about it.

use std::sync::Arc;
use std::time::Duration;

use darter_core::{BlobId, Digest};
use darter_origin::{ErrorKind, OriginError, OriginFailure};
use darter_store::StoreError;
use darter_wire::{Failure, FailureKind};

/// Why bytes could not be had. Cheap to clone: everybody who waits for the same bytes is told the same.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FetchError {
    /// The origin said no, or could not be reached.
    #[error("{}", .0.text)]
    Origin(OriginFailure),
    /// The store could not keep or give them.
    #[error("{0}")]
    Store(Arc<StoreError>),
    /// The whole content is not what its digest says.
    #[error("wrong content{}: expected {expected}, got {got}; nothing was kept", by(from))]
    WrongDigest {
        /// What was asked for.
        expected: Box<Digest>,
        /// What came.
        got: Box<Digest>,
        /// From whom, and by way of whom; empty if that is not known here.
        from: String,
    },
    /// A range past the end of the blob.
    #[error("range starts past the end of the blob ({length} bytes)")]
    Range {
        /// The blob's length.
        length: u64,
    },
    /// The blob was dissolved while it was read.
    #[error("{reason} (blob {}); ask for it again", blob.short())]
    Withdrawn {
        /// Which blob.
        blob: BlobId,
        /// Why.
        reason: String,
    },
    /// The content is here, but came from another registry than the one named.
    #[error(
        "{name} is not known to be what is cached: the content came from another registry, and this one has yet to \
         deliver it"
    )]
    Unproven {
        /// The source asked for.
        name: String,
    },
    /// Nobody has said anything of the blob yet.
    #[error("neither the fleet nor the origin has answered yet; ask again")]
    Silent,
    /// Nothing came for too long.
    #[error("nothing came for {} s (--stall-timeout): waited for {what}; run it again to go on with what is here", waited.as_secs())]
    Stalled {
        /// How long.
        waited: Duration,
        /// For whom and what.
        what: String,
    },
    /// A name that more than one thing has.
    #[error("{name} names {} things: {}; write more of it", candidates.len(), candidates.join(", "))]
    Ambiguous {
        /// As it was given.
        name: String,
        /// What is called so.
        candidates: Vec<String>,
    },
    /// The agent ended before the blob was whole.
    #[error("the daemon was stopped before the download finished ({kept}); run the same command again to go on")]
    Stopped {
        /// How much of it is kept, in words.
        kept: String,
    },
    /// The agent is shutting down.
    #[error("the agent is shutting down; ask again once it is back")]
    Draining,
}

impl FetchError {
    /// The HTTP status that tells this to a program.
    pub fn http_status(&self) -> u16 {
        match self {
            Self::Origin(failure) => match &failure.kind {
                ErrorKind::Io => 404,
                ErrorKind::Timeout => 504,
                kind => kind.status().filter(|status| (400..500).contains(status)).unwrap_or(502),
            },
            Self::Store(error) if matches!(**error, StoreError::InUse(_) | StoreError::Pinned(_)) => 409,
            Self::Store(error) if matches!(**error, StoreError::Full { .. }) => 507,
            Self::Store(_) => 500,
            Self::WrongDigest { .. } | Self::Unproven { .. } => 502,
            Self::Stalled { .. } => 504,
            Self::Range { .. } => 416,
            Self::Ambiguous { .. } => 409,
            Self::Withdrawn { .. } | Self::Stopped { .. } | Self::Draining => 503,
            Self::Silent => 504,
        }
    }

    /// Whether the origin does not give this to who asked; where it is private, that can look as if it were not there.
    pub(crate) const fn is_of_access(&self) -> bool {
        let Self::Origin(failure) = self else { return false };
        matches!(failure.kind, ErrorKind::NotFound | ErrorKind::Unauthorized { .. } | ErrorKind::Forbidden)
    }

    /// Whether nobody else — another seed, this node by itself — should try where this failed. An origin that asks to slow down
    /// would be asked by every host.
    pub(crate) const fn is_final(&self) -> bool {
        match self {
            Self::Origin(failure) => matches!(
                failure.kind,
                ErrorKind::NotFound
                    | ErrorKind::Unauthorized { .. }
                    | ErrorKind::Forbidden
                    | ErrorKind::RateLimited { .. }
                    | ErrorKind::RangeNotSatisfiable
            ),
            Self::WrongDigest { .. } | Self::Range { .. } | Self::Ambiguous { .. } => true,
            Self::Store(_)
            | Self::Stalled { .. }
            | Self::Withdrawn { .. }
            | Self::Unproven { .. }
            | Self::Silent
            | Self::Stopped { .. }
            | Self::Draining => false,
        }
    }

    /// Whether the origin's content changed while it was read: whoever asks again gets the new version.
    pub const fn is_changed(&self) -> bool {
        matches!(self, Self::Origin(OriginFailure { kind: ErrorKind::Changed, .. }))
    }

    /// As it travels to a member of the swarm.
    pub(crate) fn to_failure(&self) -> Failure {
        let (kind, status, challenge) = match self {
            Self::Origin(failure) => match &failure.kind {
                ErrorKind::NotFound | ErrorKind::Io => (FailureKind::NotFound, failure.status, None),
                ErrorKind::Unauthorized { challenge } => {
                    (FailureKind::Unauthorized, failure.status, Some(challenge.join("\n")))
                }
                ErrorKind::Forbidden => (FailureKind::Forbidden, failure.status, None),
                ErrorKind::RateLimited { retry_after } => {
                    let wait = retry_after.map(|wait| wait.as_secs().to_string());
                    (FailureKind::RateLimited, failure.status, wait)
                }
                ErrorKind::Changed => (FailureKind::Changed, failure.status, None),
                _ => (FailureKind::Unreachable, failure.status, None),
            },
            Self::Store(error) if matches!(**error, StoreError::Full { .. }) => (FailureKind::NoSpace, None, None),
            _ => (FailureKind::Other, None, None),
        };
        Failure { kind, status, text: self.to_string(), challenge }
    }

    /// As a lead told it. A failure of the lead's own (no room, say) is no word of the origin: `None`.
    pub(crate) fn from_failure(failure: Failure) -> Option<Self> {
        let kind = match failure.kind {
            FailureKind::NotFound => ErrorKind::NotFound,
            FailureKind::Unauthorized => ErrorKind::Unauthorized {
                challenge: failure.challenge.unwrap_or_default().lines().map(str::to_owned).collect(),
            },
            FailureKind::Forbidden => ErrorKind::Forbidden,
            FailureKind::RateLimited => {
                let wait = failure.challenge.and_then(|wait| wait.parse().ok());
                ErrorKind::RateLimited { retry_after: wait.map(Duration::from_secs) }
            }
            FailureKind::Changed => ErrorKind::Changed,
            FailureKind::Unreachable => ErrorKind::Unreachable,
            FailureKind::NoSpace | FailureKind::Other => return None,
        };
        Some(Self::Origin(OriginFailure { kind, status: failure.status, text: failure.text }))
    }
}

impl FetchError {
    /// What a lead said of the content that its origin sent.
    pub(crate) fn refuted(expected: Digest, got: Digest) -> Self {
        Self::WrongDigest { expected: Box::new(expected), got: Box::new(got), from: String::new() }
    }
}

fn by(from: &str) -> String {
    if from.is_empty() { String::new() } else { format!(" from {from}") }
}

impl From<OriginError> for FetchError {
    fn from(error: OriginError) -> Self {
        Self::Origin(OriginFailure::from(&error))
    }
}

impl From<StoreError> for FetchError {
    fn from(error: StoreError) -> Self {
        Self::Store(Arc::new(error))
    }
}

/// Why an agent could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port that is taken or not ours to take.
    #[error("can't listen on {addr} ({flag}): {reason}; {advice}")]
    Listen {
        /// The address.
        addr: String,
        /// The flag that chose it.
        flag: &'static str,
        /// What the system says.
        reason: String,
        /// What to do.
        advice: String,
    },
    /// The data directory can't be used.
    #[error("the data directory can't be used")]
    Store(#[from] StoreError),
    /// A file of the agent's own can't be read or written.
    #[error("{path}: {reason}")]
    File {
        /// Which file.
        path: String,
        /// What is wrong and what to do.
        reason: String,
    },
    /// An address given to join that is not a Darter agent.
    #[error("can't join {addr}: {reason}")]
    Join {
        /// The address.
        addr: String,
        /// What answered, and what to do.
        reason: String,
    },
    /// Options that contradict each other.
    #[error("{0}")]
    Options(String),
}
