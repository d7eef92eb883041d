//! Bodies of answers.

use std::io;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};

/// Body of every answer. An error in it breaks the connection off, so that the reader sees an incomplete body.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A body of bytes at hand.
pub(crate) fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// No body.
pub(crate) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}
