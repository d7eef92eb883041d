//! Why an agent could not start.

use std::io;
use std::net::SocketAddr;

use darter_core::fault::advice;
use darter_core::{Blame, Blamed, Fault, Retry};
pub use darter_engine::error::FetchError;
use darter_fleet::seeds::JoinError;
use darter_origin::ConfigError;
use darter_store::StoreError;

/// Why an agent could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port is in use, or the system refuses it.
    #[error("can't listen on {addr} ({flag}): {advice}")]
    Listen {
        /// The address.
        addr: String,
        /// The flag that sets it.
        flag: &'static str,
        /// What is wrong, and what to do.
        advice: String,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The data directory can't be used.
    #[error("the data directory can't be used")]
    Store(#[from] StoreError),
    /// A file of the agent can't be read or written.
    #[error("{path}: {reason}")]
    File {
        /// The path of the file.
        path: String,
        /// What is wrong, and what to do.
        reason: String,
        /// The system's error, if it refused.
        #[source]
        source: Option<io::Error>,
    },
    /// Something other than a Darter agent answers at an address to join.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// Options contradict each other.
    #[error("{0}")]
    Options(String),
    /// An option names something unusable, such as a bad file of certificates.
    #[error(transparent)]
    Origins(#[from] ConfigError),
}

impl StartError {
    /// The error for a port that the system refuses.
    pub fn cannot_listen(addr: SocketAddr, flag: &'static str, source: io::Error) -> Self {
        let advice = match source.kind() {
            io::ErrorKind::AddrInUse => {
                format!("the port is taken; stop what uses it (`ss -ltnp` shows it), or give {flag} another")
            }
            io::ErrorKind::PermissionDenied => {
                format!("not permitted; ports below 1024 are for root; give {flag} a higher one")
            }
            io::ErrorKind::AddrNotAvailable => {
                format!("no such address on this host; give {flag} one that `ip addr` shows, or 0.0.0.0")
            }
            _ => format!("give {flag} another address"),
        };
        Self::Listen { addr: addr.to_string(), flag, advice, source }
    }

    /// The error for a file, or another object of the agent, that the system refuses.
    pub fn cannot_use(path: String, source: io::Error) -> Self {
        Self::File { path, reason: advice(&source).to_owned(), source: Some(source) }
    }
}

impl Blamed for StartError {
    fn blame(&self) -> Blame {
        match self {
            Self::Store(error) => error.blame(),
            Self::Listen { source, .. } | Self::File { source: Some(source), .. } => source.blame(),
            Self::File { source: None, .. } => Blame::new(Fault::Disk, Retry::Never),
            Self::Join(_) | Self::Options(_) | Self::Origins(_) => Blame::new(Fault::User, Retry::Never),
        }
    }
}
