//! `If-Match` and `If-None-Match` (RFC 9110, section 13.1).

use http::header::{IF_MATCH, IF_NONE_MATCH};
use http::{HeaderMap, HeaderName, StatusCode};

/// The status that answers a GET or HEAD in place of the content, which has this strong entity tag (including its quotes).
pub(crate) fn status(headers: &HeaderMap, entity_tag: &str) -> Option<StatusCode> {
    if headers.contains_key(IF_MATCH) && !lists(headers, IF_MATCH, |tag| tag == entity_tag) {
        return Some(StatusCode::PRECONDITION_FAILED);
    }
    let has = |tag: &str| tag.strip_prefix("W/").unwrap_or(tag) == entity_tag;
    lists(headers, IF_NONE_MATCH, has).then_some(StatusCode::NOT_MODIFIED)
}

/// True if a header lists a matching tag, or any.
fn lists(headers: &HeaderMap, name: HeaderName, matches: impl Fn(&str) -> bool) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok().map(str::to_owned));
    values.flat_map(|value| tags_of(&value)).any(|tag| tag == "*" || matches(&tag))
}

/// The entity tags of a list; a comma within quotes separates nothing.
fn tags_of(value: &str) -> Vec<String> {
    let (mut tags, mut tag, mut quoted) = (Vec::new(), String::new(), false);
    for character in value.chars() {
        quoted ^= character == '"';
        if character == ',' && !quoted {
            tags.push(std::mem::take(&mut tag));
        } else {
            tag.push(character);
        }
    }
    tags.push(tag);
    tags.into_iter().map(|tag| tag.trim().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAG: &str = "\"sha256:1\"";

    fn status_of(conditions: &[(&'static str, &str)]) -> Option<u16> {
        let mut headers = HeaderMap::new();
        for (name, value) in conditions {
            headers.append(*name, value.parse().unwrap());
        }
        status(&headers, TAG).map(|status| status.as_u16())
    }

    #[test]
    fn what_a_caller_has_is_compared_weakly_and_what_it_insists_on_strongly() {
        assert_eq!(status_of(&[]), None);
        for has in [TAG, "W/\"sha256:1\"", "\"x\" , W/\"sha256:1\"", "*", "\"a,b\",\"sha256:1\""] {
            assert_eq!(status_of(&[("if-none-match", has)]), Some(304), "{has}");
            assert_eq!(status_of(&[("if-none-match", "\"x\""), ("if-none-match", has)]), Some(304), "{has}");
        }
        for other in ["\"sha256:2\"", "sha256:1", "\"a,\"sha256:1\"\"", ""] {
            assert_eq!(status_of(&[("if-none-match", other)]), None, "{other}");
            assert_eq!(status_of(&[("if-match", other)]), Some(412), "{other}");
        }
        assert_eq!(status_of(&[("if-match", "W/\"sha256:1\"")]), Some(412));
        for same in [TAG, "*", "\"x\", \"sha256:1\""] {
            assert_eq!(status_of(&[("if-match", same)]), None, "{same}");
        }
        assert_eq!(status_of(&[("if-match", TAG), ("if-none-match", TAG)]), Some(304));
        assert_eq!(status_of(&[("if-match", "\"x\""), ("if-none-match", TAG)]), Some(412));
    }
}
