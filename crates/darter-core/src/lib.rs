//! The words and the arithmetic of Darter, shared by every other room. Nothing here does I/O.
//!
//! | file | what lives there |
//! |---|---|
//! | [`id`] | [`NodeId`], [`BlobId`]: who and what |
//! | [`identity`] | a node's key, of which its id is the hash: [`NodeKey`], [`PublicKey`] |
//! | [`digest`] | OCI content digests and streaming hashers for them |
//! | [`source`] | where bytes come from: [`Source`], its [`Version`], and how both name a blob |
//! | [`layer`] | [`ExpandedLayer`]: a layer of an image in the form that the kernel mounts |
//! | [`range`] | [`ByteRange`]: half-open ranges of bytes |
//! | [`piece`] | [`PieceIndex`], [`PieceLength`], and the arithmetic between bytes and pieces |
//! | [`set`] | [`PieceSet`]: which pieces somebody holds |
//! | [`manifest`] | [`Manifest`]: one BLAKE3 subtree value per piece, one root over all |
//! | [`proof`] | a lead's signature over hashes that others pass on |
//! | [`place`] | [`Place`] and [`Tier`]: how near two nodes are |
//! | [`ahead`] | [`Ahead`]: how many bytes a connection is handed ahead of its cable |
//! | [`rate`] | [`Rate`]: bytes per second as people write them |
//! | [`sharing`] | who may have bytes that another caller's credentials opened |
//! | [`signature`](mod@signature) | query parameters that sign an address |
//! | [`recent`] | [`Recent`](recent::Recent): a map of limited weight that keeps what was used last |
//! | [`rendezvous`] | highest-random-weight choice among nodes |
//! | [`fault`] | [`Fault`] and [`Retry`]: whose fault an error is, whether asking again helps |
//! | [`clock`] | [`Moment`] and the [`Clock`] that is injected everywhere |

pub mod ahead;
pub mod clock;
pub mod digest;
pub mod fault;
pub mod id;
pub mod identity;
pub mod layer;
pub mod manifest;
pub mod piece;
pub mod place;
pub mod proof;
pub mod range;
pub mod rate;
pub mod recent;
pub mod rendezvous;
pub mod set;
pub mod sharing;
pub mod signature;
pub mod source;

pub use ahead::Ahead;
pub use clock::{Clock, Moment, SystemClock};
pub use digest::{Digest, DigestHasher};
pub use fault::{Blame, Blamed, Fault, Retry, in_full};
pub use id::{BlobId, NodeId};
pub use identity::{KeyError, NodeKey, PublicKey};
pub use layer::ExpandedLayer;
pub use manifest::{Manifest, PieceHash};
pub use piece::{PieceIndex, PieceLength};
pub use place::{Place, Tier};
pub use proof::{HashChain, LeadKey, Proof, Signer};
pub use range::ByteRange;
pub use rate::Rate;
pub use set::PieceSet;
pub use sharing::{Fetched, Shown};
pub use source::{Source, Version};
