//! What goes wrong at an origin, in one type: what it is, whose fault, whether to try again, what to do next.
//!
//! An error crosses from the seed that met it to the node that waits for it as an [`OriginFailure`]; what it says and
//! how it is judged survive the trip, the chain of sources becomes text.

use std::error::Error as StdError;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ErrorKind {
    /// There is no such resource.
    NotFound,
    /// The origin wants credentials, or did not accept those it got.
    Unauthorized {
        /// The values of its `WWW-Authenticate` headers.
        challenge: Vec<String>,
    },
    /// The credentials are known and not sufficient, or the address is out of bounds.
    Forbidden,
    /// Too many requests.
    RateLimited {
        /// How long the origin asks to wait.
        retry_after: Option<Duration>,
    },
    /// No connection: unknown host, refused, no route, or broken before an answer came.
    Unreachable,
    /// Nothing came for too long.
    Timeout,
    /// The TLS handshake failed; mostly a certificate that isn't trusted.
    Tls,
    /// The resource is not (known to be) of the expected version.
    Changed,
    /// The bytes are not those that the origin itself declares by a hash.
    Contradicted,
    /// The body ended before its announced length.
    Truncated,
    /// The range lies outside of the resource.
    RangeNotSatisfiable,
    /// Any other HTTP status that is not a success.
    Status(u16),
    /// The origin, or the caller, does not keep to the protocol.
    Protocol,
    /// A local file could not be read.
    Io,
    /// The address is one that this agent does not go to for who asked; another agent may.
    OutOfReach,
    /// The bytes come in an encoding that nobody asked for.
    Encoded,
}

/// Who can do something about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Who asked: a wrong address, missing or wrong credentials.
    User,
    /// Who runs the origin.
    Origin,
    /// Who runs what lies between.
    Network,
}

/// An origin's failure. `Display` says what failed and what to do next; the cause is in `source()`.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct OriginError {
    kind: ErrorKind,
    text: String,
    #[source]
    source: Option<Box<dyn StdError + Send + Sync>>,
    /// How long the origin asked to wait, where the kind does not say it.
    retry_after: Option<Duration>,
    unknown_name: bool,
    unconnected: bool,
}

/// An [`OriginError`] as it travels in a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OriginFailure {
    /// What went wrong.
    pub kind: ErrorKind,
    /// The HTTP status behind it, if there was one.
    pub status: Option<u16>,
    /// What happened and what to do next, with the causes.
    pub text: String,
}

impl OriginError {
    /// An error of this kind; `text` says what failed and what to do next (lower case, no full stop).
    pub fn new(kind: ErrorKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into(), source: None, retry_after: None, unknown_name: false, unconnected: false }
    }

    /// The same error with its cause.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The same error, met on the way to `what`.
    #[must_use]
    pub(crate) fn met_at(mut self, what: &str) -> Self {
        self.text = format!("{what}: {}", self.text);
        self
    }

    /// What went wrong.
    pub const fn kind(&self) -> &ErrorKind {
        &self.kind
    }

    /// The HTTP status behind the error, if it stands for one.
    pub const fn status(&self) -> Option<u16> {
        self.kind.status()
    }

    /// Whether the same request may succeed later.
    pub const fn retryable(&self) -> bool {
        // Of what is not ready yet, and of too many requests that are called forbidden, a time to come back tells.
        let asks_to_come_back =
            self.retry_after.is_some() && matches!(self.kind, ErrorKind::Status(202) | ErrorKind::Forbidden);
        self.kind.retryable() || asks_to_come_back
    }

    /// How long the origin asked to wait before the next try.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self.kind {
            ErrorKind::RateLimited { retry_after } => retry_after,
            _ => self.retry_after,
        }
    }

    /// The same error of an origin that asked to wait, as with a 503.
    #[must_use]
    pub(crate) const fn asking_to_wait(mut self, retry_after: Option<Duration>) -> Self {
        self.retry_after = retry_after;
        self
    }

    /// The same error, since nobody knows the host's name.
    #[must_use]
    pub(crate) const fn of_unknown_name(mut self) -> Self {
        self.unknown_name = true;
        self
    }

    /// Whether the host's name is unknown: most likely it is misspelt.
    pub(crate) const fn is_unknown_name(&self) -> bool {
        self.unknown_name
    }

    /// The same error, since no connection was made.
    #[must_use]
    pub(crate) const fn without_connection(mut self) -> Self {
        self.unconnected = true;
        self
    }

    /// Whether no connection was made: nothing of the request can be the reason.
    pub const fn is_unconnected(&self) -> bool {
        self.unconnected
    }

    /// Who can do something about it.
    pub const fn whose_fault(&self) -> Fault {
        self.kind.whose_fault()
    }
}

impl ErrorKind {
    /// The HTTP status this kind stands for, if any.
    pub const fn status(&self) -> Option<u16> {
        match self {
            Self::NotFound => Some(404),
            Self::Unauthorized { .. } => Some(401),
            Self::Forbidden => Some(403),
            Self::RateLimited { .. } => Some(429),
            Self::RangeNotSatisfiable => Some(416),
            Self::Status(status) => Some(*status),
            _ => None,
        }
    }

    /// Whether the same request may succeed later.
    pub const fn retryable(&self) -> bool {
        match self {
            Self::RateLimited { .. } | Self::Unreachable | Self::Timeout | Self::Truncated => true,
            Self::Status(408 | 425) => true,
            // Gateways have numbers of their own above 511 for an origin that fails. What is left out stays as it is until
            // somebody mends it.
            Self::Status(status) => *status >= 500 && !matches!(status, 501 | 505 | 506 | 508 | 510 | 511),
            _ => false,
        }
    }

    /// Who can do something about it.
    pub const fn whose_fault(&self) -> Fault {
        match self {
            Self::NotFound
            | Self::Unauthorized { .. }
            | Self::Forbidden
            | Self::RangeNotSatisfiable
            | Self::Io
            | Self::OutOfReach => Fault::User,
            Self::Unreachable | Self::Timeout | Self::Truncated => Fault::Network,
            Self::RateLimited { .. }
            | Self::Tls
            | Self::Changed
            | Self::Contradicted
            | Self::Encoded
            | Self::Status(_)
            | Self::Protocol => Fault::Origin,
        }
    }
}

impl From<&OriginError> for OriginFailure {
    fn from(error: &OriginError) -> Self {
        let mut text = error.text.clone();
        let mut cause = error.source();
        while let Some(next) = cause {
            let next_text = next.to_string();
            // Wrappers of the HTTP stack often repeat what they wrap.
            if !text.contains(&next_text) {
                text.push_str(": ");
                text.push_str(&next_text);
            }
            cause = next.source();
        }
        Self { kind: error.kind.clone(), status: error.status(), text }
    }
}

impl From<OriginFailure> for OriginError {
    fn from(failure: OriginFailure) -> Self {
        Self::new(failure.kind, failure.text)
    }
}

/// Why an origin can't be set up as configured.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file of extra certificate authorities can't be read.
    #[error("cannot read the certificate authorities in {path}: check that the file exists and is readable")]
    CaFile {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file of extra certificate authorities is not what it should be.
    #[error("{path} holds no certificates: write them in PEM, as -----BEGIN CERTIFICATE-----")]
    NotCertificates {
        /// The file.
        path: PathBuf,
        /// Why, if the parser says.
        #[source]
        source: Option<reqwest::Error>,
    },
    /// A client certificate or its key can't be read.
    #[error("cannot read the client certificate or key in {path}: check that the file exists and is readable")]
    ClientCertificate {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A client certificate or its key is not what it should be.
    #[error("{path} and its key are no client certificate: write both in PEM, the key in PKCS#8, PKCS#1 or SEC1")]
    NotAClientCertificate {
        /// The certificate's file.
        path: PathBuf,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// A configured header can't be sent.
    #[error("the header {name:?} can't be sent: check its name, and its value for line breaks")]
    Header {
        /// Its name.
        name: String,
    },
    /// The HTTP client can't be built.
    #[error("cannot set up the HTTP client")]
    Client(#[source] reqwest::Error),
}
