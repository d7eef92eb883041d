//! Headers of a registry for users and their tools, which are passed on with its answer.

use http::header::{ALLOW, WARNING};
use http::{HeaderMap, HeaderName};

const DOCKER_RATELIMIT_SOURCE: HeaderName = HeaderName::from_static("docker-ratelimit-source");

/// These headers: warnings, and what is left of a rate limit.
pub(crate) fn of(headers: &HeaderMap) -> HeaderMap {
    let tells = |name: &HeaderName| {
        let text = name.as_str();
        [WARNING, ALLOW, DOCKER_RATELIMIT_SOURCE].contains(name)
            || text.starts_with("ratelimit-")
            || text.starts_with("x-ratelimit-")
            || text == "ratelimit"
    };
    headers.iter().filter(|(name, _)| tells(name)).map(|(name, value)| (name.clone(), value.clone())).fold(
        HeaderMap::new(),
        |mut told, (name, value)| {
            told.append(name, value);
            told
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_and_limits_are_told_and_nothing_else() {
        let headers = [
            ("ratelimit-limit", "100;w=21600"),
            ("ratelimit-remaining", "76;w=21600"),
            ("x-ratelimit-reset", "5"),
            ("docker-ratelimit-source", "192.0.2.1"),
            ("warning", "299 - \"deprecated\""),
            ("warning", "299 - \"moves soon\""),
            ("allow", "GET"),
            ("set-cookie", "a=b"),
            ("content-length", "5"),
        ];
        let mut all = HeaderMap::new();
        for (name, value) in headers {
            all.append(name, value.parse().unwrap());
        }
        let told = of(&all);
        assert_eq!(told.len(), 7);
        assert_eq!(told.get_all("warning").iter().count(), 2);
    }
}
