//! Answers to a program that wants to mount a layer of an image: by its diff id, `POST /v1/layers/DIFFID`, or as the uppermost of the layers with a
//! chain id, `POST /v1/chains/CHAINID`. And a snapshotter's list of the layers that its snapshots name: `PUT /v1/layers`; or an engine's own, `PUT /v1/layers/engine`.
//!
//! The answer may take minutes, while somebody reads the layer and expands it. Until then its body has a new line twice a second, which JSON allows in front of a
//! value: who hears nothing for some seconds asks an agent that is stuck. An unknown state is a miss.
//!
//! For root and the agent's own user alone: the answer has the credentials that pulled the image.

use std::path::PathBuf;
use std::time::Duration;

use darter_core::Digest;
use serde::{Deserialize, Serialize};

use crate::layer::LayerRequest;

/// How often an answer that is not there yet says that it is on its way.
pub const BEAT: Duration = Duration::from_millis(500);

/// The query of a question by diff id that wants to be answered for the other layers of the image, too: for clients that are told of [changes](crate::changes), and so can
/// go by such an answer. An older agent tells of them in any case, or never.
pub const BESIDE: &str = "beside";

/// A layer that somebody wants to mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum LayerAnswer {
    /// It is not given, and why.
    Miss {
        /// Why.
        reason: String,
    },
    /// It can be mounted.
    Found(Box<FoundLayer>),
    /// A word of a newer release.
    #[serde(other)]
    Unknown,
}

/// A layer that can be mounted.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundLayer {
    /// How long its mountable file is.
    pub length_bytes: u64,
    /// Bytes of it that are here.
    #[serde(default)]
    pub held_bytes: u64,
    /// The file, once all of it is here: it stays as long as somebody asks for it now and then.
    pub file: Option<PathBuf>,
    /// The request for its parts.
    pub layer: LayerRequest,
    /// The headers that open it.
    pub headers: Vec<(String, String)>,
    /// The other layers of its image, as far as they would be given with the same headers if they were asked for now: an engine asks for all. None, unless they were
    /// [asked for](BESIDE). Nothing stands beside these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub beside: Vec<Self>,
}

/// Whose snapshots name layers. Each says it for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Namer {
    /// Darter's snapshotter: `PUT /v1/layers`.
    Snapshotter,
    /// An engine with snapshots of its own: `PUT /v1/layers/engine`.
    Engine,
}

/// The layers that the snapshots of one [`Namer`] name: these and no others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedLayers {
    /// Their diff ids.
    pub named: Vec<Digest>,
}

/// An agent's answer to that.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedAnswer {
    /// Those that it never gave, and so can't keep.
    #[serde(default)]
    pub unknown: Vec<Digest>,
}

/// Without the values of headers.
impl std::fmt::Debug for FoundLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { length_bytes, file, layer, headers, beside, .. } = self;
        write!(f, "{layer}, {length_bytes} bytes, {} headers, {file:?}, {} beside", headers.len(), beside.len())
    }
}
