//! Which parts of a layer are touched first: `/v1/layers/DIFFID/profile`; and the form in which people keep that of an image in a file.

use darter_core::Digest;
use serde::{Deserialize, Serialize};

/// The version of what [`ProfileFile`] is written as.
pub const VERSION: u32 = 1;

/// The parts of a layer that are touched first, as an agent knows them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerProfile {
    /// The digest of the layer's tar.
    pub diff_id: Digest,
    /// How long its mountable file is, once that is known.
    pub length_bytes: Option<u64>,
    /// The unit in which it is fetched.
    pub piece_bytes: u64,
    /// How many starts it was learnt from, where this agent leads; where another does, one.
    pub starts: u64,
    /// True if somebody pinned it.
    pub pinned: bool,
    /// How many bytes that is.
    pub bytes: u64,
    /// For each part its first byte in the mountable file and one past its last, in the order in which the parts are needed.
    pub ranges: Vec<(u64, u64)>,
}

/// A list that is pinned in place of the one that is learnt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinnedProfile {
    /// As in [`LayerProfile`].
    pub ranges: Vec<(u64, u64)>,
}

/// A profile of an image, in a file: layers are found by their diff ids, whatever the image is called.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProfileFile {
    /// [`VERSION`].
    pub version: u32,
    /// The image that it was learnt of, for people.
    pub image: String,
    /// Its layers, the lowest first; those of which nothing is known are left out.
    pub layers: Vec<ProfiledLayer>,
}

/// A layer in such a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProfiledLayer {
    /// The digest of its tar.
    pub diff_id: Digest,
    /// As in [`LayerProfile`].
    pub ranges: Vec<(u64, u64)>,
}
