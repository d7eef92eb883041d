//! Files that are opened before they have come: read-only FUSE mounts, of one file, of several, of an archive's members or of the layers of images,
//! whose reads wait for verified pieces.
//!
//! | file | what lives there |
//! |---|---|
//! | [`supply`] | where bytes come from: what a mount asks of an agent, in another process or in this one |
//! | [`file`](mod@file) | the file: reads that wait, with a limit; connections that come and go; content that turned out wrong |
//! | [`ahead`] | what to fetch ahead of readers, by their pattern |
//! | [`touches`] | what was read first, so that others have it before they ask |
//! | `asker` | whether the thread that waits for a read was killed |
//! | [`limits`] | how long a read waits, and how long a pause before the next try is |
//! | [`fill`](mod@fill) | when the rest is fetched |
//! | [`waits`] | who waits, of files that are read together |
//! | [`kept`] | which pieces of the file are known to be right, and which of them stay in the page cache |
//! | [`files`] | which files of the agent the bytes are in |
//! | [`session`] | the kernel's end: how a mount is made and unmounted |
//! | [`single`] | the kernel's end of one file |
//! | [`layers`] | the kernel's end of the layers of images: a directory that containerd looks into |
//! | `names` | names and inodes of that directory |
//! | [`tree`] | the kernel's end of a tree of files |
//! | [`set`] | several files as such a tree |
//! | [`archive`] | an archive's members as such a tree |
//! | [`erofs`] | a layer's file mounted |
//! | `read_ahead` | how far the kernel reads ahead in it |
//! | [`engines`] | how layers are read that engines mounted |
//! | [`mountinfo`] | the kernel's list of mounts |
//!
//! Decisions ([`ahead`], [`touches`], [`limits`], [`fill`](mod@fill), [`waits`], [`kept`], [`files`], [`mountinfo`], `names`) do no I/O and take the time as an argument.
//!
//! Invariant: a read is answered with all of its bytes, each verified when its piece came, or with EIO. Never with zeros that are not in the
//! content, never short. Later changes by a disk that rots are seen only where a piece is read without an agent ([`file`](mod@file)).
//!
//! Non-goals: which process keeps a mount, and which agent it asks (`darter`); what moves bytes (`darter-engine`).

pub mod ahead;
pub mod archive;
mod asker;
pub mod engines;
pub mod erofs;
pub mod file;
pub mod files;
pub mod fill;
pub mod kept;
pub mod layers;
pub mod limits;
pub mod mountinfo;
mod names;
mod read_ahead;
pub mod session;
pub mod set;
pub mod single;
pub mod supply;
pub mod touches;
pub mod tree;
pub mod waits;

pub use file::{Condition, MountedFile, Pages, Settings};
pub use fill::Fill;
pub use layers::{KeptFile, Layer, Layers, LayersDir};
pub use session::{Cache, MountError, Mounted, Opener};
pub use single::MountOptions;
pub use waits::Waits;
