//! Errors of origins, in one type: what went wrong, what to do next, and the [`Blame`].
//!
//! A seed sends its error to the node that waits for it as an [`OriginFailure`]: message and blame stay the same, and the chain of sources becomes text.

use std::error::Error as StdError;
use std::path::PathBuf;
use std::time::Duration;

use darter_core::{Blame, Blamed, Fault, Retry, in_full};
use serde::{Deserialize, Serialize};

/// The kind of an error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ErrorKind {
    /// The resource does not exist.
    NotFound,
    /// The origin requires credentials, or did not accept those that were sent.
    Unauthorized {
        /// The values of its `WWW-Authenticate` headers.
        challenge: Vec<String>,
    },
    /// The credentials are valid but not sufficient, or access to the address is forbidden.
    Forbidden,
    /// Too many requests.
    RateLimited {
        /// How long the origin asks to wait.
        retry_after: Option<Duration>,
    },
    /// There is no connection: it was refused, there is no route, or it broke before an answer came.
    Unreachable,
    /// Nothing was received for too long.
    Timeout,
    /// The TLS handshake failed; usually the certificate is not trusted.
    Tls,
    /// The resource does not have the expected version, or that is not certain.
    Changed,
    /// The bytes do not match a hash that the origin itself declares.
    Contradicted,
    /// The body ended before its announced length.
    Truncated,
    /// The range is outside the resource.
    RangeNotSatisfiable,
    /// Any other HTTP status that is not a success.
    Status(u16),
    /// The origin, or the caller, violates the protocol.
    Protocol,
    /// A local file could not be read.
    Io,
    /// This agent does not send requests to the address for this caller; another agent may.
    OutOfReach,
    /// The bytes have an encoding that was not requested.
    Encoded,
    /// The name of the host, or of the proxy, does not exist: most likely it is misspelt.
    UnknownName,
    /// The proxy that is configured can't be used.
    Proxy,
    /// A web page came instead of the requested content: from a portal, or a gateway that requires a login.
    Page,
    /// A layer can't be expanded into the form that the kernel mounts. It can be downloaded as it is stored.
    Unmountable,
}

/// An origin's failure. `Display` says what failed and what to do next; the cause is in `source()`.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct OriginError {
    kind: ErrorKind,
    text: String,
    #[source]
    source: Option<Box<dyn StdError + Send + Sync>>,
    /// How long the origin asked to wait, if the kind does not have it.
    retry_after: Option<Duration>,
    unconnected: bool,
}

/// An [`OriginError`] as it is sent in a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OriginFailure {
    /// The kind of the failure.
    pub kind: ErrorKind,
    /// The HTTP status behind it, if there was one.
    pub status: Option<u16>,
    /// What failed and what to do next, with the causes.
    pub text: String,
    /// How long the origin asked to wait before the next try, if it did.
    #[serde(default)]
    pub retry_after: Option<Duration>,
}

impl OriginFailure {
    /// A failure of this kind. `text` says what failed, why, and what to do next.
    pub fn new(kind: ErrorKind, text: impl Into<String>) -> Self {
        let (status, retry_after) = (kind.status(), kind.retry_after());
        Self { kind, status, text: text.into(), retry_after }
    }

    /// Whose fault it is, and whether another try helps.
    pub const fn blame(&self) -> Blame {
        self.kind.blame_if_asked_to_wait(self.retry_after)
    }
}

impl OriginError {
    /// An error of this kind. `text` says what failed and what to do next, in lower case without a full stop.
    pub fn new(kind: ErrorKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into(), source: None, retry_after: None, unconnected: false }
    }

    /// This error with its cause.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// This error, met on the way to `what`.
    #[must_use]
    pub(crate) fn met_at(mut self, what: &str) -> Self {
        self.text = format!("{what}: {}", self.text);
        self
    }

    /// The kind of the error.
    pub const fn kind(&self) -> &ErrorKind {
        &self.kind
    }

    /// The HTTP status that caused the error, if one did.
    pub const fn status(&self) -> Option<u16> {
        self.kind.status()
    }

    /// How long the origin asked to wait before the next try.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self.kind.retry_after() {
            None => self.retry_after,
            asked => asked,
        }
    }

    /// This error of an origin that asked to wait, for example with a 503.
    #[must_use]
    pub(crate) const fn asking_to_wait(mut self, retry_after: Option<Duration>) -> Self {
        self.retry_after = retry_after;
        self
    }

    /// This error, which happened before a connection was made.
    #[must_use]
    pub(crate) const fn without_connection(mut self) -> Self {
        self.unconnected = true;
        self
    }

    /// True if the origin may give the whole although it refused a part with this error. Not if the resource is missing, requires a login or may come later, which
    /// concerns the whole, too.
    pub fn may_be_of_part(&self) -> bool {
        let refuses_parts =
            matches!(self.kind, ErrorKind::Forbidden | ErrorKind::RangeNotSatisfiable | ErrorKind::Protocol);
        let is_refusal = refuses_parts || matches!(self.kind, ErrorKind::Status(_));
        is_refusal && self.blame().retry == Retry::Never
    }

    /// True if no connection was made, so that nothing in the request can be the reason.
    pub const fn is_unconnected(&self) -> bool {
        self.unconnected
    }
}

impl Blamed for OriginError {
    fn blame(&self) -> Blame {
        self.kind.blame_if_asked_to_wait(self.retry_after())
    }
}

impl ErrorKind {
    /// The HTTP status of this kind, if it has one.
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

    /// How long the origin asked to wait, if the kind has that.
    const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after } => *retry_after,
            _ => None,
        }
    }

    /// Whose fault it is, and whether another try helps.
    pub const fn blame(&self) -> Blame {
        use Fault::{Network, Origin, User};
        let (fault, retry) = match self {
            Self::NotFound | Self::Unauthorized { .. } | Self::Forbidden | Self::RangeNotSatisfiable | Self::Io => {
                (User, Retry::Never)
            }
            // Another agent may be configured with another proxy.
            Self::OutOfReach | Self::Proxy => (User, Retry::Elsewhere),
            Self::RateLimited { retry_after } => (User, Retry::Later(*retry_after)),
            Self::Unreachable | Self::Timeout | Self::Truncated => (Network, Retry::Later(None)),
            // Another agent may have another name server, or no portal in its way.
            Self::UnknownName | Self::Page => (Network, Retry::Elsewhere),
            // Another agent may trust another authority, be configured with another proxy, or be given the right bytes.
            Self::Tls | Self::Contradicted => (Origin, Retry::Elsewhere),
            Self::Changed => (Origin, Retry::Now),
            Self::Encoded | Self::Protocol | Self::Unmountable => (Origin, Retry::Never),
            Self::Status(status) => return blame_of_status(*status),
        };
        Blame::new(fault, retry)
    }

    /// The blame if the origin asked to wait. If something is not ready yet, or too many requests are answered as forbidden, only
    /// this shows that a later request may succeed.
    const fn blame_if_asked_to_wait(&self, retry_after: Option<Duration>) -> Blame {
        let blame = self.blame();
        let waits = matches!(self, Self::Status(202) | Self::Forbidden) || blame.retry.is_later();
        match retry_after {
            Some(_) if waits => Blame::new(blame.fault, Retry::Later(retry_after)),
            _ => blame,
        }
    }
}

/// The blame for an HTTP status without a kind of its own.
const fn blame_of_status(status: u16) -> Blame {
    let (fault, retry) = match status {
        // Another agent may have a proxy that knows it, or none.
        407 => (Fault::User, Retry::Elsewhere),
        408 | 425 => (Fault::Network, Retry::Later(None)),
        400..500 => (Fault::User, Retry::Never),
        // A network that wants a login.
        511 => (Fault::Network, Retry::Elsewhere),
        // These stay as they are until somebody mends them. Gateways have numbers of their own above 511 for an origin that fails.
        501 | 505 | 506 | 508 | 510 => (Fault::Origin, Retry::Never),
        500.. => (Fault::Origin, Retry::Later(None)),
        _ => (Fault::Origin, Retry::Never),
    };
    Blame::new(fault, retry)
}

/// An HTTP status as people search for it, such as "404 Not Found"; only the number if it has no name.
pub fn status_text(status: http::StatusCode) -> String {
    match status.canonical_reason() {
        Some(_) => status.to_string(),
        None => status.as_str().to_owned(),
    }
}

impl From<&OriginError> for OriginFailure {
    fn from(error: &OriginError) -> Self {
        let (status, retry_after) = (error.status(), error.retry_after());
        Self { kind: error.kind.clone(), status, text: in_full(error).to_string(), retry_after }
    }
}

impl From<OriginFailure> for OriginError {
    fn from(failure: OriginFailure) -> Self {
        let retry_after = failure.retry_after;
        Self::new(failure.kind, failure.text).asking_to_wait(retry_after)
    }
}

/// Why origins can't be set up as configured.
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
    /// The file of extra certificate authorities is malformed.
    #[error("{path} holds no certificates: write them in PEM, as -----BEGIN CERTIFICATE-----")]
    NotCertificates {
        /// The file.
        path: PathBuf,
        /// Why, if the parser says so.
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
    /// A client certificate or its key is malformed.
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
        /// The header's name.
        name: String,
    },
    /// The HTTP client can't be built.
    #[error("cannot set up the HTTP client")]
    Client(#[source] reqwest::Error),
}
