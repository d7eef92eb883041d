//! Tags and referrers: answers that change, passed through unchanged, including their encoding.
//!
//! Only the link to the next page is rewritten (`link`).

use darter_metrics::MirrorKind;
use darter_oci::error::Code;
use darter_oci::manifest;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, LINK};
use http::{HeaderName, Method, Response, StatusCode};
use url::form_urlencoded;

use crate::body::{self, Body};
use crate::mirror::link::{self, List};
use crate::mirror::page::Page;
use crate::mirror::problem::Problem;
use crate::mirror::walk::WALK;
use crate::mirror::{Ask, Mirror, route};

const OCI_FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

impl Mirror {
    /// Passes `rest` of the repository through.
    pub(super) async fn listing(&self, ask: &Ask<'_>, kind: MirrorKind, rest: &str) -> Result<Response<Body>, Problem> {
        let page = self.page_of(ask)?;
        let (walk, query) = route::take(&ask.query, WALK);
        let path = match &page {
            Some(page) => page.clone(),
            None if query.is_empty() => format!("/v2/{}/{rest}", ask.repository),
            None => format!("/v2/{}/{rest}?{query}", ask.repository),
        };
        let method = if ask.head { Method::HEAD } else { Method::GET };
        let reply = self.request_path(ask, method, path.clone(), ask.accept()).await?;
        if reply.status != StatusCode::OK {
            self.refused(ask, reply.status, None);
            let unknown = if kind == MirrorKind::Tags { Code::NameUnknown } else { Code::ManifestUnknown };
            return Err(Problem::of_reply(reply, ask.upstream.name(), unknown));
        }
        // A page that the registry has under another path may belong to another repository; and something that is not a list may be a
        // login page.
        if page.is_none() && manifest::is_list(&reply.body) {
            self.accepted(ask, &reply);
        }
        let mut response = Response::new(body::empty());
        let headers = response.headers_mut();
        for name in [CONTENT_TYPE, CONTENT_LENGTH, CONTENT_ENCODING, OCI_FILTERS_APPLIED] {
            if let Some(value) = reply.headers.get(&name) {
                headers.insert(name, value.clone());
            }
        }
        let list = List {
            base: ask.upstream.base(),
            asked: &path,
            repository: &ask.repository,
            asked_name: &ask.asked_name,
            rest,
            naming: &ask.naming,
            has_credentials: !ask.credentials.is_empty(),
            pages: &self.pages,
            walk: walk.and_then(|walk| walk.parse().ok()),
        };
        if let Some(link) = link::next_page(list, &reply.headers) {
            headers.insert(LINK, link);
        }
        ask.pass_on(headers);
        if !ask.head {
            headers.insert(CONTENT_LENGTH, reply.body.len().into());
            *response.body_mut() = body::full(reply.body);
        }
        Ok(response)
    }

    /// The registry's own path of the page that a request names, if it names one.
    fn page_of(&self, ask: &Ask<'_>) -> Result<Option<String>, Problem> {
        let value = |wanted: &str| {
            let found = form_urlencoded::parse(ask.query.as_bytes()).find(|(name, _)| name == wanted);
            found.map(|(_, value)| value.into_owned())
        };
        let Some(path) = value(link::PAGE) else { return Ok(None) };
        let (base, repository, has_credentials) =
            (ask.upstream.base(), ask.repository.as_str(), !ask.credentials.is_empty());
        let page = Page { base, repository, has_credentials, path: &path };
        if self.pages.is_code(page, &value(link::PAGE_CODE).unwrap_or_default()) {
            return Ok(Some(path));
        }
        let text = format!(
            "{} names no page to which the registry has linked since Darter was started: request the list again, from its \
             first page",
            link::PAGE
        );
        Err(Problem::new(StatusCode::BAD_REQUEST, Code::Unsupported, text))
    }
}
