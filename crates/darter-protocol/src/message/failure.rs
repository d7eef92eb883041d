//! Why an agent could not give what it was asked for.

use serde::{Deserialize, Serialize};

use crate::open_enum::open_enum;

/// Why a lead could not give a blob: what the origin said, made fit to be passed to the caller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The kind of the failure.
    pub kind: FailureKind,
    /// The origin's HTTP status, if it gave one.
    pub status: Option<u16>,
    /// One line for people.
    pub text: String,
    /// With [`FailureKind::Unauthorized`] the origin's `WWW-Authenticate`, for the caller to act on; with other kinds the seconds
    /// of its `Retry-After`, if it asked to wait.
    pub challenge: Option<String>,
}

open_enum! {
    /// Kinds of [`Failure`]. Those from 8 on are said to agents with [`FAILURE_KINDS`](crate::Capabilities::FAILURE_KINDS) only: others would take them for
    /// trouble of the sender's own.
    pub enum FailureKind else Other {
        /// The origin has no such thing.
        NotFound = 0,
        /// The origin wants credentials.
        Unauthorized = 1,
        /// The origin refuses these credentials.
        Forbidden = 2,
        /// The origin does not answer, or answers with an error of its own.
        Unreachable = 3,
        /// The origin asks to slow down.
        RateLimited = 4,
        /// The origin's content changed while it was read.
        Changed = 5,
        /// The lead has no room for it.
        NoSpace = 6,
        /// Anything else, or something that is not known here.
        Other = 7,
        /// The origin sent nothing for too long.
        Timeout = 8,
        /// The TLS handshake with the origin failed.
        Tls = 9,
        /// The content is not what the origin's own hash of it says.
        Contradicted = 10,
        /// The origin's answer ended before its announced length.
        Truncated = 11,
        /// The range lies outside of the content.
        RangeNotSatisfiable = 12,
        /// The origin does not keep to the protocol.
        Protocol = 13,
        /// A file at the lead could not be read.
        File = 14,
        /// The lead does not go to this address for the member; another agent may.
        OutOfReach = 15,
        /// The origin sent its content in an encoding that nobody asked for.
        Encoded = 16,
        /// The name of the origin's host, or of the lead's proxy, does not resolve.
        UnknownName = 17,
        /// The lead's proxy can't be used.
        Proxy = 18,
        /// A page for people came in place of the content.
        Page = 19,
        /// A layer can't be given in the form that the kernel mounts.
        Unmountable = 20,
    }
}

impl Failure {
    /// The failure for agents without [`FAILURE_KINDS`](crate::Capabilities::FAILURE_KINDS), where it is another one.
    pub(super) fn plain(&self) -> Option<Self> {
        let kind = self.kind.plain();
        (kind != self.kind).then(|| Self { kind, ..self.clone() })
    }
}

impl FailureKind {
    /// The kind that stands for this one where only the first eight are known, as by agents without
    /// [`FAILURE_KINDS`](crate::Capabilities::FAILURE_KINDS).
    pub const fn plain(self) -> Self {
        match self {
            Self::Timeout
            | Self::Tls
            | Self::Contradicted
            | Self::Truncated
            | Self::RangeNotSatisfiable
            | Self::Protocol
            | Self::OutOfReach
            | Self::Encoded
            | Self::UnknownName
            | Self::Proxy
            | Self::Page
            | Self::Unmountable => Self::Unreachable,
            Self::File => Self::NotFound,
            Self::NotFound
            | Self::Unauthorized
            | Self::Forbidden
            | Self::Unreachable
            | Self::RateLimited
            | Self::Changed
            | Self::NoSpace
            | Self::Other => self,
        }
    }
}
