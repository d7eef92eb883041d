//! Errors in bytes from another agent, or in what is about to be written.

/// The decoder's error for bytes that do not decode.
pub use postcard::Error as EncodingError;

/// A result whose error is a [`ProtocolError`].
pub type Result<T, E = ProtocolError> = std::result::Result<T, E>;

/// Why bytes are not what the protocol says, or can't become such bytes.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    /// A length over the protocol's limit, read or about to be written.
    #[error("{what} of {length} bytes is over the limit of {limit}")]
    TooLong {
        /// The thing that has that length.
        what: &'static str,
        /// Its length in bytes.
        length: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// Bytes that do not decode.
    #[error("the other side sent a malformed {what}")]
    Malformed {
        /// The thing that was expected.
        what: &'static str,
        /// The decoder's error.
        #[source]
        source: EncodingError,
    },
    /// Bytes that decode but break the protocol.
    #[error("the other side broke the protocol: {what}")]
    Violation {
        /// The rule that was broken.
        what: &'static str,
    },
}
