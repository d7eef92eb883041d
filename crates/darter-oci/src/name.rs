//! Names: of registries and repositories, tags, and what people call an image.

use std::fmt;

use darter_core::Digest;
use darter_core::digest::ParseDigestError;

/// Docker Hub's name in references.
pub const DOCKER_HUB: &str = "docker.io";
/// The address of Docker Hub's API.
pub const DOCKER_HUB_ADDRESS: &str = "https://registry-1.docker.io/";
/// All names by which Docker Hub goes.
pub const DOCKER_HUB_ALIASES: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];

/// Longest repository name, as registries in general have it.
pub const MAX_REPOSITORY: usize = 255;
/// Longest tag, by the specification.
pub const MAX_TAG: usize = 128;

/// The tag of an image that is named without one.
const DEFAULT_TAG: &str = "latest";

/// Text that is not the name it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// No repository's.
    #[error(
        "{0:?} is not the name of a repository: lower-case letters, digits and single separators, at most \
         {MAX_REPOSITORY} characters"
    )]
    Repository(String),
    /// No manifest's.
    #[error("{0:?} is neither a tag nor a digest")]
    Reference(String),
    /// No digest's, though it begins as one.
    #[error(transparent)]
    Digest(#[from] ParseDigestError),
}

/// A tag or digest, which names a manifest within its repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reference<'a> {
    /// A tag.
    Tag(&'a str),
    /// A digest.
    Digest(Digest),
}

impl<'a> Reference<'a> {
    /// Reads a tag or a digest.
    ///
    /// # Errors
    /// Something that is neither.
    pub fn parse(text: &'a str) -> Result<Self, NameError> {
        if text.contains(':') {
            return Ok(Self::Digest(text.parse()?));
        }
        let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let well_formed = text.len() <= MAX_TAG
            && text.bytes().next().is_some_and(word)
            && text.bytes().all(|byte| word(byte) || byte == b'.' || byte == b'-');
        if well_formed { Ok(Self::Tag(text)) } else { Err(NameError::Reference(text.to_owned())) }
    }
}

/// A tagged image, under the registry's name as engines use it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ImageName {
    /// The registry.
    pub registry: String,
    /// The repository.
    pub repository: String,
    /// The tag.
    pub tag: String,
}

impl ImageName {
    /// True if people may mean this image by `text`: as engines name it, or with less before it; without a tag, `latest`.
    pub fn is_called(&self, text: &str) -> bool {
        let (path, tag) = match text.rsplit_once(':') {
            // A colon before the last slash is a port's.
            Some((path, tag)) if !tag.contains('/') => (path, tag),
            _ => (text, DEFAULT_TAG),
        };
        if tag != self.tag {
            return false;
        }
        let full = format!("{}/{}", self.registry, self.repository);
        let ends_with = full.strip_suffix(path).is_some_and(|front| front.is_empty() || front.ends_with('/'));
        let names_registry = path.split_once('/').is_some_and(|(first, _)| first.contains(['.', ':']));
        if names_registry {
            return full == path || (self.registry == DOCKER_HUB && full == path.replacen('/', "/library/", 1));
        }
        ends_with
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}:{}", self.registry, self.repository, self.tag)
    }
}

/// One spelling for each registry: lower case, and `docker.io` for all of Docker Hub's names.
pub fn canonical(registry: &str) -> String {
    let lower = registry.to_ascii_lowercase();
    if DOCKER_HUB_ALIASES.contains(&lower.as_str()) { DOCKER_HUB.to_owned() } else { lower }
}

/// True if a name's first component looks like a registry's host.
pub fn looks_like_host(component: &str) -> bool {
    component == "localhost" || component.contains(['.', ':'])
}

/// A repository's name, if it is one: `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`, joined by slashes.
///
/// # Errors
/// Something that breaks this grammar.
pub fn repository(name: &str) -> Result<&str, NameError> {
    let fits = name.len() <= MAX_REPOSITORY && name.split('/').all(is_component);
    if fits { Ok(name) } else { Err(NameError::Repository(name.to_owned())) }
}

fn is_component(component: &str) -> bool {
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
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn repositories_keep_to_the_grammar() {
        for good in ["a", "a/b/c", "a.b", "a_b", "a__b", "a---b", "0/1", &"a".repeat(MAX_REPOSITORY)] {
            assert_eq!(repository(good), Ok(good));
        }
        let long = "a".repeat(MAX_REPOSITORY + 1);
        for bad in
            ["", "A", "a//b", "/a", "a/", "a..b", "a___b", "-a", "a-", "a._b", "a b", "a%2fb", "..", "a/../b", &long]
        {
            assert_eq!(repository(bad), Err(NameError::Repository(bad.to_owned())));
        }
    }

    #[test]
    fn references_are_tags_or_digests() {
        assert_eq!(Reference::parse("v1.0-rc_1"), Ok(Reference::Tag("v1.0-rc_1")));
        assert_eq!(Reference::parse(DIGEST), Ok(Reference::Digest(DIGEST.parse().unwrap())));
        assert!(matches!(Reference::parse("sha256:12"), Err(NameError::Digest(_))));
        assert!(Reference::parse(&"x".repeat(MAX_TAG)).is_ok());
        for bad in ["", ".x", "-x", "a b", "a%20b", &"x".repeat(MAX_TAG + 1)] {
            assert_eq!(Reference::parse(bad), Err(NameError::Reference(bad.to_owned())), "{bad}");
        }
    }

    #[test]
    fn docker_hub_has_one_name() {
        for alias in DOCKER_HUB_ALIASES {
            assert_eq!(canonical(&alias.to_ascii_uppercase()), DOCKER_HUB);
        }
        assert_eq!(canonical("GHCR.io"), "ghcr.io");
        for host in ["localhost", "ghcr.io", "registry:5000"] {
            assert!(looks_like_host(host), "{host}");
        }
        assert!(!looks_like_host("library"));
    }

    #[test]
    fn an_image_is_called_by_its_whole_name_or_with_less_before_it() {
        let image = |registry: &str, repository: &str| {
            let (registry, repository) = (registry.to_owned(), repository.to_owned());
            ImageName { registry, repository, tag: "latest".to_owned() }
        };
        let app = image(DOCKER_HUB, "library/app");
        assert_eq!(app.to_string(), "docker.io/library/app:latest");
        for called in ["app", "app:latest", "library/app", "docker.io/library/app", "docker.io/app:latest"] {
            assert!(app.is_called(called), "{called}");
        }
        for other in ["pp", "app:v1", "ghcr.io/app", "ghcr.io/library/app", "docker.io/other/app", "library/ap"] {
            assert!(!app.is_called(other), "{other}");
        }
        let lab = image("10.0.0.1:5000", "app");
        assert!(lab.is_called("10.0.0.1:5000/app") && !lab.is_called("10.0.0.1:5001/app"));
        assert!(!lab.is_called("10.0.0.1:5000/library/app"));
    }
}
