//! Which upstream a request is for. (`darter-oci` parses from the path what is requested.)
//!
//! The upstream of a request is named, in this order, by
//!
//! 1. the first component of the repository, if it is the name of a configured upstream: `/v2/lab/app/manifests/1`. An
//!    engine whose mirror has such a path was configured for that upstream, whatever registry its images name;
//! 2. the query parameter `ns`, which containerd sends to mirrors, or the header `OCI-Namespace`, which means the same;
//! 3. the first component of the repository, if it looks like a host (it has a dot or a colon, or is `localhost`). This comes after
//!    `ns`, since a registry may have repositories with such names;
//! 4. the default upstream of the configuration, since the Docker engine's requests to a mirror name none.
//!
//! If a request names no upstream, or one that is neither configured nor a host, the answer says what to configure.
//! In particular the request is not sent to Docker Hub, which would learn the names of private images.
//!
//! Pure: nothing here does I/O.

use std::collections::BTreeSet;

use darter_oci::error::Code;
use darter_oci::name::{self, DOCKER_HUB, looks_like_host};
use http::StatusCode;
use http::request::Parts;
use url::form_urlencoded;

use crate::mirror::problem::Problem;

/// How the upstream was named, so that links to further pages name it in the same way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Naming {
    /// By `ns`, with its value as received.
    Namespace(String),
    /// By the repository's first component.
    Prefix(String),
    /// Not at all.
    Default,
}

/// A repository at an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// The upstream's name.
    pub(crate) upstream: String,
    /// The repository's name there.
    pub(crate) repository: String,
    /// How the request named the upstream.
    pub(crate) naming: Naming,
}

/// The upstreams that a request without `ns` may mean.
#[derive(Clone, Debug, Default)]
pub(crate) struct KnownUpstreams {
    /// Names of configured upstreams.
    pub(crate) names: BTreeSet<String>,
    /// The upstream of requests that name none.
    pub(crate) default: Option<String>,
}

impl KnownUpstreams {
    fn has(&self, name: &str) -> bool {
        self.names.contains(name) || self.default.as_deref() == Some(name)
    }
}

/// The value of `ns`, and the query without it, encoded again.
pub(crate) fn split_query(query: Option<&str>) -> (Option<String>, String) {
    let (namespace, others) = take(query.unwrap_or_default(), "ns");
    (namespace.filter(|value| !value.is_empty()), others)
}

/// The (last) value of a parameter, and the query without it, encoded again.
pub(crate) fn take(query: &str, wanted: &str) -> (Option<String>, String) {
    let mut taken = None;
    let mut others = form_urlencoded::Serializer::new(String::new());
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        if name == wanted {
            taken = Some(value.into_owned());
        } else {
            others.append_pair(&name, &value);
        }
    }
    (taken, others.finish())
}

/// The upstream that a request names in its query or a header, and the query without it.
pub(crate) fn namespace_of(request: &Parts) -> (Option<String>, String) {
    let (namespace, query) = split_query(request.uri.query());
    let header = || request.headers.get("oci-namespace")?.to_str().ok().map(str::trim).filter(|name| !name.is_empty());
    (namespace.or_else(|| header().map(str::to_owned)), query)
}

/// The upstream and the repository that a name means.
///
/// # Errors
/// A name that breaks the specification's grammar, or whose upstream is unknown.
pub(crate) fn target(namespace: Option<String>, asked: &str, known: &KnownUpstreams) -> Result<Target, Problem> {
    let by_prefix = |first: &str, rest: &str| -> Result<Target, Problem> {
        let repository = name::repository(rest)?.to_owned();
        Ok(Target { upstream: first.to_owned(), repository, naming: Naming::Prefix(first.to_owned()) })
    };
    let prefix = asked.split_once('/');
    if let Some((first, rest)) = prefix.filter(|(first, _)| known.names.contains(*first)) {
        return by_prefix(first, rest);
    }
    if let Some(namespace) = namespace {
        let upstream = namespace.to_ascii_lowercase();
        if !looks_like_host(&upstream) && !known.has(&upstream) {
            return Err(unknown_upstream(&namespace, known));
        }
        let repository = name::repository(asked)?.to_owned();
        return Ok(Target { upstream: namespace.clone(), repository, naming: Naming::Namespace(namespace) });
    }
    if let Some((first, rest)) = prefix.filter(|(first, _)| looks_like_host(first)) {
        return by_prefix(first, rest);
    }
    let repository = name::repository(asked)?.to_owned();
    let Some(upstream) = known.default.clone() else {
        let text = format!(
            "no registry is named for {asked:?}: write it into the path as in /v2/docker.io/{asked}/…, add ?ns=docker.io, \
             name this one with --upstream, or set a default upstream (--default-upstream)"
        );
        return Err(Problem::new(StatusCode::NOT_FOUND, Code::NameUnknown, text));
    };
    // Repositories of Docker Hub have at most two components.
    if upstream == DOCKER_HUB
        && repository.matches('/').count() > 1
        && let Some((first, _)) = prefix
    {
        return Err(unknown_upstream(first, known));
    }
    Ok(Target { upstream, repository, naming: Naming::Default })
}

fn unknown_upstream(name: &str, known: &KnownUpstreams) -> Problem {
    let names = known.names.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    let configured = if names.is_empty() { "none is".to_owned() } else { format!("configured are {names}") };
    let text = format!("no registry is known as {name:?} ({configured}): add --upstream {name}=URL to Darter");
    Problem::new(StatusCode::NOT_FOUND, Code::NameUnknown, text)
}

#[cfg(test)]
mod tests;
