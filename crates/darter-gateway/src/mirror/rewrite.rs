//! The names of repositories at an upstream that is a proxy for other registries: a project of Harbor, a repository of Artifactory, a
//! pull-through cache of a cloud provider.
//!
//! Pure: nothing here does I/O.

use std::collections::BTreeMap;

use darter_agent::options::UpstreamOption;

/// Rewrites the names of repositories for their upstreams.
#[derive(Clone, Debug, Default)]
pub struct Rewrites(BTreeMap<String, Rewrite>);

/// The rules of one upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Rewrite {
    /// Put before every name.
    prefix: Option<String>,
    /// Beginnings of names, and their replacements.
    fronts: Vec<(String, String)>,
}

impl From<&[UpstreamOption]> for Rewrites {
    fn from(options: &[UpstreamOption]) -> Self {
        let rewrite = |option: &UpstreamOption| {
            let prefix = option.prefix.as_deref().map(|prefix| prefix.trim_matches('/').to_owned());
            let rewrite = Rewrite { prefix: prefix.filter(|it| !it.is_empty()), fronts: option.rewrite.clone() };
            (option.name.to_ascii_lowercase(), rewrite)
        };
        Self(options.iter().map(rewrite).filter(|(_, rewrite)| *rewrite != Rewrite::default()).collect())
    }
}

impl Rewrites {
    /// The name of `repository` at the upstream.
    pub(crate) fn apply(&self, upstream: &str, repository: String) -> String {
        let Some(Rewrite { prefix, fronts }) = self.0.get(upstream) else { return repository };
        let fitting = fronts.iter().filter(|(front, _)| repository.starts_with(front.as_str()));
        let rewritten = match fitting.max_by_key(|(front, _)| front.len()) {
            Some((front, instead)) => format!("{instead}{}", &repository[front.len()..]),
            None => repository,
        };
        prefix.as_ref().map_or_else(|| rewritten.clone(), |prefix| format!("{prefix}/{rewritten}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_front_is_replaced_and_the_prefix_put_before_it() {
        let pair = |front: &str, instead: &str| (front.to_owned(), instead.to_owned());
        let hub = UpstreamOption {
            name: "Docker.io".into(),
            prefix: Some("/hub-proxy/".into()),
            rewrite: vec![pair("library/", ""), pair("library/de", "os/de"), pair("team", "squad")],
            ..UpstreamOption::default()
        };
        let plain = UpstreamOption { name: "ghcr.io".into(), ..UpstreamOption::default() };
        let rewrites = Rewrites::from(&[hub, plain][..]);
        for (upstream, name, there) in [
            ("docker.io", "library/nginx", "hub-proxy/nginx"),
            ("docker.io", "library/debian", "hub-proxy/os/debian"),
            ("docker.io", "team/app", "hub-proxy/squad/app"),
            ("docker.io", "other/app", "hub-proxy/other/app"),
            ("ghcr.io", "library/nginx", "library/nginx"),
            ("quay.io", "a", "a"),
        ] {
            assert_eq!(rewrites.apply(upstream, name.to_owned()), there);
        }
    }
}
