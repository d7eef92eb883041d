//! Image layers as files that the kernel mounts as they are.
//!
//! A layer's tar goes in as it streams by, an EROFS file system comes out. The file is `[4 KiB with the superblock][tar][metadata]`: the
//! tar keeps its bytes and its place is known before its first byte, inodes point at file contents inside it, and only the metadata is new.
//! Nothing is stored twice, and no device table is needed, which some readers of EROFS refuse.
//!
//! | file | what lives there |
//! |---|---|
//! | [`expand`] | [`Expander`]: takes the tar, gives superblock and metadata |
//! | [`layer`] | [`LayerReader`]: a layer as registries store it (gzip, zstd, none) as a stream of tar bytes, both digests, and limits |
//! | [`compression`] | which compression a layer has, by its first bytes and by its media type |
//! | [`reason`] | [`Reason`]: why a tar can't be expressed |
//! | [`limits`] | what one layer may be |
//! | [`whole`] | the whole file, made of a layer and checked |
//! | [`inherited`](mod@inherited) | what directories that no member names have of the layers below |
//! | [`tar`] | members of a tar, whatever its format, and where their bytes are |
//! | `paths` | where paths through symbolic links lead |
//! | `tree` | what unpacking these members makes, as containerd does it |
//! | `chunks` | how a sparse file points at the tar |
//! | `erofs` | the format on the disk |
//!
//! Invariants: the same tar gives the same bytes on every machine, in chunks of whatever size it comes. A mounted layer is what containerd's
//! overlayfs snapshotter makes of it. Memory is bounded by [`limits`], whatever the tar says; file contents are never held, but for those blocks of
//! sparse files that can't be pointed at.
//!
//! Pure: no sockets, no files, no clock. Reading, storing and mounting are elsewhere.

// Under the name that the tests beside this directory know it by.
#[cfg(test)]
extern crate self as darter_image;

#[cfg(test)]
#[path = "../tests/support/mod.rs"]
mod building;
mod chunks;
pub mod compression;
mod erofs;
pub mod expand;
pub mod inherited;
pub mod layer;
pub mod limits;
mod paths;
pub mod reason;
pub mod tar;
mod tree;
pub mod whole;

pub use compression::Compression;
pub use erofs::{FORMAT, TAR_START, metadata_start};
pub use expand::{Expanded, Expander};
pub use inherited::{Inherited, LayerDirectories, Unsound, inherited};
pub use layer::{LayerDigests, LayerError, LayerReader};
pub use reason::Reason;
pub use whole::{NotExpanded, check_expanded, expand_layer, metadata_at};
