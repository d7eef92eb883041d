//! Links to further pages (RFC 8288), rewritten for clients of the mirror.
//!
//! If the next page is under the same path at the registry, or under that of another list, its link stays on the mirror and names the
//! same upstream. So does a link to the list's own path on another server: a registry that does not know the proxy before it uses
//! a name, scheme, port or base path of its own. A page at any other path of the registry's API is named in full in the query ([`PAGE`]), with a code by
//! which the mirror recognises it (`page`). A page outside the API, or at the path of a manifest or a blob, is not the mirror's:
//! its link is not changed. A page whose next page is one that the client has seen is the last (`walk`).
//!
//! Pure.

use darter_oci::route::{self, Route};
use http::header::LINK;
use http::{HeaderMap, HeaderValue};
use percent_encoding::percent_decode_str;
use url::{Url, form_urlencoded};

use crate::mirror::page::{Page, Pages};
use crate::mirror::route::{Naming, split_query};
use crate::mirror::walk::{WALK, Walk};

/// The query parameter with the registry's own path and query of a page.
pub(crate) const PAGE: &str = "darter-page";
/// The query parameter that proves that the registry linked to that page.
pub(crate) const PAGE_CODE: &str = "darter-page-mac";

/// A list that was requested.
#[derive(Clone, Copy)]
pub(crate) struct List<'a> {
    /// The registry's base address.
    pub(crate) base: &'a Url,
    /// The registry's own path and query, from `/v2/` on.
    pub(crate) asked: &'a str,
    /// The repository, as the registry names it.
    pub(crate) repository: &'a str,
    /// The repository, as the request named it.
    pub(crate) asked_name: &'a str,
    /// The list's path below the repository, such as `tags/list`.
    pub(crate) rest: &'a str,
    /// How the request named the upstream.
    pub(crate) naming: &'a Naming,
    /// True if the caller brought credentials.
    pub(crate) has_credentials: bool,
    /// Makes and checks the codes of pages.
    pub(crate) pages: &'a Pages,
    /// Which pages the client came from, if it followed links.
    pub(crate) walk: Option<Walk>,
}

/// The `Link` to the page after this one.
pub(crate) fn next_page(list: List<'_>, headers: &HeaderMap) -> Option<HeaderValue> {
    let asked = list.base.join(list.asked.strip_prefix('/')?).ok()?;
    let values = headers.get_all(LINK).iter().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let target = values.flat_map(|value| links_of(&value)).find(|link| link.is_next)?.target;
    let target = asked.join(&target).ok()?;
    let Some(walk) = Walk::on(list.walk, &asked, &target) else {
        tracing::debug!(%target, "the pages lead in a circle");
        return None;
    };
    let walk = (list.walk.is_some() || !list.is_first()).then_some(walk);
    HeaderValue::from_str(&format!("<{}>; rel=\"next\"", list.on_the_mirror(&target, walk))).ok()
}

impl List<'_> {
    /// True if this is the first page of a list: it is requested with nothing but a size and a filter.
    fn is_first(&self) -> bool {
        let (path, query) = self.asked.split_once('?').unwrap_or((self.asked, ""));
        let mut parameters = form_urlencoded::parse(query.as_bytes());
        path == format!("/v2/{}/{}", self.repository, self.rest)
            && parameters.all(|(name, _)| name == "n" || name == "artifactType")
    }

    fn on_the_mirror(&self, target: &Url, walk: Option<Walk>) -> String {
        let own = format!("v2/{}/{}", self.repository, self.rest);
        let whole = route::decoded(target.path());
        let same = [self.base.path(), "/"].iter().any(|base| whole.strip_prefix(base) == Some(&own));
        let is_here = target.origin() == self.base.origin();
        let below = target.path().strip_prefix(self.base.path()).filter(|rest| is_here && rest.starts_with("v2/"));
        let Some(path) = below.or(same.then_some(&own)).map(|rest| format!("/{rest}")) else {
            return target.to_string();
        };
        let decoded = route::decoded(&path);
        let (repository, rest) = match route::parse(&decoded) {
            _ if same => (self.repository, self.rest.to_owned()),
            Some(Route::Tags { name }) => (name, "tags/list".to_owned()),
            Some(Route::Referrers { name, digest }) => (name, format!("referrers/{digest}")),
            _ => {
                let page = target.query().map_or_else(|| path.clone(), |query| format!("{path}?{query}"));
                let Some(code) = self.code(&page).filter(|_| may_be_list(&path)) else { return target.to_string() };
                let mut query = form_urlencoded::Serializer::new(String::new());
                query.append_pair(PAGE, &page).append_pair(PAGE_CODE, &code);
                return self.path(self.asked_name, self.rest, query, walk);
            }
        };
        let repository = if repository == self.repository { self.asked_name } else { repository };
        let (_, query) = split_query(target.query());
        self.path(repository, &rest, form_urlencoded::Serializer::new(query), walk)
    }

    fn code(&self, path: &str) -> Option<String> {
        let Self { base, repository, has_credentials, .. } = *self;
        self.pages.code(Page { base, repository, has_credentials, path })
    }

    fn path(
        &self,
        repository: &str,
        rest: &str,
        mut query: form_urlencoded::Serializer<'_, String>,
        walk: Option<Walk>,
    ) -> String {
        if let Some(walk) = walk {
            query.append_pair(WALK, &walk.to_string());
        }
        let prefix = match self.naming {
            Naming::Namespace(namespace) => {
                query.append_pair("ns", namespace);
                String::new()
            }
            Naming::Prefix(prefix) => format!("{prefix}/"),
            Naming::Default => String::new(),
        };
        format!("/v2/{prefix}{repository}/{rest}?{}", query.finish())
    }
}

/// True if a list may have a page at this path: not if the specification defines the path otherwise, however it is escaped.
fn may_be_list(path: &str) -> bool {
    let decoded = percent_decode_str(path).decode_utf8_lossy();
    !matches!(route::parse(&decoded), Some(Route::Ping | Route::Manifest { .. } | Route::Blob { .. }))
}

struct Link {
    target: String,
    is_next: bool,
}

/// All links of one header's value. A malformed link ends the list.
fn links_of(value: &str) -> Vec<Link> {
    let (mut links, mut rest) = (Vec::new(), value);
    while let Some((target, after)) = rest.split_once('<').and_then(|(_, link)| link.split_once('>')) {
        let (parameters, next) = split_at_comma(after);
        links.push(Link { target: target.trim().to_owned(), is_next: is_next(parameters) });
        rest = next;
    }
    links
}

/// The text before the first comma outside of quotes, and the text after it.
fn split_at_comma(text: &str) -> (&str, &str) {
    split_unquoted(text, ',').unwrap_or((text, ""))
}

fn split_unquoted(text: &str, separator: char) -> Option<(&str, &str)> {
    let (mut quoted, mut escaped) = (false, false);
    for (at, character) in text.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ if character == separator && !quoted => return Some((&text[..at], &text[at + separator.len_utf8()..])),
            _ => {}
        }
    }
    None
}

/// True if the first `rel` among a link's parameters contains `next`.
fn is_next(parameters: &str) -> bool {
    let mut rest = Some(parameters);
    while let Some(text) = rest {
        let (parameter, after) = split_unquoted(text, ';').map_or((text, None), |(one, after)| (one, Some(after)));
        rest = after;
        let Some((name, value)) = parameter.split_once('=') else { continue };
        if name.trim().eq_ignore_ascii_case("rel") {
            let relations = value.trim().trim_matches('"');
            return relations.split_ascii_whitespace().any(|relation| relation.eq_ignore_ascii_case("next"));
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(base: &str, link: &str, naming: &Naming) -> Option<String> {
        let base: Url = base.parse().unwrap();
        let headers = HeaderMap::from_iter([(LINK, HeaderValue::from_str(link).unwrap())]);
        let asked = "/v2/lib/app/tags/list?n=2";
        let (repository, asked_name, rest) = ("lib/app", "lib/app", "tags/list");
        let (has_credentials, pages) = (false, &Pages::new());
        let walk = None;
        let list = List { base: &base, asked, repository, asked_name, rest, naming, has_credentials, pages, walk };
        next_page(list, &headers).map(|link| link.to_str().unwrap().to_owned())
    }

    #[test]
    fn the_next_page_stays_on_the_mirror_and_with_its_upstream() {
        let relative = r#"</v2/lib/app/tags/list?last=a%2Bb&n=2>; rel="next""#;
        let absolute = r#"<https://registry.lab/v2/lib/app/tags/list?last=a%2Bb&n=2>; rel=next"#;
        let query_only = r#"<?last=a%2Bb&n=2>; rel="next""#;
        for link in [relative, absolute, query_only] {
            let next = |naming: &Naming| next("https://registry.lab/", link, naming).unwrap();
            assert_eq!(
                next(&Naming::Namespace("10.0.0.1:5000".into())),
                r#"</v2/lib/app/tags/list?last=a%2Bb&n=2&ns=10.0.0.1%3A5000>; rel="next""#
            );
            assert_eq!(
                next(&Naming::Prefix("ghcr.io".into())),
                r#"</v2/ghcr.io/lib/app/tags/list?last=a%2Bb&n=2>; rel="next""#
            );
            assert_eq!(next(&Naming::Default), r#"</v2/lib/app/tags/list?last=a%2Bb&n=2>; rel="next""#);
        }
    }

    #[test]
    fn the_same_list_elsewhere_is_the_registry_under_a_name_of_its_own() {
        for link in [
            "<http://registry.lab/v2/lib/app/tags/list?last=a>; rel=next",
            "<https://registry.lab:5000/v2/lib/app/tags/list?last=a>; rel=next",
            "<//registry/v2/lib/app/tags/list?last=a>; rel=next",
            "</v2/lib/app/tags/list?last=a>; rel=next",
        ] {
            for base in ["https://registry.lab/", "https://registry.lab/base/"] {
                let found = next(base, link, &Naming::Prefix("lab".into()));
                assert_eq!(found.as_deref(), Some(r#"</v2/lab/lib/app/tags/list?last=a>; rel="next""#), "{link}");
            }
        }
        let another = "<https://registry/v2/lib/other/tags/list?last=a>; rel=next";
        let found = next("https://registry.lab/", another, &Naming::Default).unwrap();
        assert!(found.starts_with("<https://registry/"), "{found}");
    }

    #[test]
    fn a_registry_below_a_path_is_no_different() {
        let link = r#"</base/v2/lib/app/tags/list?last=a>; rel="next""#;
        assert_eq!(
            next("https://registry.lab/base/", link, &Naming::Default).unwrap(),
            r#"</v2/lib/app/tags/list?last=a>; rel="next""#
        );
    }

    #[test]
    fn the_next_page_is_found_among_other_links_and_parameters() {
        for link in [
            r#"</docs>; rel="help", <?last=a>; rel="next""#,
            r#"<?first>; rel=first; title="a, b; rel=next", <?last=a>;title="x\"y";REL="prev NEXT""#,
            r#"<?last=a>; rel=next; rel=prev, <?last=b>; rel=next"#,
        ] {
            let found = next("https://registry.lab/", link, &Naming::Default);
            assert_eq!(found.as_deref(), Some(r#"</v2/lib/app/tags/list?last=a>; rel="next""#), "{link}");
        }
        for link in [r#"<?last=a>; rel="nextish""#, r#"<?last=a>; title=next"#, "?last=a; rel=next", "<", ""] {
            assert_eq!(next("https://registry.lab/", link, &Naming::Default), None, "{link}");
        }
    }

    #[test]
    fn a_next_page_at_another_path_keeps_its_path() {
        let next = |link| next("https://registry.lab/", link, &Naming::Prefix("lab".into())).unwrap();
        assert_eq!(next("</v2/moved/tags/list?last=a>; rel=next"), r#"</v2/lab/moved/tags/list?last=a>; rel="next""#);
        let page = next("</v2/lib/app/tags/page/2?k=v>; rel=next");
        let (page, code) = page.split_once("&darter-page-mac=").unwrap();
        assert_eq!(page, "</v2/lab/lib/app/tags/list?darter-page=%2Fv2%2Flib%2Fapp%2Ftags%2Fpage%2F2%3Fk%3Dv");
        assert_eq!(code.len(), r#">; rel="next""#.len() + 64);
        assert_eq!(next("<https://elsewhere.lab/p?2>; rel=next"), r#"<https://elsewhere.lab/p?2>; rel="next""#);
        assert_eq!(next("</pages/2>; rel=next"), r#"<https://registry.lab/pages/2>; rel="next""#);
    }

    #[test]
    fn what_can_be_no_page_of_a_list_keeps_its_address() {
        let digest = darter_core::Digest::sha256(b"x");
        for path in ["/v2/", "/v2/other/manifests/1", "/v2/other/%6danifests/1", &format!("/v2/app/bl%6fbs/{digest}")] {
            let next = next("https://registry.lab/", &format!("<{path}>; rel=next"), &Naming::Default);
            assert_eq!(next.unwrap(), format!(r#"<https://registry.lab{path}>; rel="next""#));
        }
    }

    #[test]
    fn a_page_that_is_its_own_next_is_the_last() {
        for link in ["</v2/lib/app/tags/list?n=2>; rel=next", "<?n=2>; rel=next", "<>; rel=next", "<#top>; rel=next"] {
            assert_eq!(next("https://registry.lab/", link, &Naming::Default), None, "{link}");
        }
    }
}
