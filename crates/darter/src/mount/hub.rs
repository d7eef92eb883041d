//! A repository of a model hub (Hugging Face's, and servers that speak its API) as a set of files. Pure.
//!
//! One request returns the commit of a revision and its files: `GET /api/models/NAME/revision/REVISION?blobs=true`. Large files (LFS) are listed with length and
//! SHA-256, others with their length. The files themselves are at `NAME/resolve/COMMIT/PATH`: the commit keeps the mount as it is when the branch moves on.

use anyhow::{Context as _, bail};
use darter_core::Digest;
use serde::Deserialize;
use url::Url;

use super::listed::{ListedFile, MAX_LISTED};
use crate::failure::Failure;

/// The branch that is meant if an address names none.
const DEFAULT_REVISION: &str = "main";

/// The kinds of repositories besides models, as they appear in addresses and in the API.
const KINDS: [&str; 2] = ["datasets", "spaces"];

/// The error for an answer that can't be parsed.
pub(super) const NO_ANSWER: &str = "this is not the answer of a model hub, or it lists more files than can be mounted";

/// A repository at one of its revisions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Repository {
    /// The hub's base URL.
    base: Url,
    /// The kind of repository, which precedes the name in addresses; `None` for a model.
    kind: Option<&'static str>,
    /// The name, of one component or two.
    name: Vec<String>,
    revision: String,
}

/// A file, with its length according to the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HubFile {
    pub(super) file: ListedFile,
    pub(super) length: u64,
}

#[derive(Deserialize)]
struct HubAnswer {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: String,
    size: u64,
}

impl Repository {
    /// The repository at an address as browsers show it: `https://HUB/[datasets/|spaces/]NAME[/tree/REVISION]`.
    pub(super) fn at(url: &Url) -> anyhow::Result<Self> {
        let wrong = |why: &str| {
            let text = format!("{url}: {why}; name a repository: https://HUB/ORG/MODEL, or …/tree/REVISION");
            Failure::Usage(text)
        };
        if !matches!(url.scheme(), "http" | "https") {
            return Err(wrong("hubs are read by http and https").into());
        }
        let decoded = |part: &str| percent_encoding::percent_decode_str(part).decode_utf8_lossy().into_owned();
        let mut parts: Vec<_> = url.path_segments().into_iter().flatten().map(decoded).collect();
        parts.retain(|part| !part.is_empty());
        let kind = KINDS.into_iter().find(|kind| parts.first().is_some_and(|first| first == kind));
        if kind.is_some() {
            parts.remove(0);
        }
        let tree = parts.iter().position(|part| part == "tree");
        let (name, revision) = match tree {
            Some(at) => {
                let revision = parts[at + 1..].join("/");
                (parts[..at].to_vec(), Some(revision).filter(|revision| !revision.is_empty()))
            }
            None => (parts, None),
        };
        if !(1..=2).contains(&name.len()) {
            return Err(wrong("it names no repository").into());
        }
        let mut base = url.clone();
        base.set_path("/");
        base.set_query(None);
        base.set_fragment(None);
        Ok(Self { base, kind, name, revision: revision.unwrap_or_else(|| DEFAULT_REVISION.to_owned()) })
    }

    /// The URL at which the hub lists the repository's files.
    pub(super) fn question(&self) -> anyhow::Result<Url> {
        let mut parts = vec!["api", self.kind.unwrap_or("models")];
        parts.extend(self.name.iter().map(String::as_str));
        parts.extend(["revision", &self.revision]);
        let mut url = self.below(&parts)?;
        url.set_query(Some("blobs=true"));
        Ok(url)
    }

    /// The files in the hub's answer.
    pub(super) fn files(&self, answer: &str) -> anyhow::Result<Vec<HubFile>> {
        let answer: HubAnswer = serde_json::from_str(answer)
            .with_context(|| format!("{} does not answer as a model hub does", self.base))?;
        if answer.siblings.is_empty() {
            bail!("{} has no files", self.name.join("/"));
        }
        if answer.siblings.len() > MAX_LISTED {
            bail!(
                "{} has {} files, but at most {MAX_LISTED} can be mounted",
                self.name.join("/"),
                answer.siblings.len()
            );
        }
        answer.siblings.into_iter().map(|sibling| self.file(&answer.sha, sibling)).collect()
    }

    fn file(&self, commit: &str, sibling: Sibling) -> anyhow::Result<HubFile> {
        let Sibling { rfilename: path, size, lfs } = sibling;
        let digest = lfs.as_ref().map(|lfs| format!("sha256:{}", lfs.sha256).parse::<Digest>());
        let digest = digest.transpose().with_context(|| format!("the hub names no SHA-256 for {path}"))?;
        let length =
            lfs.map(|lfs| lfs.size).or(size).with_context(|| format!("the hub does not say how long {path} is"))?;
        let mut parts: Vec<_> = self.kind.into_iter().collect();
        parts.extend(self.name.iter().map(String::as_str));
        parts.extend(["resolve", commit]);
        parts.extend(path.split('/'));
        let url = self.below(&parts)?;
        Ok(HubFile { file: ListedFile { url, digest, path }, length })
    }

    /// A URL below the hub's base. Each of `parts` becomes one path segment.
    fn below(&self, parts: &[&str]) -> anyhow::Result<Url> {
        let mut url = self.base.clone();
        {
            let mut segments = url.path_segments_mut().map_err(|()| anyhow::anyhow!("{} has no paths", self.base))?;
            segments.clear();
            // The URL drops `.` and `..`, which would lead elsewhere; file paths are checked separately.
            segments.extend(parts);
        }
        Ok(url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(url: &str) -> Repository {
        Repository::at(&url.parse().unwrap()).unwrap()
    }

    #[test]
    fn a_repository_is_asked_for_by_its_address_as_browsers_have_it() {
        for (address, question) in [
            ("https://hub.example/org/model", "https://hub.example/api/models/org/model/revision/main?blobs=true"),
            ("https://hub.example/org/model/", "https://hub.example/api/models/org/model/revision/main?blobs=true"),
            ("https://hub.example/gpt2/tree/v1?x=y#z", "https://hub.example/api/models/gpt2/revision/v1?blobs=true"),
            (
                "http://hub.example:8080/datasets/org/data/tree/refs%2Fpr%2F1",
                "http://hub.example:8080/api/datasets/org/data/revision/refs%2Fpr%2F1?blobs=true",
            ),
        ] {
            assert_eq!(at(address).question().unwrap().as_str(), question, "{address}");
        }
        for wrong in
            ["https://hub.example/", "https://hub.example/a/b/c", "file:///a/b", "https://hub.example/datasets"]
        {
            assert!(Repository::at(&wrong.parse().unwrap()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn files_are_those_of_the_commit_with_what_the_hub_says_of_them() {
        let digest = Digest::sha256(b"weights");
        let hexadecimal = digest.to_string().replace("sha256:", "");
        let answer = format!(
            r#"{{"id": "org/model", "sha": "c0ffee", "siblings": [
                {{"rfilename": "config.json", "size": 12, "blobId": "1"}},
                {{"rfilename": "deep/we ights?.bin", "size": 130, "lfs": {{"sha256": "{hexadecimal}", "size": 7, "pointerSize": 130}}}}]}}"#
        );
        let files = at("https://hub.example/org/model").files(&answer).unwrap();
        let [config, weights] = &files[..] else { panic!("{files:?}") };
        assert_eq!(config.file.url.as_str(), "https://hub.example/org/model/resolve/c0ffee/config.json");
        assert_eq!((config.file.path.as_str(), config.file.digest, config.length), ("config.json", None, 12));
        assert_eq!(weights.file.url.as_str(), "https://hub.example/org/model/resolve/c0ffee/deep/we%20ights%3F.bin");
        assert_eq!((weights.file.digest, weights.length), (Some(digest), 7));
        for wrong in ["", "[]", r#"{"sha": "1", "siblings": []}"#, r#"{"sha": "1", "siblings": [{"rfilename": "x"}]}"#]
        {
            assert!(at("https://hub.example/org/model").files(wrong).is_err(), "{wrong}");
        }
    }
}
