//! Debian's `docker-registry` on a host, and its access log: the witness for what was read of the origin.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use darter_core::Digest;
use serde_json::json;

use crate::netns::Host;
use crate::process::{Process, wait_until};

/// The registry's name in image references; only mirrors' configurations say where it is.
pub const NAME: &str = "registry.lab";
/// The port on which it listens.
pub const PORT: u16 = 5000;
/// The one user of a private registry.
pub const USER: &str = "alice";
/// That user's password.
pub const PASSWORD: &str = "open-sesame";
/// `USER:PASSWORD` as `htpasswd -B` writes it.
const HTPASSWD: &str = "alice:$2y$05$IQ2Q4oW6vqzKM5VpU9gg5.c2MGU44gGBNO/N7ZkkIq1C4XaLpgUAm";
/// A blob of more bytes than this may be read by several connections where an agent finds that they get more than one: by requests for
/// this many bytes, but for a few, and the bytes are more than the blob's by one part in `READ_AGAIN_PART` at most.
const MIN_SHARED: u64 = 16 << 20;
const MIN_REQUESTED: u64 = 2 << 20;
const READ_AGAIN_PART: u64 = 200;
/// The first request, trials, and what is left of slow connections' parts.
const MORE_REQUESTS: u64 = 8;
const REGISTRY_START_TIMEOUT: Duration = Duration::from_secs(60);

/// The rights that a registry gives.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    /// Reading, to anybody.
    Public,
    /// Reading, to [`USER`] with [`PASSWORD`] alone.
    Private,
    /// Reading and pushing, to anybody.
    Writable,
}

/// A running registry.
#[derive(Debug)]
pub struct Registry {
    authority: String,
    process: Process,
}

impl Registry {
    /// Serves images to anybody, read-only.
    pub fn public(host: &Host, storage: &Path) -> Result<Self> {
        Self::start(host, storage, Access::Public)
    }

    /// Serves images, read-only, to [`USER`] with [`PASSWORD`] alone.
    pub fn private(host: &Host, storage: &Path) -> Result<Self> {
        Self::start(host, storage, Access::Private)
    }

    /// Takes pushes.
    pub(crate) fn writable(host: &Host, storage: &Path) -> Result<Self> {
        Self::start(host, storage, Access::Writable)
    }

    fn start(host: &Host, storage: &Path, access: Access) -> Result<Self> {
        let directory = host.make_directory("registry")?;
        let authority = format!("{}:{PORT}", host.address());
        let mut config = json!({
            "version": "0.1",
            "log": { "level": "warn", "accesslog": { "disabled": false } },
            "storage": {
                "filesystem": { "rootdirectory": storage },
                "maintenance": { "readonly": { "enabled": access != Access::Writable }, "uploadpurging": { "enabled": false } },
            },
            "http": { "addr": authority },
        });
        if access == Access::Private {
            let users = directory.join("htpasswd");
            fs::write(&users, format!("{HTPASSWD}\n")).with_context(|| format!("write {}", users.display()))?;
            config["auth"] = json!({ "htpasswd": { "realm": "laboratory", "path": users } });
        }
        // Every JSON text is a YAML text too.
        let path = directory.join("config.yml");
        fs::write(&path, config.to_string()).with_context(|| format!("write {}", path.display()))?;
        let mut process = host.spawn("docker-registry", host.command("docker-registry").arg("serve").arg(&path))?;
        process.wait_for_port(PORT, REGISTRY_START_TIMEOUT)?;
        Ok(Self { authority, process })
    }

    /// `ADDRESS:PORT` on the hosts' network.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The address at which agents and engines reach it directly.
    pub fn url(&self) -> String {
        format!("http://{}", self.authority)
    }

    /// An error unless each of these blobs was read once, as [`AccessLog::ensure_read_once`] has it. A request is logged a moment after
    /// its last byte left, which is waited for.
    pub fn ensure_read_once<'a>(&self, blobs: impl IntoIterator<Item = (&'a Digest, u64)>) -> Result<()> {
        let blobs: Vec<_> = blobs.into_iter().collect();
        let logged = wait_until("the registry's log of the last reads", REGISTRY_START_TIMEOUT, || {
            let reads = self.access_log()?.blob_reads();
            Ok(blobs.iter().all(|(digest, size)| reads.get(digest).is_some_and(|read| read.bytes >= *size)))
        });
        // Which blob was not read is said better below.
        drop(logged);
        self.access_log()?.ensure_read_once(blobs)
    }

    /// Its process's id.
    pub fn process_id(&self) -> u32 {
        self.process.id()
    }

    /// The requests to it so far, as far as they are answered.
    pub fn access_log(&self) -> Result<AccessLog> {
        Ok(AccessLog::parse(&self.process.output()?))
    }
}

/// Requests as the registry logged them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessLog {
    /// In the order of their ends.
    pub requests: Vec<Request>,
}

/// One answered request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The client: an address on the hosts' network.
    pub client: String,
    /// `GET`, `HEAD` …
    pub method: String,
    /// Path and query.
    pub target: String,
    /// The answer's status.
    pub status: u16,
    /// Bytes of the answer's body.
    pub bytes: u64,
}

/// How often, and how much of, one blob was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reads {
    /// GET requests that were answered with content.
    pub requests: u32,
    /// Bytes of content sent in all.
    pub bytes: u64,
}

impl AccessLog {
    /// Reads the log's lines in the combined format; other lines are passed over.
    pub fn parse(text: &str) -> Self {
        Self { requests: text.lines().filter_map(Request::parse).collect() }
    }

    /// The GETs of each blob that were answered with content.
    pub fn blob_reads(&self) -> BTreeMap<Digest, Reads> {
        let mut reads: BTreeMap<Digest, Reads> = BTreeMap::new();
        for request in self.requests.iter().filter(|request| request.method == "GET" && request.status / 100 == 2) {
            let path = request.target.split('?').next().unwrap_or_default();
            let Some((_, digest)) = path.split_once("/blobs/") else { continue };
            let Ok(digest) = digest.parse() else { continue };
            let entry = reads.entry(digest).or_default();
            entry.requests += 1;
            entry.bytes += request.bytes;
        }
        reads
    }

    /// An error unless each of these blobs was read by exactly one request, and whole.
    pub fn ensure_read_by_one<'a>(&self, blobs: impl IntoIterator<Item = (&'a Digest, u64)>) -> Result<()> {
        self.ensure_read(blobs, |read, size| read == Reads { requests: 1, bytes: size })
    }

    /// An error unless each of these blobs was read once in all: by one request or, if it is large, by several connections.
    pub fn ensure_read_once<'a>(&self, blobs: impl IntoIterator<Item = (&'a Digest, u64)>) -> Result<()> {
        self.ensure_read(blobs, |read, size| {
            let is_shared = size > MIN_SHARED
                && u64::from(read.requests) <= size / MIN_REQUESTED + MORE_REQUESTS
                && (size..=size + size / READ_AGAIN_PART).contains(&read.bytes);
            read == Reads { requests: 1, bytes: size } || is_shared
        })
    }

    fn ensure_read<'a>(
        &self,
        blobs: impl IntoIterator<Item = (&'a Digest, u64)>,
        is_right: impl Fn(Reads, u64) -> bool,
    ) -> Result<()> {
        let reads = self.blob_reads();
        for (digest, size) in blobs {
            let read = reads.get(digest).copied().unwrap_or_default();
            ensure!(
                is_right(read, size),
                "{digest} of {size} bytes was read by {} requests, {} bytes in all",
                read.requests,
                read.bytes
            );
        }
        Ok(())
    }
}

impl Request {
    /// `CLIENT - - [TIME] "METHOD TARGET PROTOCOL" STATUS BYTES "REFERER" "AGENT"`.
    fn parse(line: &str) -> Option<Self> {
        let mut quoted = line.split('"');
        let client = quoted.next()?.split(' ').next()?.to_owned();
        let mut request = quoted.next()?.split(' ');
        let mut answer = quoted.next()?.split_whitespace();
        Some(Self {
            client,
            method: request.next()?.to_owned(),
            target: request.next()?.to_owned(),
            status: answer.next()?.parse().ok()?,
            bytes: answer.next()?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = concat!(
        "10.77.0.2 - - [21/Nov/2026:22:31:33 +0000] \"GET /v2/ HTTP/1.1\" 200 2 \"\" \"skopeo/1.9.3\"\n",
        "time=\"2026\" level=warning msg=\"something else\"\n",
        "10.77.0.2 - - [21/Nov/2026:22:31:34 +0000] \"HEAD /v2/library/app/blobs/sha256:",
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 HTTP/1.1\" 200 100 \"\" \"a\"\n",
        "10.77.0.2 - - [21/Nov/2026:22:31:34 +0000] \"GET /v2/library/app/blobs/sha256:",
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855?ns=registry.lab HTTP/1.1\" 401 100 \"\" \"a\"\n",
        "10.77.0.2 - - [21/Nov/2026:22:31:34 +0000] \"GET /v2/library/app/blobs/sha256:",
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855?ns=registry.lab HTTP/1.1\" 200 100 \"\" \"a\"\n",
    );

    #[test]
    fn only_answered_gets_count_as_reads() {
        let log = AccessLog::parse(LOG);
        assert_eq!(log.requests.len(), 4);
        let empty = Digest::sha256(b"");
        assert_eq!(log.blob_reads(), BTreeMap::from([(empty, Reads { requests: 1, bytes: 100 })]));
        log.ensure_read_by_one([(&empty, 100)]).unwrap();
    }

    #[test]
    fn a_large_blob_may_be_read_by_several_requests_but_once_in_all() {
        let line = |bytes: u64| {
            format!(
                "10.77.0.2 - - [21/Nov/2026:22:31:34 +0000] \"GET /v2/library/app/blobs/{} HTTP/1.1\" 206 {bytes} \"\" \"a\"\n",
                Digest::sha256(b"")
            )
        };
        let (size, empty) = (40_000_000, Digest::sha256(b""));
        let log = |parts: &[u64]| AccessLog::parse(&parts.iter().map(|bytes| line(*bytes)).collect::<String>());
        let is_once = |parts: &[u64], size| log(parts).ensure_read_once([(&empty, size)]).is_ok();
        assert!(is_once(&[size], size) && is_once(&[80_000, 80_000, size], size));
        assert!(is_once(&[5_000_000; 8], size) && is_once(&[20_000, 20_000, 20_000, size], size));
        assert!(!is_once(&[1_000_000; 40], size), "too many requests");
        assert!(!is_once(&[80_000, 180_000, size], size), "too much");
        assert!(!is_once(&[80_000, size - 80_001], size) && !is_once(&[1, 100], 100));
        let by_one = |parts: &[u64]| log(parts).ensure_read_by_one([(&empty, size)]).is_ok();
        assert!(by_one(&[size]) && !by_one(&[80_000, size]) && !by_one(&[5_000_000; 8]));
    }

    #[test]
    fn a_second_read_is_one_too_many() {
        let log = AccessLog::parse(&format!("{LOG}{LOG}"));
        log.ensure_read_once([(&Digest::sha256(b""), 100)]).unwrap_err();
        log.ensure_read_once([(&Digest::sha256(b"never read"), 100)]).unwrap_err();
    }
}
