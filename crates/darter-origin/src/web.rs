//! `http` and `https` addresses as an [`Origin`].
//!
//! `stat` asks with HEAD. Servers that answer GET may refuse HEAD with various statuses, so a GET of the first byte decides if HEAD does not succeed, or is not answered for a while; if that fails, too, reading
//! the resource decides. The question is "is it the same?", never "is it newer?", since an origin may go back to an older file. So a date is compared here and never sent as a condition, and a 304 counts
//! only for the entity tag that it names.
//!
//! `read` sends `If-Range`, so that a changed resource comes completely, with its new validators, and not as a part of something else. The validators are compared in any case.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use darter_core::signature;
use darter_core::source::{Credentials, SIGNED_QUERY};
use darter_core::{ByteRange, Source, Version};
use http::header::{
    ACCEPT_RANGES, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_NONE_MATCH, IF_RANGE,
    RANGE, TRANSFER_ENCODING,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use crate::body;
use crate::client::{HttpClient, Linked, Reach, Request, Requester, credential_headers, of_status, shown};
use crate::declared::Declared;
use crate::error::{ErrorKind, OriginError};
use crate::origin::{Origin, Reading, Stat};
use crate::shown::shown as shown_of;
use crate::validators::{opaque, settle, surely_same, version_of};

/// How long HEAD may take before GET is tried.
const HEAD_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a GET of one byte may take. Some servers never answer a range, and yet send the whole.
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(7);

/// Reads `http` and `https` addresses.
#[derive(Clone, Debug)]
pub struct HttpOrigin {
    client: HttpClient,
    requester: Requester,
}

impl HttpOrigin {
    /// Reads through `client`, for programs of this host.
    pub const fn new(client: HttpClient) -> Self {
        Self { client, requester: Requester::Here }
    }

    /// Sets for whom it reads.
    pub(crate) const fn set_requester(&mut self, requester: Requester) {
        self.requester = requester;
    }

    async fn ask(
        &self,
        method: Method,
        source: &Source,
        credentials: &Credentials,
        headers: HeaderMap,
    ) -> Result<reqwest::Response, OriginError> {
        let Source::Url { url, variant, .. } = source else {
            let text = format!("{source} is not an HTTP address");
            return Err(OriginError::new(ErrorKind::Protocol, text));
        };
        let mut url = url.clone();
        let signed = credentials.headers.iter().find(|(name, _)| name == SIGNED_QUERY);
        if let Some((_, query)) = signed.filter(|(_, query)| signature::belongs_to(query, url.query())) {
            url.set_query(Some(query));
        }
        let mut request = Request::new(method, url);
        request.reach = match self.requester {
            Requester::Here | Requester::Named => Reach::Anywhere,
            Requester::Elsewhere => Reach::BeyondHost,
        };
        request.headers = credential_headers(&Credentials { headers: variant.clone() })?;
        request.headers.extend(headers);
        request.credentials = credential_headers(credentials)?;
        self.client.send(request).await
    }
}

impl HttpOrigin {
    /// An answer with the headers of the resource; its body is not read.
    async fn describe(
        &self,
        source: &Source,
        credentials: &Credentials,
        etag: Option<&str>,
    ) -> Result<reqwest::Response, OriginError> {
        if let Some(response) = self.head(source, credentials, etag).await {
            return Ok(response);
        }
        let mut headers = HeaderMap::new();
        ask_for_range(&mut headers, Some(ByteRange::new(0, 1)));
        let asked = self.ask(Method::GET, source, credentials, headers);
        tokio::time::timeout(FIRST_BYTE_TIMEOUT, asked).await.unwrap_or_else(|_| {
            let text = format!("{} sent no byte for {} s", name_of(source), FIRST_BYTE_TIMEOUT.as_secs());
            Err(OriginError::new(ErrorKind::Timeout, text))
        })
    }

    /// The answer to a HEAD, if it comes in time and is a success; a 304 counts only for the entity tag in the request.
    async fn head(&self, source: &Source, credentials: &Credentials, etag: Option<&str>) -> Option<reqwest::Response> {
        let mut headers = HeaderMap::new();
        put(&mut headers, IF_NONE_MATCH, etag);
        let asked = self.ask(Method::HEAD, source, credentials, headers);
        let response = tokio::time::timeout(HEAD_TIMEOUT, asked).await.ok()?.ok()?;
        let named = response.headers().get(ETAG).and_then(|value| value.to_str().ok());
        let is_same = named.zip(etag).is_some_and(|(named, etag)| opaque(named) == opaque(etag));
        match response.status() {
            status if is_whole(status) => Some(response),
            StatusCode::NOT_MODIFIED if is_same => Some(response),
            _ => None,
        }
    }
}

#[async_trait]
impl Origin for HttpOrigin {
    async fn stat(
        &self,
        source: &Source,
        credentials: &Credentials,
        known: Option<&Version>,
    ) -> Result<Stat, OriginError> {
        let etag = known.and_then(|known| known.etag.as_deref());
        let response = self.describe(source, credentials, etag).await?;
        let (status, headers) = (response.status(), response.headers());
        let shown = shown_of(response.url(), &self.client.signed_parameters(), headers, credentials);
        let current = match (status, known) {
            (StatusCode::NOT_MODIFIED, Some(known)) => {
                let told = version_of(headers, known.length);
                let last_modified = told.last_modified.or_else(|| known.last_modified.clone());
                Version { last_modified, ..told }
            }
            (status, _) if is_whole(status) => version_of(headers, content_length(headers)),
            (StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE, _) => {
                version_of(headers, whole_length(headers))
            }
            _ => return Err(of_status(status, headers, &name_of(source))),
        };
        let ranges = status == StatusCode::PARTIAL_CONTENT || serves_ranges(headers);
        let unchanged = known.is_some_and(|known| surely_same(known, &current));
        Ok(Stat { version: current, shown, unchanged, ranges })
    }

    async fn read(
        &self,
        source: &Source,
        credentials: &Credentials,
        range: Option<ByteRange>,
        expect: Option<&Version>,
    ) -> Result<Reading, OriginError> {
        let mut headers = HeaderMap::new();
        ask_for_range(&mut headers, range);
        if headers.contains_key(RANGE) {
            // Only strong tags may stand in If-Range.
            let strong = expect.and_then(|expect| expect.etag.as_deref()).filter(|etag| !etag.starts_with("W/"));
            put(&mut headers, IF_RANGE, strong);
        }
        let response = self.ask(Method::GET, source, credentials, headers).await?;
        let what = name_of(source);
        let part = AnswerPart::of(response.status(), response.headers(), range, &what)?;
        let current = version_of(response.headers(), part.length);
        let shown = shown_of(response.url(), &self.client.signed_parameters(), response.headers(), credentials);
        let asked_from = range.map_or(0, ByteRange::start);
        let version = settle(expect, current, asked_from, source.digest().is_some(), &what)?;
        let linked = response.extensions().get::<Linked>().cloned().unwrap_or_default();
        if let (Some(size), Some(length)) = (linked.size, part.length)
            && size != length
        {
            let text =
                format!("{what}: the origin declares {size} bytes (x-linked-size) and has {length}: try again later");
            return Err(OriginError::new(ErrorKind::Contradicted, text));
        }
        let status = response.status();
        let is_whole = part.start == 0 && (status != StatusCode::PARTIAL_CONTENT || part.bytes == part.length);
        // The body of a 416 is a text about it.
        let declared = match status {
            StatusCode::RANGE_NOT_SATISFIABLE => Declared::default(),
            _ => Declared::of(response.headers(), linked.tag.as_deref(), is_whole, &what)?,
        };
        declared.agrees(source.digest().filter(|_| expect.is_none()), &what)?;
        let (body, witness) = declared.check(body::of_response(response, part.bytes, what.clone()), what);
        let is_part = !is_whole;
        Ok(Reading { version, shown, start: part.start, is_part, length: part.length, witness, body })
    }

    async fn shows_own_keys(&self, source: &Source, _credentials: &Credentials) -> bool {
        matches!(source, Source::Url { url, .. } if self.client.has_keys_for(url))
    }

    async fn disposition(&self, source: &Source, credentials: &Credentials) -> Result<Option<String>, OriginError> {
        let response = self.describe(source, credentials, None).await?;
        if !response.status().is_success() {
            return Err(of_status(response.status(), response.headers(), &name_of(source)));
        }
        let value = response.headers().get(CONTENT_DISPOSITION);
        Ok(value.map(|value| text_of(value.as_bytes())))
    }
}

/// A header as text: UTF-8, as servers send it today, otherwise Latin-1, as HTTP once specified (RFC 6266).
fn text_of(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().copied().map(char::from).collect(),
    }
}

/// Which bytes of the resource an answer has.
pub(crate) struct AnswerPart {
    /// The offset of the first byte.
    pub(crate) start: u64,
    /// How many bytes, if the answer says it.
    pub(crate) bytes: Option<u64>,
    /// The length of the whole resource in bytes, if the answer says it.
    pub(crate) length: Option<u64>,
}

impl AnswerPart {
    /// The part of the resource that an answer to a GET for `range` has.
    ///
    /// # Errors
    /// The error for the status, or [`ErrorKind::Protocol`] if the answer does not fit the request.
    pub(crate) fn of(
        status: StatusCode,
        headers: &HeaderMap,
        range: Option<ByteRange>,
        what: &(impl fmt::Display + ?Sized),
    ) -> Result<Self, OriginError> {
        let asked_from = range.map_or(0, ByteRange::start);
        match status {
            status if is_whole(status) => {
                let length = content_length(headers);
                Ok(Self { start: 0, bytes: length, length })
            }
            // Nobody asked for a part and no part is named: it is the whole.
            StatusCode::PARTIAL_CONTENT if range.is_none() && names_no_part(headers) => {
                let length = content_length(headers);
                Ok(Self { start: 0, bytes: length, length })
            }
            StatusCode::PARTIAL_CONTENT => {
                let wrong = || {
                    OriginError::new(
                        ErrorKind::Protocol,
                        format!(
                            "{what}: HTTP 206 Partial Content with another range than the requested one: ask who runs the server"
                        ),
                    )
                };
                let (sent, length) = content_range(headers).ok_or_else(wrong)?;
                // Some servers call the whole a part, or a part the whole.
                let is_as_long = content_length(headers).is_none_or(|length| length == sent.len());
                if sent.start() != asked_from || !is_as_long {
                    return Err(wrong());
                }
                Ok(Self { start: sent.start(), bytes: Some(sent.len()), length })
            }
            // An empty resource has no byte to give by range, and none is missing.
            StatusCode::RANGE_NOT_SATISFIABLE if asked_from == 0 && whole_length(headers) == Some(0) => {
                Ok(Self { start: 0, bytes: Some(0), length: Some(0) })
            }
            other => Err(of_status(other, headers, &what.to_string())),
        }
    }
}

/// True if an answer with this status has the whole resource: 200, 203 (a proxy changed it), and other unexpected statuses of success with
/// content, which curl and browsers accept, too.
fn is_whole(status: StatusCode) -> bool {
    let others = [StatusCode::ACCEPTED, StatusCode::NO_CONTENT, StatusCode::RESET_CONTENT, StatusCode::PARTIAL_CONTENT];
    status.is_success() && !others.contains(&status)
}

/// Adds a `Range` header, unless the range can only mean the whole.
pub(crate) fn ask_for_range(headers: &mut HeaderMap, range: Option<ByteRange>) {
    let Some(range) = range.filter(|range| !range.is_empty()) else { return };
    if range.start() == 0 && range.end() == u64::MAX {
        return;
    }
    let text = match range.end() {
        u64::MAX => format!("bytes={}-", range.start()),
        end => format!("bytes={}-{}", range.start(), end - 1),
    };
    put(headers, RANGE, Some(&text));
}

/// `Content-Length`, from the headers, since an answer to HEAD has a length but no body. Together with
/// `Transfer-Encoding: chunked` it is ignored (RFC 9112, section 6.3).
pub(crate) fn content_length(headers: &HeaderMap) -> Option<u64> {
    let is_chunked = |value: &HeaderValue| value.as_bytes().to_ascii_lowercase().ends_with(b"chunked");
    if headers.get_all(TRANSFER_ENCODING).iter().any(is_chunked) {
        return None;
    }
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.trim().parse().ok()
}

/// True if the origin says that it serves ranges.
pub(crate) fn serves_ranges(headers: &HeaderMap) -> bool {
    headers.get(ACCEPT_RANGES).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"bytes"))
}

/// The range and the whole length in `Content-Range: bytes 0-9/100`.
fn content_range(headers: &HeaderMap) -> Option<(ByteRange, Option<u64>)> {
    let text = headers.get(CONTENT_RANGE)?.to_str().ok()?.trim();
    let (unit, text) = text.split_at_checked("bytes".len())?;
    // Some servers write it as a request does.
    let text = text.trim_start_matches([' ', '\t', '=', ':']);
    if !unit.eq_ignore_ascii_case("bytes") {
        return None;
    }
    let (range, length) = text.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    let end = last.checked_add(1).filter(|&end| end > first)?;
    Some((ByteRange::new(first, end), length.trim().parse().ok()))
}

/// True if a 206 does not say which part it has: neither one nor several (`multipart/byteranges`).
fn names_no_part(headers: &HeaderMap) -> bool {
    let several = headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"multipart/"));
    !headers.contains_key(CONTENT_RANGE) && !several
}

/// The whole length in `Content-Range`, also in the form `bytes */100` of a 416.
fn whole_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_RANGE)?.to_str().ok()?.rsplit_once('/')?.1.trim().parse().ok()
}

fn put(headers: &mut HeaderMap, name: HeaderName, value: Option<&str>) {
    if let Some(value) = value.and_then(|value| HeaderValue::from_str(value).ok()) {
        headers.insert(name, value);
    }
}

fn name_of(source: &Source) -> String {
    match source {
        Source::Url { url, .. } => shown(url),
        Source::Registry { .. } | Source::Expanded(_) => source.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_text_in_either_of_two_alphabets() {
        assert_eq!(text_of("naïve".as_bytes()), "naïve");
        assert_eq!(text_of(b"na\xefve"), "naïve");
    }
}
