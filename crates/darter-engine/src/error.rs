//! The errors of requests for bytes, and what programs and other agents are told of them.
//!
//! Everything that follows from an error depends on its [`Blame`] alone: who else tries, which status a program gets, what is counted.

use std::sync::Arc;
use std::time::Duration;

use darter_core::{Blame, Blamed, BlobId, Digest, Fault, NodeId, Retry, in_full};
use darter_fleet::failures;
use darter_origin::{ErrorKind, OriginError, OriginFailure};
use darter_store::StoreError;
use darter_wire::{Failure, FailureKind};
use http::StatusCode;

/// Why bytes could not be had. Cheap to clone: all that wait for the same bytes get the same error.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FetchError {
    /// The origin refused, or could not be reached.
    #[error("{}", .0.text)]
    Origin(OriginFailure),
    /// The store could not write or read them.
    #[error(transparent)]
    Store(Arc<StoreError>),
    /// The whole content does not match its digest.
    #[error("wrong content{}: expected {expected}, got {got}; nothing was kept", by(from))]
    WrongDigest {
        /// The requested digest.
        expected: Box<Digest>,
        /// The digest of the received bytes.
        got: Box<Digest>,
        /// Who sent it, and through which agent; empty if that is not known here.
        from: String,
        /// The agent that read the origin, if it is known here.
        reader: Option<NodeId>,
    },
    /// A range that starts after the end of the blob.
    #[error("range starts past the end of the blob ({length} bytes)")]
    Range {
        /// The blob's length.
        length: u64,
    },
    /// The blob was dissolved while it was read.
    #[error("{reason} (blob {}); ask for it again", blob.short())]
    Withdrawn {
        /// The blob.
        blob: BlobId,
        /// The reason.
        reason: String,
    },
    /// The content is here, but came from another registry than the requested one.
    #[error(
        "{name} is not known to be what is cached: the content came from another registry, and this one has yet to \
         deliver it"
    )]
    Unproven {
        /// The requested source.
        name: String,
    },
    /// Neither the fleet nor the origin has answered yet.
    #[error("neither the fleet nor the origin has answered yet; ask again")]
    Silent,
    /// Nothing was received for too long.
    #[error("nothing came for {} s (--stall-timeout): waited for {what}; run it again to go on with what is here", waited.as_secs())]
    Stalled {
        /// For how long.
        waited: Duration,
        /// What the transfer waited for: an agent or origin, and what it should send.
        what: String,
    },
    /// A name that fits more than one blob.
    #[error("{name} names {} things: {}; write more of it", candidates.len(), candidates.join(", "))]
    Ambiguous {
        /// The name, as it was given.
        name: String,
        /// The blobs that it fits.
        candidates: Vec<String>,
    },
    /// A task of this program panicked.
    #[error("the agent stopped blob {} because of an error in the agent itself, which its log describes: report that, and request the blob again", blob.short())]
    Broken {
        /// The blob.
        blob: BlobId,
    },
    /// The agent ended before the blob was complete.
    #[error("the daemon was stopped before the download finished ({kept}); run the same command again to go on")]
    Stopped {
        /// How much of it is kept, as text.
        kept: String,
    },
    /// The agent is shutting down.
    #[error("the agent is shutting down; ask again once it is back")]
    Draining,
}

impl Blamed for FetchError {
    fn blame(&self) -> Blame {
        use Fault::{Network, Origin, Ourselves, User};
        let (fault, retry) = match self {
            Self::Origin(failure) => return failure.blame(),
            Self::Store(error) => return error.blame(),
            Self::WrongDigest { .. } => (Origin, Retry::Never),
            Self::Range { .. } | Self::Ambiguous { .. } => (User, Retry::Never),
            Self::Withdrawn { .. } => (Origin, Retry::Later(None)),
            Self::Unproven { .. } => (Origin, Retry::Elsewhere),
            Self::Silent | Self::Stalled { .. } => (Network, Retry::Later(None)),
            Self::Broken { .. } | Self::Stopped { .. } | Self::Draining => (Ourselves, Retry::Later(None)),
        };
        Blame::new(fault, retry)
    }
}

impl FetchError {
    /// The HTTP status with which a program is told.
    pub fn http_status(&self) -> StatusCode {
        match self {
            Self::Origin(failure) => passed_on(failure),
            Self::Store(error) => match (&**error, error.blame().fault) {
                (StoreError::InUse(_) | StoreError::Pinned(_), _) => StatusCode::CONFLICT,
                (StoreError::Full { .. }, _) => StatusCode::INSUFFICIENT_STORAGE,
                (_, Fault::Peer) => StatusCode::BAD_GATEWAY,
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            },
            Self::Range { .. } => StatusCode::RANGE_NOT_SATISFIABLE,
            Self::Ambiguous { .. } => StatusCode::CONFLICT,
            Self::Withdrawn { .. } => StatusCode::SERVICE_UNAVAILABLE,
            other => match other.blame().fault {
                Fault::User => StatusCode::BAD_REQUEST,
                Fault::Origin | Fault::Peer => StatusCode::BAD_GATEWAY,
                Fault::Network => StatusCode::GATEWAY_TIMEOUT,
                Fault::Disk => StatusCode::INTERNAL_SERVER_ERROR,
                Fault::Ourselves => StatusCode::SERVICE_UNAVAILABLE,
            },
        }
    }

    /// The origin's failure as another agent reports it, with that agent's name added.
    pub(crate) fn said_by(self, agent: &str) -> Self {
        match self {
            Self::Origin(mut failure) => {
                failure.text = format!("{} (asked by {agent})", failure.text);
                Self::Origin(failure)
            }
            other => other,
        }
    }

    /// True if the origin refuses this caller: another login, header or certificate might help. Private content may be refused as if it did
    /// not exist.
    pub(crate) fn is_of_access(&self) -> bool {
        let Self::Origin(failure) = self else { return false };
        let is_refused = failure.kind.status().is_some() && self.blame().fault == Fault::User;
        is_refused && !matches!(failure.kind, ErrorKind::RateLimited { .. } | ErrorKind::RangeNotSatisfiable)
    }

    /// True if the origin could not be asked, or asks for fewer requests: this says nothing about the requested content, nor about the caller.
    pub(crate) fn is_trouble_of_the_origin(&self) -> bool {
        let blame = self.blame();
        matches!(self, Self::Origin(_)) && (blame.fault != Fault::User || blame.retry.is_later())
    }

    /// True if no other agent (another seed, this node itself) should try after this failure.
    pub fn is_final(&self) -> bool {
        self.blame().is_final()
    }

    /// True if the content has changed at its origin or was removed here: a caller that repeats its request gets the new content
    /// from the beginning.
    pub fn is_changed(&self) -> bool {
        self.blame().retry == Retry::Now
    }

    /// The form in which it is sent to a member of the swarm.
    pub(crate) fn to_failure(&self) -> Failure {
        let text = in_full(self).to_string();
        let Self::Origin(failure) = self else {
            let is_full = matches!(self, Self::Store(error) if matches!(**error, StoreError::Full { .. }));
            let kind = if is_full { FailureKind::NoSpace } else { FailureKind::Other };
            return Failure { kind, status: None, text, challenge: None };
        };
        failures::told(failure)
    }

    /// From what a lead sent. A failure of the lead itself (such as a full disk) says nothing about the origin: `None`.
    pub(crate) fn from_failure(failure: Failure) -> Option<Self> {
        failures::heard(failure).map(Self::Origin)
    }
}

/// The status by which an origin's failure is passed on: errors of the caller keep their status, everything else is a bad
/// gateway, including a proxy of ours that wants a login.
pub fn passed_on(failure: &OriginFailure) -> StatusCode {
    let status = failure.kind.status().and_then(|status| StatusCode::from_u16(status).ok());
    match (&failure.kind, status) {
        (ErrorKind::Timeout, _) => StatusCode::GATEWAY_TIMEOUT,
        (ErrorKind::Io, _) => StatusCode::NOT_FOUND,
        (ErrorKind::Unmountable, _) => StatusCode::UNPROCESSABLE_ENTITY,
        (_, Some(status)) if failure.blame().fault == Fault::User && status != PROXY_WANTS_LOGIN => status,
        _ => StatusCode::BAD_GATEWAY,
    }
}

const PROXY_WANTS_LOGIN: StatusCode = StatusCode::PROXY_AUTHENTICATION_REQUIRED;

impl FetchError {
    /// A lead reported that its origin sent content with another digest.
    pub(crate) fn refuted(expected: Digest, got: Digest, reader: Option<NodeId>) -> Self {
        Self::WrongDigest { expected: Box::new(expected), got: Box::new(got), from: String::new(), reader }
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

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn of(kind: ErrorKind) -> FetchError {
        FetchError::Origin(OriginFailure::new(kind, "why"))
    }

    fn told_on(error: &FetchError) -> FetchError {
        FetchError::from_failure(error.to_failure()).unwrap()
    }

    /// Members judge a failure that a lead reports as the lead has judged it.
    #[test]
    fn what_an_origin_said_is_judged_alike_by_whoever_is_told() {
        let wait = Some(Duration::from_secs(17));
        let kinds = [
            ErrorKind::NotFound,
            ErrorKind::Unauthorized { challenge: vec!["Basic realm=\"x\"".into(), "Bearer realm=\"y\"".into()] },
            ErrorKind::Forbidden,
            ErrorKind::RateLimited { retry_after: wait },
            ErrorKind::RateLimited { retry_after: None },
            ErrorKind::Unreachable,
            ErrorKind::Changed,
            ErrorKind::Status(451),
            ErrorKind::Status(501),
            ErrorKind::Status(503),
            ErrorKind::Timeout,
            ErrorKind::Tls,
            ErrorKind::Contradicted,
            ErrorKind::Truncated,
            ErrorKind::RangeNotSatisfiable,
            ErrorKind::Protocol,
            ErrorKind::Io,
            ErrorKind::OutOfReach,
            ErrorKind::Encoded,
            ErrorKind::UnknownName,
            ErrorKind::Proxy,
            ErrorKind::Page,
            ErrorKind::Unmountable,
        ];
        for kind in kinds {
            let error = of(kind);
            assert_eq!(told_on(&error).blame(), error.blame(), "{error:?}");
            assert_eq!(told_on(&error).http_status(), error.http_status(), "{error:?}");
        }
        let mut waits = OriginFailure::new(ErrorKind::Status(503), "why");
        waits.retry_after = wait;
        let waits = FetchError::Origin(waits);
        assert_eq!(waits.blame().retry, Retry::Later(wait));
        assert_eq!(told_on(&waits).blame(), waits.blame(), "the time to wait travels, too");
    }

    #[test]
    fn only_what_every_agent_would_be_told_ends_the_search() {
        for status in [400, 405, 410, 418, 451] {
            assert!(of(ErrorKind::Status(status)).is_final(), "{status}");
        }
        assert!(of(ErrorKind::RateLimited { retry_after: None }).is_final());
        for kind in [ErrorKind::Status(407), ErrorKind::Status(502), ErrorKind::Tls, ErrorKind::OutOfReach] {
            assert!(!of(kind.clone()).is_final(), "{kind:?}");
        }
        for kind in [ErrorKind::UnknownName, ErrorKind::Proxy] {
            assert!(!of(kind.clone()).is_final() && !of(kind.clone()).blame().may_pass(), "{kind:?}");
        }
        assert!(of(ErrorKind::UnknownName).is_trouble_of_the_origin(), "what the fleet holds is served meanwhile");
        assert!(!FetchError::Draining.is_final());
    }

    #[test]
    fn another_login_may_open_what_is_refused_and_nothing_else() {
        for kind in [ErrorKind::NotFound, ErrorKind::Forbidden, ErrorKind::Status(400), ErrorKind::Status(451)] {
            assert!(of(kind.clone()).is_of_access(), "{kind:?}");
        }
        let others =
            [ErrorKind::RateLimited { retry_after: None }, ErrorKind::RangeNotSatisfiable, ErrorKind::Status(500)];
        assert!(others.into_iter().all(|kind| !of(kind).is_of_access()));
    }

    #[test]
    fn a_program_is_told_whose_fault_it_is_by_the_status() {
        let io = StoreError::Io { action: "write", path: "/d".into(), source: io::Error::from_raw_os_error(30) };
        let cases = [
            (of(ErrorKind::Status(451)), 451),
            (of(ErrorKind::Status(407)), 502),
            (of(ErrorKind::Status(503)), 502),
            (of(ErrorKind::Unreachable), 502),
            (of(ErrorKind::Timeout), 504),
            (io.into(), 500),
            (FetchError::Silent, 504),
            (FetchError::Draining, 503),
        ];
        for (error, status) in cases {
            assert_eq!(error.http_status().as_u16(), status, "{error:?}");
        }
    }

    #[test]
    fn a_refusal_of_the_disk_is_told_down_to_the_systems_words() {
        let source = io::Error::from_raw_os_error(20);
        let error = FetchError::from(StoreError::Io { action: "open", path: "/d/blobs".into(), source });
        let told = in_full(&error).to_string();
        assert!(told.contains("/d/blobs") && told.ends_with("Not a directory (os error 20)"), "{told}");
        assert_eq!(error.to_failure().text, told, "members are told so as well");
    }
}
