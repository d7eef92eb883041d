//! Bodies of responses, checked against their announced length.
//!
//! The HTTP stack notices a body that is shorter than its `Content-Length`. It does not look at `Content-Range`, and can't know that a body without either was cut off because the server closed the
//! connection.

use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt};

use crate::client::{StallTimeout, of_body};
use crate::error::{ErrorKind, OriginError};

/// The bytes of a body as they come. Ends after an error.
pub type Body = BoxStream<'static, Result<Bytes, OriginError>>;

/// The body of `response`. It must have `expected` bytes, if that number is known. `what` is its name in messages.
pub(crate) fn of_response(response: reqwest::Response, expected: Option<u64>, what: String) -> Body {
    checked(chunks_of(response, what.clone()), expected, what)
}

/// The chunks of a response's body. Each has to come within the server's [`StallTimeout`].
pub(crate) fn chunks_of(
    response: reqwest::Response,
    what: String,
) -> impl Stream<Item = Result<Bytes, OriginError>> + Send + 'static {
    let stall = response.extensions().get::<StallTimeout>().copied();
    stream::unfold(Some((response, what)), move |reading| async move {
        let (mut response, what) = reading?;
        let chunk = match stall {
            Some(StallTimeout(limit)) => match tokio::time::timeout(limit, response.chunk()).await {
                Ok(chunk) => chunk,
                Err(_) => {
                    let text = format!("{what} stopped in the middle: no byte came for {} s", limit.as_secs_f64());
                    return Some((Err(OriginError::new(ErrorKind::Timeout, text)), None));
                }
            },
            None => response.chunk().await,
        };
        match chunk.map_err(|error| of_body(error, &what)).transpose()? {
            Ok(chunk) => Some((Ok(chunk), Some((response, what)))),
            Err(error) => Some((Err(error), None)),
        }
    })
}

/// Passes `bytes` on, and ends with an error if there are not exactly `expected` ones. If no bytes are expected, none are read: the body of a 416 for an empty
/// resource is a message.
pub(crate) fn checked(
    bytes: impl Stream<Item = Result<Bytes, OriginError>> + Send + 'static,
    expected: Option<u64>,
    what: String,
) -> Body {
    if expected == Some(0) {
        return stream::empty().boxed();
    }
    let counted = Counted { bytes: bytes.boxed(), passed: 0, expected, what };
    stream::unfold(Some(counted), |counted| async {
        let mut counted = counted?;
        let item = counted.next().await?;
        let goes_on = item.is_ok();
        Some((item, goes_on.then_some(counted)))
    })
    .boxed()
}

struct Counted {
    bytes: BoxStream<'static, Result<Bytes, OriginError>>,
    passed: u64,
    expected: Option<u64>,
    what: String,
}

impl Counted {
    async fn next(&mut self) -> Option<Result<Bytes, OriginError>> {
        let chunk = match self.bytes.next().await {
            Some(Ok(chunk)) => chunk,
            Some(Err(error)) => return Some(Err(error)),
            None => {
                let expected = self.expected.filter(|&expected| self.passed < expected)?;
                let text = format!("{} ended after {} of {expected} bytes", self.what, self.passed);
                return Some(Err(OriginError::new(ErrorKind::Truncated, text)));
            }
        };
        self.passed += chunk.len() as u64;
        if self.expected.is_some_and(|expected| self.passed > expected) {
            let text = format!("{} is longer than announced", self.what);
            return Some(Err(OriginError::new(ErrorKind::Protocol, text)));
        }
        Some(Ok(chunk))
    }
}
