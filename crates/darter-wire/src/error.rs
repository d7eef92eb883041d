//! Errors of connections between agents.

use std::io;
use std::time::Duration;

use darter_core::{Blame, Blamed, Fault, NodeId, Retry};
use darter_protocol::{ProtocolError, Versions};

/// A result whose error is a [`WireError`].
pub type Result<T, E = WireError> = std::result::Result<T, E>;

/// An error of a connection between this agent and another.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// No connection could be made.
    #[error("cannot connect to {addr} (is Darter running there, and is the port open?)")]
    Connect {
        /// The address as it was given.
        addr: String,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// This agent can't listen on the address.
    #[error("cannot listen on {addr} (choose another address or port, or stop the program that holds it)")]
    Listen {
        /// The address as it was given.
        addr: String,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// Something answers there, but it does not speak this protocol.
    #[error("{addr} is not Darter (check the address; the peer port is 7400 unless configured)")]
    NotDarter {
        /// The address of the other side.
        addr: String,
    },
    /// The connection was accepted, but the other side sent nothing.
    #[error("{addr} accepts connections but says nothing for {after:?} (is it overloaded or stopped, or not Darter?)")]
    NoAnswer {
        /// The address of the other side.
        addr: String,
        /// How long was waited.
        after: Duration,
    },
    /// The connection was accepted, and ended before the other side sent anything.
    #[error("{addr} {}", unsaid(.source.as_ref()))]
    HungUp {
        /// The address of the other side.
        addr: String,
        /// The system's error; `None` if the other side closed the connection in an orderly way.
        #[source]
        source: Option<io::Error>,
    },
    /// Another release of Darter, with which this one has no version of the protocol in common.
    #[error("{addr} speaks {theirs} of the peer protocol, this program {ours} ({})", upgrade(.ours, .theirs))]
    Version {
        /// The address of the other side.
        addr: String,
        /// The versions that this agent speaks.
        ours: Versions,
        /// The versions that the peer speaks.
        theirs: Versions,
    },
    /// The other side claims the id of an agent whose key it does not have.
    #[error(
        "{addr} calls itself node {claimed}, but has proved to have the key of node {proven} (remove the files node-id and \
         node-key there and restart that agent, if it is one of yours)"
    )]
    Identity {
        /// The address of the other side.
        addr: String,
        /// The id that the peer claims.
        claimed: NodeId,
        /// The id to which its key belongs.
        proven: NodeId,
    },
    /// The other side is this agent itself.
    #[error("{addr} is this node itself (name another node)")]
    Oneself {
        /// The address that led back here.
        addr: String,
    },
    /// Two agents have one id.
    #[error(
        "{addr} and {other} are two agents with one id, {node} (one data directory is a copy of the other: \
         remove the files node-id and node-key from one of them and restart its agent)"
    )]
    SameId {
        /// The address of one of them.
        addr: String,
        /// The id of both.
        node: NodeId,
        /// The address of the other one.
        other: String,
    },
    /// The channel is closed: by this side, or by the other one before it had sent everything.
    #[error("the connection is closed")]
    Closed {
        /// The system's error, if the connection broke.
        #[source]
        source: Option<io::Error>,
    },
    /// Nothing came for too long, or nothing could be written for too long.
    #[error("no sign of life from the other side for {after:?}")]
    Silent {
        /// How long was waited.
        after: Duration,
    },
    /// A bounded queue or table is full: try again after some answers.
    #[error("too many unanswered messages or requests")]
    Full,
    /// The id of a new request is that of an unanswered one.
    #[error("request {id} is still unanswered")]
    InUse {
        /// The id.
        id: u32,
    },
    /// Bytes from the peer, or bytes to be sent, violate the protocol.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// Reading or writing failed.
    #[error("cannot {doing}")]
    Io {
        /// The action that failed.
        doing: &'static str,
        /// The system's error.
        #[source]
        source: io::Error,
    },
}

/// Says how a connection ended before anything was said on it. Only an orderly end is a sign of another program.
const fn unsaid(source: Option<&io::Error>) -> &'static str {
    match source {
        None => "closes connections without a word (a much older release of Darter, or something else?)",
        Some(_) => {
            "accepts connections, but this one broke before the first answer (restarted, or cut off by the network?)"
        }
    }
}

/// Says which of two agents has to be upgraded.
fn upgrade(ours: &Versions, theirs: &Versions) -> &'static str {
    if theirs.highest < ours.lowest { "upgrade Darter there" } else { "upgrade Darter here" }
}

impl Blamed for WireError {
    fn blame(&self) -> Blame {
        use Fault::{Network, Ourselves, Peer, User};
        let (fault, retry) = match self {
            Self::Listen { .. } | Self::NotDarter { .. } | Self::Oneself { .. } => (User, Retry::Never),
            Self::Connect { .. }
            | Self::HungUp { source: Some(_), .. }
            | Self::Closed { .. }
            | Self::Silent { .. }
            | Self::Io { .. } => (Network, Retry::Later(None)),
            // Time or a restart over there can heal it: another release, another id, less to do.
            Self::Version { .. } | Self::SameId { .. } | Self::NoAnswer { .. } | Self::HungUp { .. } => {
                (Peer, Retry::Later(None))
            }
            // The peer broke the protocol: a reason to shun it. All other kinds are bad luck.
            Self::Protocol(_) | Self::Identity { .. } => (Peer, Retry::Elsewhere),
            Self::Full => (Ourselves, Retry::Later(None)),
            Self::InUse { .. } => (Ourselves, Retry::Never),
        };
        Blame::new(fault, retry)
    }
}

impl WireError {
    /// True if only an upgrade of one of the two agents helps, so that the next try may wait long.
    pub const fn needs_upgrade(&self) -> bool {
        matches!(self, Self::Version { .. })
    }

    /// The channel ended without an error of the system.
    pub(crate) const fn closed() -> Self {
        Self::Closed { source: None }
    }

    pub(crate) const fn violation(what: &'static str) -> Self {
        Self::Protocol(ProtocolError::Violation { what })
    }

    pub(crate) fn io(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| match source.kind() == io::ErrorKind::UnexpectedEof || is_cut(&source) {
            true => Self::Closed { source: Some(source) },
            false => Self::Io { doing, source },
        }
    }
}

/// True if this error says that the other side, or something on the way, ended the connection.
pub(crate) fn is_cut(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
    matches!(error.kind(), ConnectionReset | ConnectionAborted | BrokenPipe)
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    #[test]
    fn a_connection_that_broke_keeps_the_systems_error() {
        let kinds = [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe, io::ErrorKind::UnexpectedEof];
        for kind in kinds.into_iter().chain([io::ErrorKind::TimedOut]) {
            let error = WireError::io("read")(kind.into());
            assert_eq!(matches!(error, WireError::Closed { .. }), kind != io::ErrorKind::TimedOut, "{error}");
            let source = error.source().and_then(|source| source.downcast_ref::<io::Error>());
            assert_eq!(source.map(io::Error::kind), Some(kind));
        }
        assert!(WireError::closed().source().is_none());
    }
}
