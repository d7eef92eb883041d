//! How mounts are, as keepers tell it. Fields are added, never renamed: scripts and other releases read them.

use std::path::PathBuf;

use darter_core::{BlobId, Digest};
use serde::{Deserialize, Serialize};

/// A mounted file, as `darter mount --list` has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MountStatus {
    /// The mount point.
    pub dir: PathBuf,
    /// The file in it; empty where several are.
    pub file: String,
    /// The URL that is mounted, without logins; of an image, its name.
    pub url: String,
    /// For an image the digest of its manifest: there is no `file` then, but the image's root in the directory itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Digest>,
    /// The form in which it is mounted.
    #[serde(default)]
    pub kind: MountKind,
    /// How many files there are: of a file one, of an image it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<u64>,
    /// The blob that it is; zeros where several are.
    pub blob: BlobId,
    /// Its length.
    pub length_bytes: u64,
    /// Bytes of it that were here when that was last told.
    pub held_bytes: u64,
    /// True if that is all of it, and the whole was checked.
    pub whole: bool,
    /// True if it can be read when neither the daemon nor the origin answers.
    #[serde(default)]
    pub alone: bool,
    /// How it is.
    pub state: MountState,
    /// Why, if it is not open.
    pub reason: Option<String>,
    /// Reads that wait now.
    pub waiting_reads: u64,
    /// When the rest is fetched: `always`, `idle` or `never`.
    pub fill: String,
    /// How long a read waits.
    pub timeout_seconds: f64,
    /// Since when it is mounted.
    pub since_unix_seconds: u64,
    /// The process that keeps it.
    pub pid: u32,
    /// The socket of the daemon that it reads by; `None` if an agent of its own reads.
    pub daemon: Option<PathBuf>,
}

/// The form in which something is mounted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountKind {
    /// A file.
    #[default]
    File,
    /// An image's root.
    Image,
    /// The members of a tar.
    Tar,
    /// The members of a zip.
    Zip,
    /// The files of an OCI artifact.
    Artifact,
    /// The files that a list names.
    List,
    /// The files of a local directory.
    Directory,
    /// The files of a model hub's repository.
    Hub,
    /// A kind that only a later release knows.
    #[serde(other)]
    Unknown,
}

impl MountKind {
    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Image => "image",
            Self::Tar => "tar",
            Self::Zip => "zip",
            Self::Artifact => "artifact",
            Self::List => "list",
            Self::Directory => "directory",
            Self::Hub => "hub",
            Self::Unknown => "unknown",
        }
    }
}

/// How a mount is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountState {
    /// All of it can be read.
    Open,
    /// The agent does not answer, or can't have the content now: what was read before can be read, the rest waits.
    Waiting,
    /// The content is another one at its origin by now: what was read before can be read, nothing else.
    Changed,
    /// The content is not what its digest says: nothing can be read.
    Tainted,
    /// The process that kept it is gone: nothing can be read.
    Lost,
    /// A state that only a later release knows.
    #[serde(other)]
    Unknown,
}

impl MountState {
    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Waiting => "waiting",
            Self::Changed => "changed",
            Self::Tainted => "tainted",
            Self::Lost => "lost",
            Self::Unknown => "unknown",
        }
    }
}
