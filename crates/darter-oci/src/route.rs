//! Paths under `/v2/`, and what each asks for.

use darter_core::Digest;

use crate::name::NameError;

/// A request as its path says it, not yet validated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route<'a> {
    /// `/v2/` itself.
    Ping,
    /// `/v2/<name>/manifests/<tag or digest>`.
    Manifest {
        /// The repository.
        name: &'a str,
        /// The tag or digest.
        reference: &'a str,
    },
    /// `/v2/<name>/blobs/<digest>`.
    Blob {
        /// The repository.
        name: &'a str,
        /// The digest.
        digest: &'a str,
    },
    /// `/v2/<name>/tags/list`.
    Tags {
        /// The repository.
        name: &'a str,
    },
    /// `/v2/<name>/referrers/<digest>`.
    Referrers {
        /// The repository.
        name: &'a str,
        /// The digest.
        digest: &'a str,
    },
}

impl<'a> Route<'a> {
    /// The repository that it is about.
    pub const fn repository(self) -> Option<&'a str> {
        match self {
            Self::Ping => None,
            Self::Manifest { name, .. }
            | Self::Blob { name, .. }
            | Self::Tags { name }
            | Self::Referrers { name, .. } => Some(name),
        }
    }
}

/// Reads a path, percent-decoded. `None`: nothing for clients that pull is there.
pub fn parse(path: &str) -> Option<Route<'_>> {
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

/// The path of a blob of a repository, as the registry calls it.
///
/// # Errors
/// [`NameError::Repository`] for a name by which the path would be another one: it may come from whoever asks.
pub fn of_blob(repository: &str, digest: &Digest) -> Result<String, NameError> {
    if repository.split('/').all(is_plain) {
        Ok(format!("/v2/{repository}/blobs/{digest}"))
    } else {
        Err(NameError::Repository(repository.to_owned()))
    }
}

/// True if a part of a path is one wherever it stands. A prefix that is configured for an upstream need not keep to the grammar of names.
pub fn is_plain(part: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:+~@".contains(&byte);
    !part.is_empty() && part != "." && part != ".." && part.bytes().all(known)
}

/// Undoes the one escape that engines use in such paths: a digest's colon. Anything else that is escaped can stand
/// neither in a name nor in a reference, and is refused as it is.
pub fn decoded(path: &str) -> String {
    path.replace("%3A", ":").replace("%3a", ":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blobs_path_is_of_the_repository_that_is_named_and_of_no_other() {
        let digest = Digest::sha256(b"blob");
        assert_eq!(of_blob("a/b_c.d-e/f", &digest).unwrap(), format!("/v2/a/b_c.d-e/f/blobs/{digest}"));
        let public = format!("public/blobs/{digest}?x=");
        for other in
            ["", "a//b", "/a", "a/", "..", "a/../b", "a/./b", "a/%2e%2e/b", "a#b", "a b", "a\\b", "a\nb", &public]
        {
            assert!(of_blob(other, &digest).is_err(), "{other:?}");
        }
    }

    #[test]
    fn paths_of_the_specification() {
        for ping in ["/v2", "/v2/"] {
            assert_eq!(parse(ping), Some(Route::Ping));
        }
        let manifest = Route::Manifest { name: "library/debian", reference: "12" };
        assert_eq!(parse("/v2/library/debian/manifests/12"), Some(manifest));
        assert_eq!(manifest.repository(), Some("library/debian"));
        let path = decoded("/v2/app/blobs/sha256%3Aab");
        assert_eq!(parse(&path), Some(Route::Blob { name: "app", digest: "sha256:ab" }));
        assert_eq!(parse("/v2/a/b/tags/list"), Some(Route::Tags { name: "a/b" }));
        assert_eq!(parse("/v2/a/b/referrers/d"), Some(Route::Referrers { name: "a/b", digest: "d" }));
        let odd = Route::Manifest { name: "a/blobs/manifests", reference: "blobs" };
        assert_eq!(parse("/v2/a/blobs/manifests/manifests/blobs"), Some(odd));
        for nothing in ["/", "/v1/", "/v2x", "/v2/_catalog", "/v2/a/blobs/uploads/", "/v2/manifests/x", "/v2//"] {
            assert_eq!(parse(nothing), None, "{nothing}");
        }
    }
}
