//! Requests on the administration socket, and their answers. Fields are added, never renamed: scripts and other releases read them.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use darter_core::{Blame, BlobId, Digest, Fault, NodeId, Retry, Tier};
use serde::{Deserialize, Serialize};

use crate::layer::{BlobRequest, LayerRequest};
use crate::span::Span;
use crate::units;

/// An agent's role in its fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Reads origins for everybody and tracks swarms.
    Seed,
    /// Asks seeds first, and reads an origin only when none answers.
    Node,
    /// One download without a daemon: nobody is served, nothing listens.
    Embedded,
}

impl Role {
    /// True if an agent of this role serves others.
    pub const fn is_daemon(self) -> bool {
        !matches!(self, Self::Embedded)
    }
}

/// One agent at a glance.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Program version.
    pub version: String,
    /// The agent's id.
    pub node: NodeId,
    /// The agent's role in its fleet.
    pub role: Role,
    /// Process id.
    pub pid: u32,
    /// Seconds since start.
    #[serde(flatten, with = "units::uptime_seconds")]
    pub uptime: f64,
    /// Peer address it listens on.
    pub listen: Option<String>,
    /// Local address of mirror and metrics.
    pub local: Option<String>,
    /// Data directory.
    pub data_dir: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// True while the agent shuts down.
    pub draining: bool,
    /// Resident memory in bytes.
    #[serde(flatten, with = "units::resident_bytes")]
    pub resident: u64,
    /// CPU seconds used, user and system: the first release's name for `cpu_seconds`.
    pub cpu: f64,
    /// CPU seconds used, user and system.
    #[serde(default)]
    pub cpu_seconds: f64,
    /// The store.
    pub store: StoreStatus,
    /// Bytes moved since start.
    pub traffic: Traffic,
    /// Seeds given by `--join`, and whether they answer.
    pub seeds: Vec<SeedStatus>,
    /// Peers with an open connection.
    pub peers: Vec<PeerStatus>,
    /// Blobs being fetched or served now.
    pub swarms: Vec<SwarmStatus>,
    /// Peers and origins that sent content other than its digest says, the latest first.
    #[serde(default)]
    pub wrong: Vec<WrongSource>,
}

/// Somebody who sent content that was not what its digest says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrongSource {
    /// The origin's host and who read it, or an agent's address.
    pub from: String,
    /// How often, since this agent started.
    pub times: u64,
    /// When last.
    #[serde(rename = "last_unix_seconds")]
    pub last: u64,
    /// Which blob it was then.
    pub blob: BlobId,
}

/// The store's room.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct StoreStatus {
    /// Blobs kept.
    pub blobs: u64,
    /// Bytes kept.
    #[serde(flatten, with = "units::used_bytes")]
    pub used: u64,
    /// Most bytes kept, if limited: the quota, a share of the file system in bytes.
    #[serde(flatten, with = "units::quota_bytes")]
    pub quota: Option<u64>,
    /// Bytes free on the disk.
    #[serde(flatten, with = "units::free_bytes")]
    pub free: u64,
    /// Bytes that may be kept now: the quota, or less if the disk has no room for it.
    #[serde(flatten, with = "units::capacity_bytes")]
    pub capacity: u64,
    /// Blobs evicted since the agent's start.
    #[serde(default)]
    pub evicted: u64,
}

/// Bytes by where they came from and went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Read from origins.
    #[serde(flatten, with = "units::from_origin_bytes")]
    pub from_origin: u64,
    /// Received from seeds.
    #[serde(flatten, with = "units::from_seed_bytes")]
    pub from_seed: u64,
    /// Received from other nodes.
    #[serde(flatten, with = "units::from_peers_bytes")]
    pub from_peers: u64,
    /// Sent to seeds and nodes.
    #[serde(flatten, with = "units::to_peers_bytes")]
    pub to_peers: u64,
    /// Served to programs of this host.
    #[serde(flatten, with = "units::to_local_bytes")]
    pub to_local: u64,
}

impl Traffic {
    /// Bytes that came to this host.
    pub const fn received(&self) -> u64 {
        self.from_origin + self.from_seed + self.from_peers
    }

    /// The bytes that were counted since it was `before`.
    #[must_use]
    pub const fn since(&self, before: &Self) -> Self {
        Self {
            from_origin: self.from_origin.saturating_sub(before.from_origin),
            from_seed: self.from_seed.saturating_sub(before.from_seed),
            from_peers: self.from_peers.saturating_sub(before.from_peers),
            to_peers: self.to_peers.saturating_sub(before.to_peers),
            to_local: self.to_local.saturating_sub(before.to_local),
        }
    }
}

/// A seed of this agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SeedStatus {
    /// As given.
    pub addr: String,
    /// True if the seed's control connection is up.
    pub up: bool,
    /// Its id, once met.
    pub node: Option<NodeId>,
    /// The address itself, where a name was given.
    #[serde(default)]
    pub at: Option<String>,
    /// Why it is not connected, if an attempt failed.
    #[serde(default)]
    pub reason: Option<String>,
}

impl SeedStatus {
    /// In words, how it stands with the seed.
    pub fn state(&self) -> String {
        match (self.up, &self.reason) {
            (true, _) => "answers".to_owned(),
            (false, None) => "does not answer".to_owned(),
            (false, Some(reason)) => format!("does not answer: {reason}"),
        }
    }
}

/// A connected peer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its id.
    pub node: NodeId,
    /// Its peer address.
    pub addr: String,
    /// How near it is.
    pub tier: Tier,
    /// True if the peer is a seed.
    pub seed: bool,
}

/// One blob being moved.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SwarmStatus {
    /// The blob.
    pub blob: BlobId,
    /// True if this agent leads the swarm.
    pub leads: bool,
    /// Connections that read the origin now.
    #[serde(default)]
    pub origin_connections: u32,
    /// Members known.
    pub members: u32,
    /// How far it is; its `rate` is what comes in.
    pub progress: Progress,
    /// Bytes per second sent to other agents over the last second or so.
    #[serde(default, rename = "sent_bytes_per_second")]
    pub sent_rate: u64,
}

/// A digest of a whole blob that was checked: the content has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    /// The digest.
    pub digest: Digest,
    /// The agent that computed it: this one, or the lead.
    pub by: CheckedBy,
}

/// The agent that computed a digest of the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckedBy {
    /// The agent that says so.
    Here,
    /// The lead of its swarm, which vouches for it.
    Lead,
    /// One of the two in an earlier run of this agent, or something that a later release names.
    #[serde(other)]
    Earlier,
}

/// How far one blob is on this agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Progress {
    /// The blob.
    pub blob: BlobId,
    /// The name that it was asked for by.
    pub name: String,
    /// Length, once known.
    #[serde(flatten, with = "units::length_bytes")]
    pub length: Option<u64>,
    /// Length of a piece.
    #[serde(flatten, with = "units::piece_length_bytes")]
    pub piece_length: u64,
    /// Pieces in all, once known.
    pub pieces: Option<u32>,
    /// Pieces held.
    pub held: u32,
    /// Bytes held and verified.
    pub held_bytes: u64,
    /// One character for each of up to 64 equal parts of the blob: share held, `0` none to `8` all.
    pub map: String,
    /// Bytes per second received over the last second or so.
    #[serde(flatten, with = "units::rate_bytes_per_second")]
    pub rate: u64,
    /// True if all of it is held and the whole was checked.
    pub complete: bool,
    /// Seconds from the request until now, or until complete.
    #[serde(flatten, with = "units::elapsed_seconds")]
    pub elapsed: f64,
    /// The origin that is waited for, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Waiting>,
    /// Bytes by where they came from.
    pub traffic: Traffic,
}

/// An origin that is waited for: what `POST /v1/waiting` tells of a download that has not begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// Its host.
    pub origin: String,
    /// The origin's answer, or the failure.
    pub reason: String,
    /// Seconds until it is asked again.
    pub retry_in_seconds: u64,
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { origin, reason, retry_in_seconds } = self;
        write!(f, "waiting for origin {origin}: {reason}, retrying in {retry_in_seconds} s")
    }
}

/// A blob in the store.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BlobRow {
    /// The blob.
    pub blob: BlobId,
    /// The name that the blob was asked for by.
    pub name: String,
    /// Content digest, if known.
    pub digest: Option<Digest>,
    /// Length, if known.
    #[serde(flatten, with = "units::length_bytes")]
    pub length: Option<u64>,
    /// Bytes held.
    #[serde(flatten, with = "units::held_bytes")]
    pub held: u64,
    /// True if all of it is held and checked.
    pub complete: bool,
    /// Never evicted.
    pub pinned: bool,
    /// Being read or fetched.
    pub in_use: bool,
    /// Last use.
    #[serde(flatten, with = "units::last_used_unix_seconds")]
    pub last_used: u64,
    /// The images that this is a part of, as far as they were requested here by tag.
    #[serde(default)]
    pub images: Vec<String>,
}

/// The sources of a blob's bytes, and the events on the way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Explanation {
    /// The blob.
    pub blob: BlobId,
    /// The name that the blob was asked for by.
    pub name: String,
    /// Content digest, if known.
    pub digest: Option<Digest>,
    /// The root over its piece hashes, once they are all known: which bytes `digest` is of.
    #[serde(default)]
    pub root: Option<String>,
    /// Length, if known.
    #[serde(flatten, with = "units::length_bytes")]
    pub length: Option<u64>,
    /// When it was first asked for.
    #[serde(flatten, with = "units::started_unix_seconds")]
    pub started: u64,
    /// Seconds until it was complete; `None` while it is not.
    #[serde(flatten, with = "units::took_seconds")]
    pub seconds: Option<f64>,
    /// Bytes by where they came from.
    pub traffic: Traffic,
    /// Ranges in order, neighbours from the same giver merged.
    pub ranges: Vec<ExplainedRange>,
    /// Events, in order.
    pub events: Vec<ExplainedEvent>,
    /// Waits of readers on this host, the longest first.
    #[serde(default)]
    pub waits: Vec<Wait>,
    /// The most bytes that ever lay here behind a piece that lacked: received, and of no use yet to a reader in order.
    #[serde(default)]
    pub max_lag_bytes: u64,
    /// The thing that is being waited for now, in words, when nothing came for a while.
    #[serde(default)]
    pub waiting: Option<String>,
    /// Why it was thrown away, and who sent what was wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

/// Time for which readers on this host waited for somebody.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Wait {
    /// For whom; `None`: for the check of the whole.
    pub from: Option<Giver>,
    /// How long, in seconds.
    #[serde(flatten, with = "units::took_seconds")]
    pub seconds: f64,
    /// Bytes per second that it gave, from its first piece to its last.
    #[serde(flatten, with = "units::rate_bytes_per_second")]
    pub rate: Option<u64>,
}

/// The thing that a name stands for: a blob, or an image.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Explained {
    /// An image and its parts.
    Image(ImageExplanation),
    /// One blob.
    Blob(Box<Explanation>),
}

/// An image as this host knows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ImageExplanation {
    /// The image's full name, or its digest if it was named by that.
    pub image: String,
    /// The digest of the index or manifest that the name stands for.
    pub digest: Digest,
    /// The index, the manifests cached here, and what these name, in their order.
    pub parts: Vec<ImagePart>,
}

/// A manifest, a configuration or a layer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ImagePart {
    /// Its role in the image.
    pub role: ImageRole,
    /// Its digest.
    pub digest: Digest,
    /// Its length, if known.
    #[serde(flatten, with = "units::length_bytes")]
    pub length: Option<u64>,
    /// The sources of its bytes; `None` for manifests, and for blobs that this host never had.
    pub explanation: Option<Explanation>,
}

/// The role of a part in an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageRole {
    /// A list of manifests.
    Index,
    /// A manifest.
    Manifest,
    /// The image's configuration.
    Config,
    /// A layer.
    Layer,
}

/// A range and who gave it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedRange {
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
    /// The giver of the range.
    pub from: Giver,
}

/// The giver of bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Giver {
    /// The origin, read by this agent.
    Origin,
    /// Held from an earlier run.
    Disk,
    /// A seed.
    Seed {
        /// Its id.
        node: NodeId,
        /// Its address.
        addr: String,
    },
    /// Another node.
    Peer {
        /// Its id.
        node: NodeId,
        /// Its address.
        addr: String,
    },
}

impl Giver {
    /// The agent that gave it; `None` for the origin and this node's own disk.
    pub const fn node(&self) -> Option<NodeId> {
        match self {
            Self::Seed { node, .. } | Self::Peer { node, .. } => Some(*node),
            Self::Origin | Self::Disk => None,
        }
    }
}

/// Something that happened to a transfer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExplainedEvent {
    /// Seconds since the blob was first asked for.
    #[serde(flatten, with = "units::at_seconds")]
    pub at: f64,
    /// The event, in words.
    pub what: String,
}

/// The body of `POST /v1/get`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GetRequest {
    /// `http`, `https` or `file` URL.
    pub url: String,
    /// Request headers.
    #[serde(default)]
    pub headers: Vec<(String, String)>,
    /// Digest the content must have.
    #[serde(default)]
    pub digest: Option<Digest>,
    /// True to ask the origin what it calls the content (`Content-Disposition`).
    #[serde(default)]
    pub disposition: bool,
    /// The bytes that are wanted; all of them if `None`. A release that does not know of it gives all, and says nothing of a range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<Span>,
    /// Of `POST /v1/parts`: the layer whose expanded form is wanted, in place of what is at `url`, which is [`LayerRequest::address`] then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<LayerRequest>,
    /// Of `POST /v1/parts`: the registry's blob that is wanted, in place of what is at `url`, which is [`BlobRequest::address`] then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blob: Option<BlobRequest>,
    /// Of `POST /v1/parts`: true if whoever asks has had it open before, and was parted from it. Nobody starts anything then, and what others
    /// touched first is not fetched for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub again: bool,
}

impl GetRequest {
    /// All of what is at `url`.
    pub const fn of(url: String, headers: Vec<(String, String)>) -> Self {
        let (digest, range, layer, blob) = (None, None, None, None);
        Self { url, headers, digest, disposition: false, range, layer, blob, again: false }
    }

    /// The expanded form of a layer.
    pub fn of_layer(layer: LayerRequest, headers: Vec<(String, String)>) -> Self {
        let url = layer.address();
        Self { layer: Some(layer), ..Self::of(url, headers) }
    }
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// One line that says what to do.
    pub error: String,
    /// The party at fault: `user`, `origin`, `network`, `peer`, `disk` or `ourselves`. An older daemon does not say.
    #[serde(default, deserialize_with = "known_fault")]
    pub fault: Option<Fault>,
    /// How much asking again helps: `never`, `now`, `later`, or `elsewhere`, where another agent may succeed.
    #[serde(default)]
    pub retry: Option<String>,
    /// After how many seconds, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_seconds: Option<u64>,
}

/// A word of a newer release is none that is known.
fn known_fault<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Fault>, D::Error> {
    let name = Option::<String>::deserialize(deserializer)?;
    Ok(name.and_then(|name| Fault::ALL.into_iter().find(|fault| fault.name() == name)))
}

impl Problem {
    /// A problem, and what is to be thought of it.
    pub fn new(error: impl Into<String>, blame: Blame) -> Self {
        Self {
            error: error.into(),
            fault: Some(blame.fault),
            retry: Some(blame.retry.name().to_owned()),
            retry_after_seconds: blame.retry.after().map(|wait| wait.as_secs()),
        }
    }

    /// The judgement that `fault` and `retry` tell. Of what an older daemon says, or a newer one in new words, nothing is known but that it
    /// failed.
    pub fn blame(&self) -> Blame {
        let after = self.retry_after_seconds.map(Duration::from_secs);
        let retry = self.retry.as_deref().and_then(|name| Retry::named(name, after));
        Blame::new(self.fault.unwrap_or(Fault::Ourselves), retry.unwrap_or(Retry::Never))
    }
}
