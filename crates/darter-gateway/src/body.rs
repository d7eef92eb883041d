//! The body type of HTTP answers, and bodies in memory.

use std::io;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};

/// The body of every answer. An error in it ends the connection, so that the reader sees an incomplete body.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A body of bytes in memory.
pub(crate) fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// An empty body.
pub(crate) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}
