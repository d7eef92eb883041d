//! Tags and referrers: answers that change, passed through as they are, encoding included.
//!
//! Only the link to the next page is rewritten (`link`).

use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, LINK};
use http::{HeaderName, Method, Response, StatusCode};
use url::form_urlencoded;

use crate::local::{self, Body};
use crate::metrics::MirrorKind;
use crate::mirror::link::{self, List};
use crate::mirror::problem::{Code, Problem};
use crate::mirror::{Ask, Mirror};

const OCI_FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

impl Mirror {
    /// Passes `rest` of the repository through.
    pub(super) async fn listing(&self, ask: &Ask<'_>, kind: MirrorKind, rest: &str) -> Result<Response<Body>, Problem> {
        let page = page_of(&ask.query);
        let path = match &page {
            Some(page) => page.clone(),
            None if ask.query.is_empty() => format!("/v2/{}/{rest}", ask.repository),
            None => format!("/v2/{}/{rest}?{}", ask.repository, ask.query),
        };
        let method = if ask.head { Method::HEAD } else { Method::GET };
        let reply = self.request_path(ask, method, path.clone(), ask.accept()).await?;
        if reply.status != StatusCode::OK {
            self.refused(ask, reply.status, None);
            let unknown = if kind == MirrorKind::Tags { Code::NameUnknown } else { Code::ManifestUnknown };
            return Err(Problem::of_reply(reply, ask.upstream.name(), unknown));
        }
        // A page that the registry has under a path of its own may be of another repository.
        if page.is_none() {
            self.accepted(ask, &reply);
        }
        let mut response = Response::new(local::empty());
        let headers = response.headers_mut();
        for name in [CONTENT_TYPE, CONTENT_LENGTH, CONTENT_ENCODING, OCI_FILTERS_APPLIED] {
            if let Some(value) = reply.headers.get(&name) {
                headers.insert(name, value.clone());
            }
        }
        let (repository, asked_name) = (&ask.repository, &ask.asked_name);
        let list = List { base: ask.upstream.base(), asked: &path, repository, asked_name, rest, naming: &ask.naming };
        if let Some(link) = link::next_page(list, &reply.headers) {
            headers.insert(LINK, link);
        }
        ask.pass_on(headers);
        if !ask.head {
            headers.insert(CONTENT_LENGTH, reply.body.len().into());
            *response.body_mut() = local::full(reply.body);
        }
        Ok(response)
    }
}

/// The page that a request names by the registry's own path, if it does.
fn page_of(query: &str) -> Option<String> {
    let named = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == link::PAGE);
    named.map(|(_, page)| page.into_owned()).filter(|page| page.starts_with("/v2/"))
}
