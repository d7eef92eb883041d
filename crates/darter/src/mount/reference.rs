//! Names of images: `debian`, `docker.io/library/debian:12`, `registry.local:5000/team/app@sha256:…`.

use std::fmt;
use std::str::FromStr;

use darter_oci::name::{DOCKER_HUB, Reference, canonical, looks_like_host, repository};

/// The parsed name of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ImageRef {
    /// The registry, in its canonical spelling.
    pub(crate) registry: String,
    /// The repository, with Docker Hub's `library/`.
    pub(crate) repository: String,
    /// The tag or the digest.
    pub(crate) reference: String,
}

impl FromStr for ImageRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            |why: &str| format!("not an image: {text:?} ({why}; write for example docker.io/library/debian:12)");
        let (name, reference) = match text.split_once('@') {
            // If there is a digest, a tag before it is ignored.
            Some((name, digest)) => (
                name.rsplit_once(':').map_or(name, |(front, tag)| if tag.contains('/') { name } else { front }),
                digest,
            ),
            None => match text.rsplit_once(':') {
                // A colon before the last slash belongs to a port.
                Some((name, tag)) if !tag.contains('/') => (name, tag),
                _ => (text, "latest"),
            },
        };
        Reference::parse(reference).map_err(|error| wrong(&error.to_string()))?;
        let (registry, rest) = match name.split_once('/') {
            Some((first, rest)) if looks_like_host(first) => (canonical(first), rest.to_owned()),
            _ => (DOCKER_HUB.to_owned(), name.to_owned()),
        };
        let is_official = registry == DOCKER_HUB && !rest.contains('/');
        let path = if is_official { format!("library/{rest}") } else { rest };
        repository(&path).map_err(|error| wrong(&error.to_string()))?;
        Ok(Self { registry, repository: path, reference: reference.to_owned() })
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { registry, repository, reference } = self;
        let sign = if reference.contains(':') { '@' } else { ':' };
        write!(f, "{registry}/{repository}{sign}{reference}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_named_as_engines_name_them() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (text, full) in [
            ("debian", "docker.io/library/debian:latest".to_owned()),
            ("debian:12", "docker.io/library/debian:12".to_owned()),
            ("team/app", "docker.io/team/app:latest".to_owned()),
            ("index.docker.io/debian", "docker.io/library/debian:latest".to_owned()),
            ("localhost/app:1", "localhost/app:1".to_owned()),
            ("R.local:5000/team/app", "r.local:5000/team/app:latest".to_owned()),
            (&format!("r.local:5000/app@{digest}"), format!("r.local:5000/app@{digest}")),
            (&format!("r.local:5000/app:1@{digest}"), format!("r.local:5000/app@{digest}")),
        ] {
            let image: ImageRef = text.parse().expect(text);
            assert_eq!(image.to_string(), full);
            assert_eq!(full.parse::<ImageRef>().unwrap(), image);
        }
        for wrong in ["", "Debian", "a//b", "a:", "r.local/", "a@sha256:12", "/mnt/x", "a b"] {
            assert!(wrong.parse::<ImageRef>().is_err(), "{wrong}");
        }
    }
}
