//! From a request's path and query to what is asked for, and of which upstream.
//!
//! The upstream of a request is named, in this order, by
//!
//! 1. the first component of the repository, if it is the name of a configured upstream: `/v2/lab/app/manifests/1`. An
//!    engine's mirror with such a path was set up to mean it, whatever registry its images name;
//! 2. the query parameter `ns`, which containerd sends to mirrors, or the header `OCI-Namespace`, which says the same;
//! 3. the first component of the repository, if it looks like a host (it has a dot or a colon, or is `localhost`). After
//!    `ns`, since a registry may have repositories that look so;
//! 4. the default upstream of the configuration: the Docker engine's mirror requests name none.
//!
//! A request that names no upstream, or one that is neither configured nor a host, is answered with what to configure.
//! In particular it is not sent to Docker Hub, which would be told the names of private images.
//!
//! Pure: nothing here does I/O.

use std::collections::BTreeSet;

use darter_core::Digest;
use http::StatusCode;
use http::request::Parts;
use url::form_urlencoded;

use crate::metrics::MirrorKind;
use crate::mirror::problem::{Code, Problem};

/// Longest repository name, as registries in general have it.
const MAX_NAME: usize = 255;
/// Longest tag, by the specification.
const MAX_TAG: usize = 128;

/// What a path under `/v2/` asks for, not yet validated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route<'a> {
    /// `/v2/` itself.
    Ping,
    /// `/v2/<name>/manifests/<tag or digest>`.
    Manifest { name: &'a str, reference: &'a str },
    /// `/v2/<name>/blobs/<digest>`.
    Blob { name: &'a str, digest: &'a str },
    /// `/v2/<name>/tags/list`.
    Tags { name: &'a str },
    /// `/v2/<name>/referrers/<digest>`.
    Referrers { name: &'a str, digest: &'a str },
}

impl Route<'_> {
    /// The kind, for logs and metrics.
    pub(crate) const fn kind(self) -> MirrorKind {
        match self {
            Self::Ping => MirrorKind::Ping,
            Self::Manifest { .. } => MirrorKind::Manifest,
            Self::Blob { .. } => MirrorKind::Blob,
            Self::Tags { .. } => MirrorKind::Tags,
            Self::Referrers { .. } => MirrorKind::Referrers,
        }
    }
}

/// The last part of a manifest's path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reference<'a> {
    /// A tag.
    Tag(&'a str),
    /// A digest.
    Digest(Digest),
}

/// How the upstream was named, so that links to further pages name it likewise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Naming {
    /// By `ns`, with its value as it came.
    Namespace(String),
    /// By the repository's first component.
    Prefix(String),
    /// Not at all.
    Default,
}

/// A repository of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The upstream's name.
    pub(crate) upstream: String,
    /// The repository's name there.
    pub(crate) repository: String,
    /// How the request said so.
    pub(crate) naming: Naming,
}

/// The upstreams a request may mean without `ns`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    /// Names of configured upstreams.
    pub(crate) names: BTreeSet<String>,
    /// The upstream of requests that name none.
    pub(crate) default: Option<String>,
}

impl Known {
    fn has(&self, name: &str) -> bool {
        self.names.contains(name) || self.default.as_deref() == Some(name)
    }
}

/// Reads a path, percent-decoded. `None`: the mirror serves nothing there.
pub(crate) fn parse(path: &str) -> Option<Route<'_>> {
    let rest = path.strip_prefix("/v2")?;
    if rest.is_empty() || rest == "/" {
        return Some(Route::Ping);
    }
    let rest = rest.strip_prefix('/')?;
    if let Some(name) = rest.strip_suffix("/tags/list") {
        return Some(Route::Tags { name });
    }
    // A repository may be called `a/blobs/b`: what counts is the last but one component.
    let (front, last) = rest.rsplit_once('/')?;
    let (name, kind) = front.rsplit_once('/')?;
    match kind {
        "manifests" => Some(Route::Manifest { name, reference: last }),
        "blobs" => Some(Route::Blob { name, digest: last }),
        "referrers" => Some(Route::Referrers { name, digest: last }),
        _ => None,
    }
}

/// Undoes the one escape that engines use in such paths: a digest's colon. Anything else that is escaped can stand
/// neither in a name nor in a reference, and is refused as it is.
pub(crate) fn decoded(path: &str) -> String {
    path.replace("%3A", ":").replace("%3a", ":")
}

/// The value of `ns`, and the query without it, encoded anew.
pub(crate) fn split_query(query: Option<&str>) -> (Option<String>, String) {
    let (namespace, others) = take(query.unwrap_or_default(), "ns");
    (namespace.filter(|value| !value.is_empty()), others)
}

/// The (last) value of a parameter, and the query without it, encoded anew.
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

/// The upstream that a request names beside its path, and its query without that.
pub(crate) fn namespace_of(request: &Parts) -> (Option<String>, String) {
    let (namespace, query) = split_query(request.uri.query());
    let header = || request.headers.get("oci-namespace")?.to_str().ok().map(str::trim).filter(|name| !name.is_empty());
    (namespace.or_else(|| header().map(str::to_owned)), query)
}

/// Which repository of which upstream a name means.
///
/// # Errors
/// A name that breaks the specification's grammar, or that no upstream is known for.
pub(crate) fn place(namespace: Option<String>, name: &str, known: &Known) -> Result<Place, Problem> {
    let by_prefix = |first: &str, rest: &str| {
        let repository = valid_name(rest)?;
        Ok(Place { upstream: first.to_owned(), repository, naming: Naming::Prefix(first.to_owned()) })
    };
    let prefix = name.split_once('/');
    if let Some((first, rest)) = prefix.filter(|(first, _)| known.names.contains(*first)) {
        return by_prefix(first, rest);
    }
    if let Some(namespace) = namespace {
        let upstream = namespace.to_ascii_lowercase();
        if !looks_like_host(&upstream) && !known.has(&upstream) {
            return Err(unknown_upstream(&namespace, known));
        }
        let repository = valid_name(name)?;
        return Ok(Place { upstream: namespace.clone(), repository, naming: Naming::Namespace(namespace) });
    }
    if let Some((first, rest)) = prefix.filter(|(first, _)| looks_like_host(first)) {
        return by_prefix(first, rest);
    }
    let repository = valid_name(name)?;
    let Some(upstream) = known.default.clone() else {
        let text = format!(
            "no registry is named for {name:?}: write it into the path as in /v2/docker.io/{name}/…, add ?ns=docker.io, \
             name this one with --upstream, or set a default upstream (--default-upstream)"
        );
        return Err(Problem::new(StatusCode::NOT_FOUND, Code::NameUnknown, text));
    };
    // Repositories of Docker Hub have two components at most.
    if upstream == "docker.io"
        && repository.matches('/').count() > 1
        && let Some((first, _)) = prefix
    {
        return Err(unknown_upstream(first, known));
    }
    Ok(Place { upstream, repository, naming: Naming::Default })
}

fn unknown_upstream(name: &str, known: &Known) -> Problem {
    let names = known.names.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    let configured = if names.is_empty() { "none is".to_owned() } else { format!("configured are {names}") };
    let text = format!("no registry is known as {name:?} ({configured}): add --upstream {name}=URL to Darter");
    Problem::new(StatusCode::NOT_FOUND, Code::NameUnknown, text)
}

/// Reads the last part of a manifest's path.
///
/// # Errors
/// Something that is neither a digest nor a tag.
pub(crate) fn reference(text: &str) -> Result<Reference<'_>, Problem> {
    if text.contains(':') {
        return digest(text).map(Reference::Digest);
    }
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let well_formed = text.len() <= MAX_TAG
        && text.bytes().next().is_some_and(word)
        && text.bytes().all(|byte| word(byte) || byte == b'.' || byte == b'-');
    if well_formed {
        return Ok(Reference::Tag(text));
    }
    // What can't be a tag can't have been pushed: 404, as the specification's own tests expect.
    Err(Problem::new(StatusCode::NOT_FOUND, Code::ManifestUnknown, format!("{text:?} is neither a tag nor a digest")))
}

/// Reads a digest.
///
/// # Errors
/// Something that is not one.
pub(crate) fn digest(text: &str) -> Result<Digest, Problem> {
    text.parse().map_err(|error: darter_core::digest::ParseDigestError| {
        Problem::new(StatusCode::BAD_REQUEST, Code::DigestInvalid, error.to_string())
    })
}

fn looks_like_host(component: &str) -> bool {
    component == "localhost" || component.contains(['.', ':'])
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`, joined by slashes.
fn valid_name(name: &str) -> Result<String, Problem> {
    if name.len() <= MAX_NAME && name.split('/').all(valid_component) {
        return Ok(name.to_owned());
    }
    let text = format!(
        "{name:?} is not the name of a repository: lower-case letters, digits and single separators, at most \
         {MAX_NAME} characters"
    );
    Err(Problem::new(StatusCode::BAD_REQUEST, Code::NameInvalid, text))
}

fn valid_component(component: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    if !word(*first) || !word(*last) {
        return false;
    }
    // Between words stand one dot, one or two underscores, or any number of dashes.
    bytes
        .split(|byte| word(*byte))
        .filter(|between| !between.is_empty())
        .all(|between| matches!(between, b"." | b"_" | b"__") || between.iter().all(|byte| *byte == b'-'))
}

#[cfg(test)]
mod tests;
