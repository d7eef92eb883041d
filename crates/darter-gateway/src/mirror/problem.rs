//! Errors as the distribution specification writes them: a status and `{"errors":[{"code","message"}]}`.
//!
//! An upstream's refusal is passed on with its own message and challenges, because the engine's next step (a token,
//! another login) depends on them. If there is no answer at all, the status is 502 or 504, on which engines go on to their
//! next mirror or to the registry itself.

use std::time::Duration;

use bytes::Bytes;
use darter_engine::error;
use darter_oci::error::{Code, is_in_form, own_words};
use darter_oci::name::NameError;
use darter_origin::{Answer, ErrorKind, OriginError, OriginFailure, status_text};
use darter_registries::REFUSAL_BODY_TIMEOUT;
use darter_registries::question::Reply;
use futures_util::StreamExt;
use http::header::{
    ALLOW, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use hyper::ext::ReasonPhrase;

use crate::body::{self, Body};
use crate::mirror::told;

/// Most bytes of an upstream's error body that are passed on.
const MAX_OF_A_REFUSAL: usize = 64 << 10;
/// Most characters of a message in a status line.
const MAX_REASON: usize = 200;

/// An answer with an error.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    pub(crate) status: StatusCode,
    code: Code,
    message: String,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// An upstream's own body, if it is in the specification's form.
    body: Option<Bytes>,
}

impl Problem {
    /// An error of the mirror itself. The message says what to do next.
    pub(crate) fn new(status: StatusCode, code: Code, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), headers: Vec::new(), body: None }
    }

    /// The answer was not ready within the time that engines should wait; `what` is what it waited for.
    pub(crate) fn too_slow(waited: Duration, what: &str) -> Self {
        let text =
            format!("no answer in {} s: waited for {what}; ask again, or ask the registry", waited.as_secs_f64());
        Self::new(StatusCode::GATEWAY_TIMEOUT, Code::Unavailable, text)
    }

    /// True if the upstream has a temporary failure; false if it decided about the request.
    pub(crate) fn is_trouble(&self) -> bool {
        self.status.is_server_error() || self.status == StatusCode::TOO_MANY_REQUESTS
    }

    /// The answer to methods that change something.
    pub(crate) fn read_only() -> Self {
        let text = "this is a mirror for pulling: push to the registry itself";
        let mut problem = Self::new(StatusCode::METHOD_NOT_ALLOWED, Code::Unsupported, text);
        problem.headers.push((ALLOW, HeaderValue::from_static("GET, HEAD")));
        problem
    }

    /// The answer that asks for a login first.
    pub(crate) fn log_in() -> Self {
        let text = "log in to this mirror with the login of the registry behind it, as in podman login \
                    127.0.0.1:7401/ghcr.io; without a login only what is public is served";
        let challenge = HeaderValue::from_static(r#"Basic realm="darter""#);
        Self::new(StatusCode::UNAUTHORIZED, Code::Unauthorized, text).with_header(WWW_AUTHENTICATE, challenge)
    }

    /// An upstream (or an agent) delivered something other than what was requested.
    pub(crate) fn bad_upstream(code: Code, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_GATEWAY, code, message)
    }

    /// An upstream did not answer. `unknown` is the code of a 404.
    pub(crate) fn of_error(error: &OriginError, unknown: Code) -> Self {
        Self::of_failure(&OriginFailure::from(error), unknown)
    }

    /// An origin delivered no bytes, according to an agent. `unknown` is the code of a 404.
    pub(crate) fn of_failure(failure: &OriginFailure, unknown: Code) -> Self {
        let status = error::passed_on(failure);
        let mut problem = Self::new(status, Code::of(status, unknown), &failure.text);
        match &failure.kind {
            ErrorKind::Unauthorized { challenge } => {
                for value in challenge.iter().filter_map(|text| HeaderValue::from_str(text).ok()) {
                    problem.headers.push((WWW_AUTHENTICATE, value));
                }
            }
            _ => {
                let wait = failure.blame().retry.after();
                problem.headers.extend(wait.map(|wait| (RETRY_AFTER, wait.as_secs().max(1).into())));
            }
        }
        problem
    }

    /// An upstream answered with an error. `unknown` is the code of a 404.
    pub(crate) async fn of_answer(answer: Answer, upstream: &str, unknown: Code) -> Self {
        let (status, headers) = (answer.status, answer.headers.clone());
        // Without the body, status and headers still tell the engine what to do next.
        let body = tokio::time::timeout(REFUSAL_BODY_TIMEOUT, refusal_body(answer)).await;
        let body = body.ok().flatten().unwrap_or_default();
        Self::of_parts(status, &headers, body, upstream, unknown)
    }

    /// An upstream answered with an error, which was read completely. `unknown` is the code of a 404.
    pub(crate) fn of_reply(reply: Reply, upstream: &str, unknown: Code) -> Self {
        Self::of_parts(reply.status, &reply.headers, reply.body, upstream, unknown)
    }

    fn of_parts(answered: StatusCode, headers: &HeaderMap, body: Bytes, upstream: &str, unknown: Code) -> Self {
        let status = passed_on(answered);
        let is_encoded = headers.get(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity");
        let own_words = if is_encoded { None } else { own_words(&body) };
        let text = match &own_words {
            Some(words) => format!("{upstream} answered {}: {words}", status_text(answered)),
            None => format!("{upstream} answered {}", status_text(answered)),
        };
        let mut problem = Self::new(status, Code::of(status, unknown), text);
        for name in [WWW_AUTHENTICATE, RETRY_AFTER, CONTENT_RANGE] {
            for value in headers.get_all(&name) {
                problem.headers.push((name.clone(), value.clone()));
            }
        }
        for (name, value) in &told::of(headers) {
            problem.headers.push((name.clone(), value.clone()));
        }
        // An encoded body can't be judged here, so it is passed on unchanged, as without the mirror.
        if status == answered && !body.is_empty() && (is_encoded || is_in_form(&body)) {
            problem.body = Some(body);
            if is_encoded {
                let encodings = headers.get_all(CONTENT_ENCODING).iter();
                problem.headers.extend(encodings.map(|value| (CONTENT_ENCODING, value.clone())));
                let media_type = headers.get(CONTENT_TYPE).cloned();
                problem.headers.extend(media_type.map(|value| (CONTENT_TYPE, value)));
            }
        }
        problem
    }

    /// Adds a header.
    pub(crate) fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// The error message for the log.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// The response for the engine; without a body for a HEAD.
    pub(crate) fn into_response(self, head: bool) -> Response<Body> {
        let Self { status, code, message, headers, body } = self;
        let reason = reason(status, &message);
        let body = body.unwrap_or_else(|| {
            let errors = serde_json::json!({ "errors": [{ "code": code.as_str(), "message": message }] });
            Bytes::from(errors.to_string())
        });
        let length = body.len();
        let mut response = Response::new(if head { body::empty() } else { body::full(body) });
        *response.status_mut() = status;
        for (name, value) in headers {
            response.headers_mut().append(name, value);
        }
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().entry(CONTENT_TYPE).or_insert(json);
        response.headers_mut().insert(CONTENT_LENGTH, length.into());
        if let Some(reason) = reason {
            response.extensions_mut().insert(reason);
        }
        response
    }
}

impl From<NameError> for Problem {
    fn from(error: NameError) -> Self {
        let (status, code) = match error {
            NameError::Repository(_) => (StatusCode::BAD_REQUEST, Code::NameInvalid),
            NameError::Digest(_) => (StatusCode::BAD_REQUEST, Code::DigestInvalid),
            // A name that is not a valid tag can't have been pushed: 404, as the specification's own tests expect.
            NameError::Reference(_) => (StatusCode::NOT_FOUND, Code::ManifestUnknown),
        };
        Self::new(status, code, error.to_string())
    }
}

/// The status line's text for a failure to get an answer. Engines begin with a HEAD, whose answer has no body, so this line is what they show,
/// also in a pod's events.
fn reason(status: StatusCode, message: &str) -> Option<ReasonPhrase> {
    let name = status.canonical_reason().filter(|_| status.is_server_error())?;
    let plain = message.chars().map(|it| if it == ' ' || it.is_ascii_graphic() { it } else { '?' });
    let plain: String = plain.take(MAX_REASON).collect();
    ReasonPhrase::try_from(format!("{name} ({plain})").into_bytes()).ok()
}

/// The status for the caller: errors of the caller keep their status; everything else is a bad gateway, including a proxy of ours that wants a
/// login.
fn passed_on(status: StatusCode) -> StatusCode {
    match status {
        StatusCode::PROXY_AUTHENTICATION_REQUIRED => StatusCode::BAD_GATEWAY,
        status if status.is_client_error() => status,
        _ => StatusCode::BAD_GATEWAY,
    }
}

/// The body, if it is small and arrives in time.
async fn refusal_body(mut answer: Answer) -> Option<Bytes> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.body.next().await {
        body.extend_from_slice(&chunk.ok()?);
        if body.len() > MAX_OF_A_REFUSAL {
            return None;
        }
    }
    Some(body.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// containerd shows no more than this of the answer to a HEAD.
    #[test]
    fn a_failures_status_line_says_why() {
        let line = |status, message: &str| {
            let problem = Problem::new(status, Code::Unavailable, message);
            let response = problem.into_response(true);
            let reason = response.extensions().get::<ReasonPhrase>();
            reason.map(|reason| String::from_utf8(reason.as_bytes().to_vec()).unwrap())
        };
        let told = line(StatusCode::BAD_GATEWAY, "reg.lab answered 500: database is locked");
        assert_eq!(told.unwrap(), "Bad Gateway (reg.lab answered 500: database is locked)");
        let told = line(StatusCode::GATEWAY_TIMEOUT, "a\r\nX: y…").unwrap();
        assert_eq!(told, "Gateway Timeout (a??X: y?)", "nothing gets out of the line");
        assert!(line(StatusCode::BAD_GATEWAY, &"long ".repeat(1000)).unwrap().len() < 300);
        assert_eq!(line(StatusCode::NOT_FOUND, "no such tag"), None, "the registry's own status is passed on as it is");
    }

    #[test]
    fn a_failures_status_says_whose_fault_it_is_and_the_time_to_come_back_goes_along() {
        let told = |kind, retry_after| {
            let failure = OriginFailure { retry_after, ..OriginFailure::new(kind, "why") };
            let response = Problem::of_failure(&failure, Code::BlobUnknown).into_response(true);
            let wait = response.headers().get(RETRY_AFTER).map(|wait| wait.to_str().unwrap().to_owned());
            (response.status().as_u16(), wait)
        };
        let wait = Some(Duration::from_secs(17));
        assert_eq!(told(ErrorKind::Status(503), wait), (502, Some("17".into())));
        assert_eq!(told(ErrorKind::Status(451), None), (451, None));
        assert_eq!(told(ErrorKind::Status(407), None), (502, None), "a proxy of ours is not the caller's affair");
        assert_eq!(told(ErrorKind::RateLimited { retry_after: wait }, wait), (429, Some("17".into())));
        assert_eq!(told(ErrorKind::Timeout, None), (504, None));
    }
}
