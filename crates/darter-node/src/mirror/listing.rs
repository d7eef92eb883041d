//! Tags and referrers: answers that change, passed through as they are.
//!
//! Only the link to the next page is rewritten, so that whoever follows it stays on the mirror and names the same
//! upstream: its query is the upstream's, its path is the one that was asked for.

use http::header::{CONTENT_LENGTH, CONTENT_TYPE, LINK};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use url::form_urlencoded;

use crate::local::{self, Body};
use crate::metrics::MirrorKind;
use crate::mirror::problem::{Code, Problem};
use crate::mirror::rescue;
use crate::mirror::route::{self, Naming};
use crate::mirror::{Ask, Mirror, header};

const OCI_FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

impl Mirror {
    /// Passes `rest` of the repository through.
    pub(super) async fn listing(&self, ask: &Ask<'_>, kind: MirrorKind, rest: &str) -> Result<Response<Body>, Problem> {
        let query = if ask.query.is_empty() { String::new() } else { format!("?{}", ask.query) };
        let method = if ask.head { Method::HEAD } else { Method::GET };
        let answer = self.request(ask, kind, method, &format!("{rest}{query}"), ask.accept()).await?;
        if answer.status != StatusCode::OK {
            self.refused(ask, answer.status, None);
            let unknown = if kind == MirrorKind::Tags { Code::NameUnknown } else { Code::ManifestUnknown };
            return Err(Problem::of_answer(answer, ask.upstream.name(), unknown).await);
        }
        self.accepted(ask);
        let mut response = Response::new(local::empty());
        for name in [CONTENT_TYPE, CONTENT_LENGTH, OCI_FILTERS_APPLIED] {
            if let Some(value) = answer.headers.get(&name) {
                response.headers_mut().insert(name, value.clone());
            }
        }
        if let Some(link) = next_page(&answer.headers, &ask.repository, rest, &ask.naming)? {
            response.headers_mut().insert(LINK, link);
        }
        if !ask.head {
            *response.body_mut() = rescue::passed_through(answer.body, &self.metrics);
        }
        Ok(response)
    }
}

/// The link to the next page, as the mirror serves it.
fn next_page(
    headers: &HeaderMap,
    repository: &str,
    rest: &str,
    naming: &Naming,
) -> Result<Option<HeaderValue>, Problem> {
    for value in headers.get_all(LINK).iter().filter_map(|value| value.to_str().ok()) {
        let Some((target, parameters)) = value.split_once('<').and_then(|(_, link)| link.split_once('>')) else {
            continue;
        };
        if !parameters.contains("next") {
            continue;
        }
        let (_, query) = route::split_query(target.split_once('?').map(|(_, query)| query));
        let mut query = form_urlencoded::Serializer::new(query);
        let prefix = match naming {
            Naming::Namespace(namespace) => {
                query.append_pair("ns", namespace);
                String::new()
            }
            Naming::Prefix(prefix) => format!("{prefix}/"),
            Naming::Default => String::new(),
        };
        return header(&format!("</v2/{prefix}{repository}/{rest}?{}>; rel=\"next\"", query.finish())).map(Some);
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(link: &'static str, naming: &Naming) -> Option<String> {
        let headers = HeaderMap::from_iter([(LINK, HeaderValue::from_static(link))]);
        let link = next_page(&headers, "lib/app", "tags/list", naming).unwrap();
        link.map(|link| link.to_str().unwrap().to_owned())
    }

    #[test]
    fn the_next_page_stays_on_the_mirror_and_with_its_upstream() {
        let relative = r#"</v2/lib/app/tags/list?last=a%2Bb&n=2>; rel="next""#;
        let absolute = r#"<https://registry.lab/base/v2/lib/app/tags/list?last=a%2Bb&n=2>; rel=next"#;
        for link in [relative, absolute] {
            assert_eq!(
                rewritten(link, &Naming::Namespace("10.0.0.1:5000".into())).unwrap(),
                r#"</v2/lib/app/tags/list?last=a%2Bb&n=2&ns=10.0.0.1%3A5000>; rel="next""#
            );
            assert_eq!(
                rewritten(link, &Naming::Prefix("ghcr.io".into())).unwrap(),
                r#"</v2/ghcr.io/lib/app/tags/list?last=a%2Bb&n=2>; rel="next""#
            );
            assert_eq!(
                rewritten(link, &Naming::Default).unwrap(),
                r#"</v2/lib/app/tags/list?last=a%2Bb&n=2>; rel="next""#
            );
        }
        assert_eq!(rewritten(r#"<https://docs.lab/>; rel="help""#, &Naming::Default), None);
    }
}
