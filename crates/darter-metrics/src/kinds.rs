//! The kinds by which things are counted apart, and the label of each.

use darter_oci::route::Route;

/// The target of a mirror request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MirrorKind {
    /// `/v2/` itself.
    Ping,
    /// A manifest, by tag or by digest.
    Manifest,
    /// A blob.
    Blob,
    /// The tags of a repository.
    Tags,
    /// Manifests that refer to another one.
    Referrers,
    /// Anything else under `/v2/`.
    Other,
}

/// How the mirror knew that a caller may read something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessCheck {
    /// The upstream had said so shortly before.
    Believed,
    /// The upstream was asked, and said yes.
    Granted,
    /// The upstream was asked, and did not say yes.
    Refused,
}

/// How a question for a layer that is to be mounted was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerAnswered {
    /// There is no such layer for this asker.
    Miss,
    /// It can be mounted, and may not have come yet.
    Promised,
    /// It can be mounted, and all of it is here.
    Whole,
}

impl LayerAnswered {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Miss => "miss",
            Self::Promised => "promised",
            Self::Whole => "whole",
        }
    }
}

/// How a question to a registry came by its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegistryAnswered {
    /// The registry was asked.
    Registry,
    /// A seed was asked, for the fleet.
    Seed,
    /// Another node was asked, for a fleet of which no seed could.
    Node,
    /// Somebody else was asking the same, or had asked it just before.
    Shared,
    /// The registry did not answer, and what was known is served.
    Stale,
}

/// The way of a packed piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packed {
    /// To another agent.
    Sent,
    /// From another agent.
    Received,
}

impl Packed {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Received => "received",
        }
    }
}

/// The operation that failed, where failures are counted by fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    /// A blob that the mirror was asked for, and that it then read from the upstream or broke off.
    Mirror,
    /// A program's request by way of the administration socket.
    Command,
    /// A connection with another agent.
    Peer,
}

/// When a caller gave up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// Before there was an answer.
    Before,
    /// In the middle of one.
    Midway,
}

/// When Darter failed a blob that the mirror then read from the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// Before the first byte.
    Start,
    /// An answer to a range that the agent could have given only after much before it.
    Ahead,
    /// In the middle: the rest came from the upstream.
    Resumed,
    /// In the middle, and the upstream could not go on from there: the engine's connection was cut.
    Cut,
    /// Up front: content came wrong a short time ago, and the engine was told to go round.
    Refused,
}

impl MirrorKind {
    /// The kind of a request for this.
    pub const fn of(route: Route<'_>) -> Self {
        match route {
            Route::Ping => Self::Ping,
            Route::Manifest { .. } => Self::Manifest,
            Route::Blob { .. } => Self::Blob,
            Route::Tags { .. } => Self::Tags,
            Route::Referrers { .. } => Self::Referrers,
        }
    }

    /// As it stands in labels and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::Manifest => "manifest",
            Self::Blob => "blob",
            Self::Tags => "tags",
            Self::Referrers => "referrers",
            Self::Other => "other",
        }
    }
}

impl AccessCheck {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Believed => "believed",
            Self::Granted => "granted",
            Self::Refused => "refused",
        }
    }
}

impl Gone {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::Midway => "midway",
        }
    }
}

impl Fallback {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Ahead => "ahead",
            Self::Resumed => "resumed",
            Self::Cut => "cut",
            Self::Refused => "refused",
        }
    }
}

impl RegistryAnswered {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Registry => "registry",
            Self::Seed => "seed",
            Self::Node => "node",
            Self::Shared => "shared",
            Self::Stale => "stale",
        }
    }
}

impl Failed {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Mirror => "mirror",
            Self::Command => "command",
            Self::Peer => "peer",
        }
    }
}
