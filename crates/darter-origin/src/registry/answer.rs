//! A registry's answer.

use std::fmt;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};

use crate::body::Body;
use crate::client::of_status;
use crate::error::{ErrorKind, OriginError, status_text};

/// A registry's answer with any status.
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers as they were received, including hop-by-hop headers.
    pub headers: HeaderMap,
    /// The body, checked against its `Content-Length`. Empty for HEAD.
    pub body: Body,
    /// The name of the requested thing in messages.
    pub(super) what: String,
    /// Why the token service gave no token, if the registry's 401 follows from that.
    pub(super) no_token: Option<OriginError>,
}

impl Answer {
    /// The answer itself if its status is a success or 304.
    ///
    /// # Errors
    /// The error for the status.
    pub fn into_success(self) -> Result<Self, OriginError> {
        if self.status.is_success() || self.status == StatusCode::NOT_MODIFIED {
            return Ok(self);
        }
        let error = of_status(self.status, &self.headers, &self.what);
        Err(for_want_of_token(error, &self.what, self.no_token))
    }

    /// This answer, which the registry gave to a request without a token, because of `refusal`.
    pub(super) fn without_token(self, refusal: Option<OriginError>) -> Self {
        Self { no_token: refusal, ..self }
    }

    /// True if this is a web page.
    pub fn is_page(&self) -> bool {
        is_page(&self.headers)
    }

    /// The answer itself, unless it is a web page instead of a blob, which does not come from the registry.
    ///
    /// # Errors
    /// [`ErrorKind::Page`], which names the `registry`.
    pub fn into_blob(self, registry: &(impl fmt::Display + ?Sized)) -> Result<Self, OriginError> {
        if !self.status.is_success() || !self.is_page() {
            return Ok(self);
        }
        let text = format!(
            "{registry} sent a page of HTML (HTTP {}) where a blob should be: check its address, and whether a portal or \
             a proxy answers in its place",
            status_text(self.status)
        );
        Err(OriginError::new(ErrorKind::Page, text))
    }
}

/// The `error` of an answer about `what`. If it is the registry's 401, and its token service gave no token, that `refusal` is the cause: the
/// address of the token service may be wrong, and not the credentials.
pub(super) fn for_want_of_token(error: OriginError, what: &str, refusal: Option<OriginError>) -> OriginError {
    match refusal {
        Some(refusal) if matches!(error.kind(), ErrorKind::Unauthorized { .. }) => {
            let named = status_text(StatusCode::UNAUTHORIZED);
            let text = format!("{what}: HTTP {named}, since the registry's token service gave no token");
            OriginError::new(error.kind().clone(), text).caused_by(refusal)
        }
        _ => error,
    }
}

/// True if an answer with these headers is a web page, as gateways show to callers that have to log in.
pub fn is_page(headers: &HeaderMap) -> bool {
    let pages: [&[u8]; 2] = [b"text/html", b"application/xhtml+xml"];
    headers.get(CONTENT_TYPE).is_some_and(|value| {
        let essence = value.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
        pages.iter().any(|page| essence.trim_ascii().eq_ignore_ascii_case(page))
    })
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").field("status", &self.status).field("headers", &self.headers).finish_non_exhaustive()
    }
}
